"""The command line: arguments to a command, its end to an exit status and a message.

Owns parsing, dispatch and the last word on every error. Knows no command's work. Imports
little, since `--help` and `--version` pay for it.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import gc
import os
import select
import sys
from functools import partial
from importlib import import_module
from io import StringIO, TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TextIO

from fetcher import __version__, signals
from fetcher.commands import COMMANDS, Command, Environment
from fetcher.configuration.kinds import Option, quoted
from fetcher.configuration.options import BY_FIELD, OPTIONS, accepted_by, accepts
from fetcher.configuration.values import is_utf8, nearest
from fetcher.errors import FetcherError, StorageError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

EXIT_DONE, EXIT_USAGE, EXIT_FAULT, EXIT_INTERRUPTED = 0, 2, 70, 130
MOST_VERBOSE = 3


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line (without the program's name) in this process; return its status."""
    env = this_environment()
    status = run(sys.argv[1:] if argv is None else argv, env)
    _let_go_of_broken(env.stdout)
    _let_go_of_broken(env.stderr)
    return status


def this_environment() -> Environment:
    """Return what this process offers: its streams, made safe for any text, and folder."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # names in a locale that cannot write them
            stream.reconfigure(errors="backslashreplace")
    try:
        cwd = Path.cwd()
    except OSError:  # the folder was removed; absolute paths still work
        cwd = Path()
    nowhere = StringIO()  # for a stream that was closed before the start
    return Environment(sys.stdout or nowhere, sys.stderr or nowhere, os.environ, cwd)


def run(argv: Sequence[str], env: Environment) -> int:
    """Run a command line in `env`; return its exit status (contract 1). Raises nothing."""
    args = argparse.Namespace()
    try:
        args = parse(argv)
        status = _dispatch(args, env)
        env.stdout.flush()
    except FetcherError as error:
        env.tell(f"fetcher: error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        env.tell("fetcher: interrupted")
        return EXIT_INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the last resort: nothing else may end a run
        return _end(error, args, env)
    return status


# ---- arguments ---------------------------------------------------------------------------


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return what was typed: `command` ("" for none), `words`, `help`, `version`, and options.

    Options that were not given are absent; the others are read and stand under their field.
    They may stand before and after the command. Raises UsageError.
    """
    typed, unknown = _parse(argv)
    name, words = (typed.words[0], typed.words[1:]) if typed.words else ("", [])
    command = COMMANDS.get(name)
    for word in unknown:
        if word.startswith("-"):
            raise UsageError(_unknown_option(word, command))
    if name and command is None:
        hint = nearest(name, COMMANDS) or "; `fetcher --help` lists them"
        raise UsageError(f"unknown command {quoted(name)}{hint}")
    args = argparse.Namespace(
        command=name, words=[*words, *unknown], help=typed.help, version=typed.version
    )
    for field, option in BY_FIELD.items():
        if hasattr(typed, field):
            _check_belongs(option, command)
            value = (
                min(typed.verbose, MOST_VERBOSE) if field == "verbose" else getattr(typed, field)
            )
            setattr(args, field, option.read(value, option.flag))
    for word in args.words:
        if not is_utf8(word):
            raise UsageError(f"{quoted(word)} is no UTF-8 text: write it in UTF-8")
    if command:
        _check_words(command, args.words)
    return args


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def _parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    try:
        return _parser().parse_known_intermixed_args(list(argv))
    except argparse.ArgumentError as error:
        name = (error.argument_name or "").partition("/")[0]  # its long form stands first
        option = BY_FIELD.get(name.removeprefix("--no-").removeprefix("--").replace("-", "_"))
        if option and option.takes_value and not name.startswith("--no-"):
            raise UsageError(f"{name} needs a value: {name} {option.kind.metavar}") from None
        raise UsageError(f"{name} takes no value") from None


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        "fetcher",
        formatter_class=partial(argparse.HelpFormatter, width=80),  # asks no terminal, 5 ms
        add_help=False,
        allow_abbrev=False,
        exit_on_error=False,
    )
    parser.add_argument("words", nargs="*", default=[])
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("--version", action="store_true")
    for option in OPTIONS:
        flags = [option.flag, *([f"-{option.short}"] if option.short else [])]
        if option.takes_value:
            how = "append" if option.repeatable else "store"
        else:
            how = "store_true" if option.is_switch else "count"
        parser.add_argument(*flags, dest=option.field, action=how, default=argparse.SUPPRESS)
        if option.is_switch:
            parser.add_argument(
                f"--no-{option.name}",
                dest=option.field,
                action="store_false",
                default=argparse.SUPPRESS,
            )
    return parser


def _unknown_option(word: str, command: Command | None) -> str:
    name = word.partition("=")[0]
    if name in ("--api-key", "--key"):  # what follows is a key: it is not repeated
        return (
            "there is no option that takes the key itself, it would show in `ps` and in the"
            " shell's history: set MUNSIT_API_KEY, or use --api-key-file"
        )
    taken = accepted_by(command.name, bare=command.bare) if command else OPTIONS
    known = [o.flag for o in taken] + [f"--no-{o.name}" for o in taken if o.is_switch]
    see = f"fetcher {command.name} --help" if command else "fetcher --help"
    return f"unknown option {quoted(name)}{nearest(name, known) or f'; `{see}` lists them'}"


def _check_belongs(option: Option, command: Command | None) -> None:
    if command is None or accepts(command.name, option, bare=command.bare):
        return
    if option.own:
        theirs = f"it belongs to `fetcher {option.commands[0]}`"
    else:
        theirs = f"`fetcher {command.name} --help` lists what it takes"
    raise UsageError(f"`fetcher {command.name}` takes no {option.flag}: {theirs}")


def _check_words(command: Command, words: Sequence[str]) -> None:
    if command.most_words is not None and len(words) > command.most_words:
        raise UsageError(
            f"`fetcher {command.name}` does not take {quoted(words[command.most_words])}:"
            f" `fetcher {command.name} --help` shows how to use it"
        )


# ---- dispatch and endings ----------------------------------------------------------------


def _dispatch(args: argparse.Namespace, env: Environment) -> int:
    command = COMMANDS.get(args.command)
    if command is None or not command.is_run or args.version or args.help:
        signals.release()
        gc.enable()  # a run does that once it has imported what it needs
    if args.version:
        env.stdout.write(f"fetcher {__version__}\n")
        return EXIT_DONE
    if args.help or not args.command:
        return _help(args, env)
    run_command: Callable[[argparse.Namespace, Environment], int]
    run_command = import_module(COMMANDS[args.command].module).run
    return run_command(args, env)


def _help(args: argparse.Namespace, env: Environment) -> int:
    from fetcher.commands import help as pages  # noqa: PLC0415 - only help pays

    if args.help:
        topic = argparse.Namespace(words=[args.command] if args.command else [])
        return pages.run(topic, env)
    # Nothing was asked for, so nothing goes to stdout and the status says that it was no use.
    for line in pages.brief().splitlines():
        env.tell(line)
    return EXIT_USAGE


def _end(error: Exception, args: argparse.Namespace, env: Environment) -> int:
    """Return the status for what no command expected, after saying what it was."""
    if isinstance(error, BrokenPipeError) and _has_no_reader(env.stdout):
        return EXIT_DONE  # the reader of stdout has seen enough, as `head` does
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        env.tell(f"fetcher: error: cannot write: {error.strerror}; make room and run it again")
        return StorageError.exit_code
    where: Path | None = None
    with contextlib.suppress(Exception):  # not even this one may keep the message back
        from fetcher.commands.fault import record  # noqa: PLC0415 - only a fault pays for it

        where = record(error, args, env)
    kept = f"; {where} says where" if where else ""
    env.tell(f"fetcher: error: a fault in fetcher itself ({type(error).__name__}){kept}")
    return EXIT_FAULT


def _has_no_reader(stream: TextIO) -> bool:
    """Return whether `stream` is a pipe that nobody reads: no other broken pipe is harmless."""
    if _is_broken(stream):
        return True
    try:  # an unbuffered stream has nothing left to flush
        poll = select.poll()
        poll.register(stream, select.POLLOUT)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    except (AttributeError, OSError, ValueError):  # not on every platform, not on every stream
        return False


def _is_broken(stream: TextIO) -> bool:
    """Return whether what is still to be written cannot be."""
    try:
        stream.flush()
    except (OSError, ValueError):
        return True
    return False


def _let_go_of_broken(stream: TextIO) -> None:
    """Send what cannot be written to nowhere, or the interpreter's end would complain."""
    if _is_broken(stream):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
