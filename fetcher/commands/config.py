"""`fetcher config`: each setting and where it came from; `--init` writes a commented file.

Owns how settings are shown. The key is never shown, only whether and where it is set.
"""

from __future__ import annotations

import json
from textwrap import wrap
from typing import TYPE_CHECKING

from fetcher.configuration.options import GROUPS, OPTIONS
from fetcher.configuration.sources import FILE_NAME, NOT_IN_FILE
from fetcher.core.text import printable, width
from fetcher.errors import StorageError, UsageError

if TYPE_CHECKING:
    from argparse import Namespace
    from pathlib import Path

    from fetcher.commands import Environment
    from fetcher.configuration.config import Resolved
    from fetcher.configuration.kinds import Option

_HEAD = """\
# Settings of fetcher. Each line shows an option's default, or an example where it has none;
# take the `#` away to set it. Flags and FETCHER_ variables win over this file.
# The API key has no place here: write it to a file of its own and name that below.
"""
_TAIL = """
# Several accounts or destinations: `fetcher --profile work backfill` takes these above the rest.
# [profile.work]
# dest = "~/work"
# api-key-file = "~/work.key"
"""


def run(args: Namespace, env: Environment) -> int:
    """Show the settings, or write a file of them."""
    if getattr(args, "init", False):
        if env.given("dry_run", args):
            raise UsageError(
                "`fetcher config --init` is no dry run, it writes: leave out --dry-run or"
                " FETCHER_DRY_RUN; `fetcher config` shows the settings"
            )
        path = _named(args, env)
        _create(path)
        env.stdout.write(f"wrote {printable(str(path))}\n")
        return 0
    found = env.resolve(args)
    rows = list(_rows(found))
    env.stdout.write(_as_json(rows) if found.value("json_output", bool) else _as_table(rows))
    for notice in found.notices:
        env.tell(f"fetcher: note: {notice}")
    return 0


def _rows(found: Resolved) -> list[tuple[str, str, str]]:
    """Return option, value and source; another command's own options only where they are set."""
    place = found.key_origin.place if found.key_origin else ""
    rows = [("api-key", "set" if found.key_origin else "not set", place)]
    for option in OPTIONS:
        origin = found.origins[option.field]
        if option.flag_only or (option.own and origin.is_default):
            continue
        value = option.show(found.values[option.field]) or option.default_text or "none"
        if option.name == "config":
            value = str(found.file or "none")
        rows.append((option.name, value, "default" if origin.is_default else origin.place))
    return rows


def _as_json(rows: list[tuple[str, str, str]]) -> str:
    lines = (
        json.dumps({"option": name, "value": value, "source": source}, ensure_ascii=False)
        for name, value, source in rows
    )
    return "".join(f"{line}\n" for line in lines)


def _as_table(rows: list[tuple[str, str, str]]) -> str:
    names = max(len(name) for name, _, _ in rows)
    shown = [(name, printable(value), printable(source)) for name, value, source in rows]
    values = min(max(width(value) for _, value, _ in shown), 60)
    lines = (
        f"{name:{names}}  {value}{' ' * max(values - width(value), 0)}  {source}".rstrip()
        for name, value, source in shown
    )
    return "".join(f"{line}\n" for line in lines)


# ---- --init ------------------------------------------------------------------------------


def _named(args: Namespace, env: Environment) -> Path:
    """Return the file that other commands would read, once it is there.

    No file is read for that: this one may stand there and hold anything.
    """
    return env.cwd / str(env.given("config", args) or FILE_NAME)


def commented_file() -> str:
    """Return a settings file with every option, explained and commented out.

    Without those that one command has for itself: set for good, `refresh` or `repair` would
    only surprise.
    """
    lines = [_HEAD]
    for group in GROUPS:
        options = [o for o in OPTIONS if o.group == group and not o.own]
        options = [o for o in options if o.name not in NOT_IN_FILE]
        if options:
            lines.append(f"\n# ---- {group} ----\n")
        for option in options:
            lines += [
                f"# {line}\n" for line in wrap(f"{option.help[0].upper()}{option.help[1:]}.", 96)
            ]
            lines.append(f"# {option.name} = {_toml(option)}\n\n")
    return "".join(lines).rstrip("\n") + "\n" + _TAIL


def _toml(option: Option) -> str:
    default = option.default
    if isinstance(default, bool):
        return "true" if default else "false"
    text = option.show(default) or option.kind.example
    if text.replace(".", "").isdigit():
        return text
    return json.dumps([text] if option.repeatable else text)


def _create(path: Path) -> None:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(commented_file())
    except FileExistsError:
        raise UsageError(
            f"{path} is already there and is not overwritten: remove it, or name another file"
            " with --config"
        ) from None
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from None
