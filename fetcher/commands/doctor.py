"""`fetcher doctor`: what is right, what is wrong, and what to do about it.

Owns how findings are shown; what is looked at is `checkup`'s matter.
"""

from __future__ import annotations

from argparse import Namespace
from textwrap import wrap
from typing import TYPE_CHECKING

from fetcher.checkup.configuration import read_settings
from fetcher.checkup.examination import Circumstances, examine
from fetcher.checkup.findings import Level, verdict
from fetcher.commands.fault import record
from fetcher.commands.reading import now, put
from fetcher.configuration.tables import Screen
from fetcher.report.jsonl import dumps, timestamp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from fetcher.checkup.findings import Finding
    from fetcher.commands import Environment
    from fetcher.configuration.config import Resolved

_COLOURS = {Level.OK: "good", Level.WARNING: "odd", Level.PROBLEM: "bad"}
_LEVEL_COLUMNS, _CHECK_COLUMNS = 9, 14
_NARROW = 60  # columns below which what was found stands under its check
_INDENT = "  "


def run(args: Namespace, env: Environment) -> int:
    """Look at everything and tell of it as it is found; return the worst finding's status."""
    reading = read_settings(
        lambda flags, environ: env._replace(environ=environ).resolve(Namespace(**flags)),
        vars(args),
        env.environ,
    )
    about = Circumstances(
        env.environ, env.stdout, env.stderr, record=lambda error: record(error, args, env)
    )
    show = _shower(reading.resolved, env)
    findings = []
    for finding in examine(reading, about):
        findings.append(finding)
        env.stdout.writelines(f"{line}\n" for line in show(finding))
        env.stdout.flush()
    resolved = reading.resolved
    if not (resolved.value("json_output", bool) or resolved.value("quiet", bool)):
        env.stdout.write(f"{_summary(findings)}\n")
    return verdict(findings)


def _shower(resolved: Resolved, env: Environment) -> Callable[[Finding], Iterable[str]]:
    """Return what turns a finding into the lines to be shown of it."""
    if resolved.value("json_output", bool):
        put((), env.stdout)  # what programs read is UTF-8 whatever the locale
        return lambda finding: [_as_json(finding)]
    screen = Screen.of(env.stdout, env.environ)
    if resolved.value("quiet", bool):
        return lambda finding: () if finding.level is Level.OK else _lines(finding, screen)
    return lambda finding: _lines(finding, screen)


def _as_json(finding: Finding) -> str:
    return dumps(
        {
            "event": "doctor.finding",
            "time": timestamp(now()),
            "check": finding.check,
            "level": str(finding.level),
            "found": finding.found,
            "cure": finding.cure or None,
            "exit_code": finding.exit_code,
        }
    )


def _lines(finding: Finding, screen: Screen) -> Iterator[str]:
    """Yield a finding as a person reads it: level, check, what was found; below, the cure."""
    level = screen.paint(f"{finding.level:<{_LEVEL_COLUMNS}}", _COLOURS[finding.level])
    head = f"{level}{finding.check:<{_CHECK_COLUMNS}}"
    margin = " " * (_LEVEL_COLUMNS + _CHECK_COLUMNS)
    if screen.columns is not None and screen.columns < _NARROW:
        yield head.rstrip()
        margin, head = _INDENT, _INDENT
    first, *others = _wrapped(finding.found, screen, len(margin))
    yield f"{head}{first}"
    yield from (f"{margin}{line}" for line in others)
    if finding.cure:
        first, *others = _wrapped(finding.cure, screen, len(margin) + 3)
        yield f"{margin}-> {first}"
        yield from (f"{margin}   {line}" for line in others)


def _wrapped(text: str, screen: Screen, margin: int) -> list[str]:
    """Return text in lines that fit beside a margin; one line where there is no edge."""
    shown = screen.safe(text)
    if screen.columns is None:
        return [shown]
    room = max(screen.columns - margin, 12)
    lines = wrap(shown, room, break_long_words=False, break_on_hyphens=False)
    return [screen.quote(line) for line in lines] or [""]


def _summary(findings: Sequence[Finding]) -> str:
    problems = sum(one.level is Level.PROBLEM for one in findings)
    warnings = sum(one.level is Level.WARNING for one in findings)
    if not problems and not warnings:
        return "all is well"
    counts = [(problems, "problem"), (warnings, "warning")]
    said = [f"{count} {word}{'' if count == 1 else 's'}" for count, word in counts if count]
    return f"{', '.join(said)}: what to do stands behind each ->"
