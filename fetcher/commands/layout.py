"""`fetcher layout`: where the known jobs go with a template; `--apply` moves files there.

Owns the choice of the template, what is shown, and signals. Without `--apply` it only
looks: no lock is taken and nothing is made.
"""

from __future__ import annotations

import os
import signal
from argparse import Namespace
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fetcher.commands.reading import destination_of, now, put, tell_notices
from fetcher.configuration.tables import Screen
from fetcher.core.layout import Template
from fetcher.errors import FetcherError, StorageError, UsageError
from fetcher.files.places import Places
from fetcher.manifest import schema
from fetcher.manifest.reader import Reader
from fetcher.relayout.steps import Kind, Plan, Step
from fetcher.report.jsonl import dumps, timestamp
from fetcher.report.units import human_count

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fetcher.commands import Environment
    from fetcher.configuration.config import Resolved
    from fetcher.runs.destination import Destination

_EXIT_BLOCKED = 1
_SIGNALLED = 128  # and the signal's number, as shells say it
_WORDS = {
    Kind.MOVED: "moved",
    Kind.MOVES: "would move",
    Kind.FOUND: "in the new place already",
    Kind.STAYS: "where it belongs",
    Kind.LATER: "not fetched yet",
    Kind.MISSING: "not there",
    Kind.BLOCKED: "cannot be moved",
}
_LOUD = frozenset({Kind.MISSING, Kind.BLOCKED})


def run(args: Namespace, env: Environment) -> int:
    """Show or do what the template asks for; return the exit status."""
    found = env.resolve(args)
    template = _template(args, found)
    tell_notices(found, env)
    destination = destination_of(found)
    teller = _Teller(found, env)
    if not found.value("apply", bool) or found.value("dry_run", bool):
        with Reader(destination.manifest) as reader:
            for step in Plan(reader, Places(destination.root), template).steps():
                teller.tell(step)
        teller.close(0)
        return 0
    exit_code = _apply(destination, template, teller, wait_s=found.value("wait_lock", float))
    teller.close(exit_code)
    _remind(args, template, env)
    return exit_code


def _template(args: Namespace, found: Resolved) -> Template:
    """Return the one template that is meant. Raises UsageError."""
    check = found.optional("check", str)
    if check is not None and found.value("apply", bool):
        raise UsageError("--check and --apply exclude each other: use one")
    given = [text for text in (check, *args.words, getattr(args, "output", None)) if text]
    if len(given) > 1:
        raise UsageError("several templates are given: write one")
    if given:
        return Template.parse(given[0])
    try:
        return Template.parse(found.value("output", str))
    except UsageError as error:
        raise UsageError(f"{found.origins['output'].place}: {error}") from None


def _remind(args: Namespace, template: Template, env: Environment) -> None:
    """Tell where new files go, where that is not where the old ones are now."""
    others = {name: value for name, value in vars(args).items() if name != "output"}
    usual = env.resolve(Namespace(**others)).value("output", str)
    if usual != template.text:
        env.tell(
            f"fetcher: note: new files still go to {Screen().quote(usual)}; to keep them "
            "together, set output in fetcher.toml to the template that was applied"
        )


# ---- moving ------------------------------------------------------------------------------


def _apply(destination: Destination, template: Template, teller: _Teller, *, wait_s: float) -> int:
    """Move what has to move; return the exit status. Raises LockedError, StorageError."""
    from fetcher.relayout.moves import carry_out  # noqa: PLC0415 - looking needs nothing of it

    if not schema.exists(destination.manifest):
        return 0
    if not destination.root.is_dir():
        raise StorageError(f"{destination.root} is not there: nothing can be moved in it")
    destination.prepare()
    with destination.held(command="layout --apply", wait_s=wait_s), _signals() as stopped:
        try:
            is_done = carry_out(destination, template, teller.tell, lambda: bool(stopped))
        except FetcherError as error:
            teller.close(error.exit_code)
            raise
    if not is_done:
        return _SIGNALLED + stopped[0]
    return _EXIT_BLOCKED if teller.counts[Kind.BLOCKED] else 0


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Give a list that SIGINT and SIGTERM go into; a second SIGINT ends the process at once."""
    stopped: list[int] = []

    def note(number: int, _: object) -> None:
        if stopped and number == signal.SIGINT:
            os._exit(_SIGNALLED + number)
        stopped.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# ---- what is shown -----------------------------------------------------------------------


class _Teller:
    """Tells of each file as it comes, and of all of them at the end."""

    def __init__(self, found: Resolved, env: Environment) -> None:
        self.counts: Counter[Kind] = Counter()
        self._whole_ids = 0
        self._out = env.stdout
        self._as_json = found.value("json_output", bool)
        self._is_quiet = found.value("quiet", bool)
        self._screen = Screen.of(env.stdout, env.environ)
        if self._as_json:
            put((), env.stdout)  # what programs read is UTF-8 whatever the locale

    def tell(self, step: Step) -> None:
        """Count a file, and show it unless it stays."""
        self.counts[step.kind] += 1
        self._whole_ids += step.is_whole
        if step.kind is Kind.STAYS:
            return
        if self._as_json:
            self._out.write(f"{dumps(_facts(step))}\n")
        elif step.kind in _LOUD or (not self._is_quiet and step.new_path):
            self._out.write(f"{self._line(step)}\n")

    def close(self, exit_code: int) -> None:
        """Show what became of all of them."""
        if self._as_json:
            counts = {str(kind): self.counts[kind] for kind in Kind}
            head = {"event": "layout.completed", "time": timestamp(now())}
            said = head | counts | {"whole_ids": self._whole_ids, "exit_code": exit_code}
            self._out.write(f"{dumps(said)}\n")
        elif not self._is_quiet:
            self._out.write(f"{self._summary()}\n")

    def _line(self, step: Step) -> str:
        quote, paint = self._screen.quote, self._screen.paint
        old = quote(step.entry.path) if step.entry.path else paint("(not fetched yet)", "dim")
        if step.kind in _LOUD:
            return f"{old}: {paint(quote(step.reason or _WORDS[step.kind]), 'bad')}"
        remark = f" ({quote(step.reason)})" if step.reason else ""
        return f"{old} -> {quote(step.new_path or '')}{remark}"

    def _summary(self) -> str:
        said = [
            f"{human_count(self.counts[kind])} {words}"
            for kind, words in _WORDS.items()
            if self.counts[kind]
        ]
        if not said:
            return "no job with a file is known here"
        whole = f"; {human_count(self._whole_ids)} with the whole id" if self._whole_ids else ""
        hint = "; --apply moves them" if self.counts[Kind.MOVES] else ""
        return f"{', '.join(said)}{whole}{hint}"


def _facts(step: Step) -> dict[str, Any]:
    entry = step.entry
    return {
        "event": "layout.file",
        "time": timestamp(now()),
        "id": entry.job.id,
        "file_name": entry.job.file_name,
        "variant": str(entry.variant),
        "action": str(step.kind),
        "path": entry.path,
        "new_path": step.new_path,
        "reason": step.reason or None,
    }
