"""The commands of fetcher: what each is for, where it lives, and what it gets from outside.

Owns the table behind dispatch, help, completion and the manual, and `Environment`, the
only way in which a command meets the process. Light: a command's module is imported when
it is called for.

A command's module has `run(args, env) -> int`: it returns the exit status, writes to
`env.stdout` what was asked for, tells everything else on stderr, and raises FetcherError.
`args` holds, by field, the options that were given as flags, and `words`, what else stood
on the command line.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, NamedTuple, TextIO

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Mapping
    from pathlib import Path

    from fetcher.configuration.config import Resolved
    from fetcher.configuration.settings import Settings


class Environment(NamedTuple):
    """What a command meets of the process; tests make their own."""

    stdout: TextIO
    stderr: TextIO
    environ: Mapping[str, str]
    cwd: Path
    user_config_dir: Path | None = None

    def resolve(self, args: Namespace) -> Resolved:
        """Return every option's value for a light command. Raises UsageError."""
        from fetcher.configuration.config import resolve  # noqa: PLC0415 - not on the path of --help

        return resolve(vars(args), self.environ, cwd=self.cwd, user_config_dir=self.user_config_dir)

    def load(self, args: Namespace) -> tuple[Settings, Resolved]:
        """Return the settings of a run, and where they came from. Raises UsageError."""
        found = self.resolve(args)
        return found.settings(), found

    def given(self, field: str, args: Namespace) -> object:
        """Return an option's value where flag or environment give one, else None.

        Raises UsageError where the environment's is no good.
        """
        from fetcher.configuration.options import BY_FIELD  # noqa: PLC0415 - as in `resolve`

        option = BY_FIELD[field]
        value: object = getattr(args, field, None)
        text = self.environ.get(option.environment, "")
        return option.read(text, option.environment) if value is None and text.strip() else value

    def tell(self, line: str) -> None:
        """Write one line to stderr, safe for a terminal; one that is gone or full stops nothing."""
        from fetcher.core.text import printable  # noqa: PLC0415 - not every start has to tell

        with contextlib.suppress(OSError, ValueError):
            self.stderr.write(f"{printable(line)}\n")
            self.stderr.flush()


class Command(NamedTuple):
    """One command.

    `words`: what may follow it that is no option, as help shows it; `most_words`: how many
    (None: any number). `bare`: takes its own options only, reads no settings. `is_run`:
    always ends in a run in the foreground, which acts on the signals that came before.
    """

    name: str
    summary: str
    examples: tuple[tuple[str, str], ...]
    group: str
    details: str = ""
    words: str = ""
    most_words: int | None = 0
    bare: bool = False
    is_run: bool = False

    @property
    def module(self) -> str:
        """The module that has its `run`."""
        return f"fetcher.commands.{self.name}"


_FETCH, _LOOK, _MEND, _TRY, _SET = (
    "Bring results home",
    "See what is there",
    "Put right what went wrong",
    "Try it without an account",
    "Set it up",
)

_TABLE = (
    Command(
        "backfill",
        "download every finished job that is not here yet, then exit",
        (
            ("fetcher backfill -d ~/Clean", "everything, into ~/Clean"),
            ("fetcher backfill --since 7d --dry-run", "what the last week would bring"),
        ),
        _FETCH,
        "Lists the whole history and downloads each finished job once. Run it as often as you"
        " like: what is already here is not fetched again, and what was cut goes on from where"
        " it stopped.",
        is_run=True,
    ),
    Command(
        "watch",
        "keep running: show pending jobs live, download each as it finishes",
        (
            ("fetcher watch", "until Ctrl-C"),
            ("fetcher watch --until-idle && next-step", "until the last job is home"),
        ),
        _FETCH,
        "Polls the history, follows the jobs that are being processed, and downloads each one"
        " when it is done. Outages are waited out.",
        is_run=True,
    ),
    Command(
        "list",
        "the history with what is on disk, newest first",
        (
            ("fetcher list --state failed", "what could not be downloaded"),
            ("fetcher list --refresh --since 7d", "the last week, polled now"),
        ),
        _LOOK,
        "Reads the manifest; --refresh polls the API first.",
    ),
    Command(
        "status",
        "one screen: counts, bytes, last poll, failures and their reasons",
        (
            ("fetcher status", "how things stand"),
            ("fetcher status --max-age 10m", "for a monitor: fails if no poll succeeded lately"),
        ),
        _LOOK,
        "With --max-age it ends with 1 where the last good poll, of a watch or a backfill, is"
        " older, or where there was none yet.",
    ),
    Command(
        "export",
        "the manifest as JSON, CSV and the like on stdout",
        (
            ("fetcher export --format csv > jobs.csv", "a spreadsheet of everything"),
            ("fetcher export --format kaldi --to data/clean", "a Kaldi data folder"),
        ),
        _LOOK,
        "json, jsonl and csv hold every file known, originals as entries of their own; csv puts"
        " a ' before text that a spreadsheet would take for a formula. For speech work, what is"
        " complete: nemo, a manifest that pairs clean and noisy files where --originals was"
        " used; kaldi, the files of a data folder in --to, original.scp for the pairs;"
        " audiofolder, the metadata.csv of a Hugging Face data set, which belongs into DEST or"
        " above it. No file is replaced.",
    ),
    Command(
        "verify",
        "check the files on disk against the manifest",
        (
            ("fetcher verify", "size and SHA-256 of every file"),
            ("fetcher verify --repair", "and download again what is missing or damaged"),
        ),
        _MEND,
        "Names each file that is missing, damaged, or has something foreign in its place, and"
        " ends with 1 where there is one. With --repair a damaged file stays until its"
        " successor is whole; a folder or a link in the way stays for good, and the file gets"
        " its whole id in its name.",
        is_run=True,
    ),
    Command(
        "retry",
        "make downloads that were given up eligible at once",
        (
            ("fetcher retry", "all of them"),
            ("fetcher retry 0b5e2f9a", "one, by its id or the start of it"),
        ),
        _MEND,
        "A running watch takes them up at once; every backfill tries them again by itself.",
        words="[ID ...]",
        most_words=None,
    ),
    Command(
        "doctor",
        "check key, API, destination, space and clock; say what to do",
        (("fetcher doctor", "why does it not work?"),),
        _MEND,
    ),
    Command(
        "demo",
        "the main job against a simulator, with real audio",
        (("fetcher demo", "some seconds, no account needed"),),
        _TRY,
        is_run=True,
    ),
    Command(
        "simulate",
        "serve the simulator of the API and its file host",
        (("fetcher simulate --port 8080", "then: fetcher backfill --api-url http://..."),),
        _TRY,
        "Prints one line with the API's address and serves until Ctrl-C. Any key is right.",
        bare=True,
    ),
    Command(
        "config",
        "each setting, its value and where it came from",
        (
            ("fetcher config", "what a run would use"),
            ("fetcher config --init", "write a commented fetcher.toml here"),
        ),
        _SET,
    ),
    Command(
        "layout",
        "try an --output template on the known jobs, or move files to it",
        (
            ("fetcher layout --check '{created:%Y}/{stem}.{id}{ext}'", "where files would go"),
            ("fetcher layout --apply", "move them to where --output says"),
        ),
        _SET,
        "Without --apply nothing is moved. With it each complete file is renamed, never over"
        " another one, and its record with it; folders that are then empty go. New files go where"
        " --output of the settings says.",
        words="[TEMPLATE]",
        most_words=1,
    ),
    Command(
        "completion",
        "a script that completes commands and options in your shell",
        (("fetcher completion bash > ~/.local/share/bash-completion/completions/fetcher", "bash"),),
        _SET,
        words="bash|zsh|fish",
        most_words=1,
        bare=True,
    ),
    Command(
        "man",
        "this manual as a man page",
        (("fetcher man > ~/.local/share/man/man1/fetcher.1", "then: man fetcher"),),
        _SET,
        bare=True,
    ),
    Command(
        "help",
        "the help of a command",
        (("fetcher help backfill", "the same as: fetcher backfill --help"),),
        _SET,
        words="[COMMAND]",
        most_words=1,
        bare=True,
    ),
)

COMMANDS = {command.name: command for command in _TABLE}
COMMAND_GROUPS = tuple(dict.fromkeys(command.group for command in _TABLE))
