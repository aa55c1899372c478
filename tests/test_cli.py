"""The command line: what is typed, where it leads, and how everything ends."""

from __future__ import annotations

import argparse
import errno
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, TextIO, cast

import pytest

from fetcher import __version__, errors
from fetcher.cli import main, parse, run
from fetcher.commands import COMMANDS, Environment
from fetcher.commands.config import commented_file
from fetcher.commands.help import overview, page
from fetcher.commands.man import man_page
from fetcher.configuration.config import resolve
from fetcher.configuration.options import OPTIONS, shown_by
from fetcher.configuration.sources import NOT_IN_FILE
from fetcher.errors import UsageError
from fetcher.files.locks import held
from fetcher.manifest import schema

if TYPE_CHECKING:
    from types import ModuleType

KEY = "k3y-that-must-not-show"
ROOT = Path(__file__).parents[1]


class Terminal:
    """An environment to run commands in, and what they wrote."""

    def __init__(self, folder: Path) -> None:
        (folder / "user").mkdir()
        self.out, self.err = StringIO(), StringIO()
        self.env = Environment(self.out, self.err, {}, folder, folder / "user")

    def run(self, *argv: str, **environ: str) -> int:
        return run(argv, self.env._replace(environ=environ))


@pytest.fixture
def terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Terminal:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))  # where faults are recorded
    return Terminal(tmp_path)


Run = Callable[[argparse.Namespace, Environment], int]


@pytest.fixture
def status_runs(monkeypatch: pytest.MonkeyPatch) -> Callable[[Run], None]:
    """Return what puts a function in the place of `fetcher status`."""

    def put(run_status: Run) -> None:
        module = cast("ModuleType", SimpleNamespace(run=run_status))
        monkeypatch.setitem(sys.modules, "fetcher.commands.status", module)

    return put


def in_process(*argv: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fetcher", *argv],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


# ---- what is typed -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "typed",
    [
        "backfill -d x --retries 3 -qvv --no-live --match a --match=b",
        "-d x --retries=3 -q backfill -v -v --no-live --match=a --match=b",
        "-dx --retries 3 --match a --no-live --match b -vqv backfill",
    ],
)
def test_options_may_stand_before_and_after_the_command(typed: str) -> None:
    expected = argparse.Namespace(
        command="backfill",
        words=[],
        help=False,
        version=False,
        dest=Path("x"),
        retries=3,
        quiet=True,
        verbose=2,
        live=False,
        match=("a", "b"),
    )

    assert parse(typed.split()) == expected


def test_words_may_stand_anywhere_after_the_command() -> None:
    assert parse(["retry", "one", "-d", "x", "two"]).words == ["one", "two"]


def test_the_last_of_two_values_counts() -> None:
    assert parse(["backfill", "-j", "2", "--concurrency", "3"]).concurrency == 3


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["bakfill"], "unknown command 'bakfill'; did you mean backfill?"),
        (["frobnicate"], "`fetcher --help` lists them"),
        (["backfill", "--concurency", "3"], "'--concurency'; did you mean --concurrency?"),
        (["--conf", "x", "backfill"], "'--conf'; did you mean --config?"),
        (["backfill", "--dest-dir=x"], "unknown option '--dest-dir'"),
        (["backfill", "--conc", "3"], "unknown option '--conc'"),
        (["backfill", "--no-concurrency"], "; did you mean --concurrency?"),
        (["backfill", "--no-liv"], "; did you mean --no-live?"),
        (["backfill", "--munsit-api-key"], "; did you mean --api-key-file?"),
        (["backfill", "-z"], "unknown option '-z'; `fetcher backfill --help` lists them"),
        (["backfill", "--retries"], "--retries needs a value: --retries N"),
        (["backfill", "-j"], "--concurrency needs a value"),
        (["backfill", "--json=1"], "--json takes no value"),
        (["backfill", "--no-live=1"], "--no-live takes no value"),
        (["backfill", "-j", "x"], "--concurrency: 'x' is no whole number"),
        (["backfill", "--retries", "-1"], "--retries: '-1'"),
        (["backfill", "extra"], "does not take 'extra'"),
        (["completion", "bash", "zsh"], "does not take 'zsh'"),
        (["status", "--repair"], "it belongs to `fetcher verify`"),
        (["simulate", "-d", "x"], "takes no --dest"),
        (["backfill", "--since", "whenever"], "--since: 'whenever'"),
        (["backfill", "--exec", "'x"], "--exec: "),
        (["\x1b[31m"], "unknown command '\ufffd[31m'"),
        (["backfill", "--match", "\udcff*"], "--match: '\ufffd*' is no UTF-8 text"),
        (["backfill", "--output", "\udcff{id}"], "--output: '\ufffd{id}' is no UTF-8 text"),
        (["backfill", "--profile", "\udcff"], "--profile: '\ufffd' is no UTF-8 text"),
        (["backfill", "--ping-url", "http://h/\udcff"], "--ping-url: "),
        (["backfill", "--api-url", "https://h/\udcff"], "--api-url: "),
        (["list", "--state", "\udcff"], "--state: "),
        (["layout", "--check", "\udcff{id}"], "--check: '\ufffd{id}' is no UTF-8 text"),
        (["layout", "\udcff{id}"], "'\ufffd{id}' is no UTF-8 text"),
        (["retry", "\udcff"], "'\ufffd' is no UTF-8 text"),
        (["help", "\udcff"], "'\ufffd' is no UTF-8 text"),
        (["\udcff"], "unknown command '\ufffd'"),
        (["list", "--\udcff"], "unknown option '--\ufffd'"),
    ],
)
def test_what_cannot_be_understood_ends_with_2_and_one_line(
    terminal: Terminal, argv: list[str], words: str
) -> None:
    assert terminal.run(*argv) == 2

    assert words in terminal.err.getvalue()
    assert terminal.err.getvalue().startswith("fetcher: error: ")
    assert terminal.err.getvalue().count("\n") == 1
    assert terminal.out.getvalue() == ""


@pytest.mark.parametrize("argv", [["--api-key", KEY], [f"--api-key={KEY}"], [f"--key={KEY}"]])
def test_a_key_on_the_command_line_is_refused_without_repeating_it(
    terminal: Terminal, argv: list[str]
) -> None:
    assert terminal.run("backfill", *argv) == 2

    assert "MUNSIT_API_KEY" in terminal.err.getvalue()
    assert KEY not in terminal.err.getvalue()


def test_every_option_of_every_command_is_understood() -> None:
    for command in COMMANDS.values():
        for option in shown_by(command.name, bare=command.bare):
            value = option.show(option.default) or option.kind.example
            argv = [f"{option.flag}={value}"] if option.takes_value else [option.flag]

            assert hasattr(parse([command.name, *argv]), option.field)


# ---- where it leads ----------------------------------------------------------------------


def test_a_command_gets_its_arguments_and_its_status_is_returned(
    terminal: Terminal, status_runs: Callable[[Run], None]
) -> None:
    def answer(args: argparse.Namespace, env: Environment) -> int:
        env.stdout.write(f"{env.resolve(args).dest}\n")
        return 1

    status_runs(answer)

    assert terminal.run("status", "-d", "x") == 1
    assert terminal.out.getvalue() == f"{terminal.env.cwd / 'x'}\n"


def test_settings_are_loaded_from_the_environment_given(
    terminal: Terminal, status_runs: Callable[[Run], None]
) -> None:
    keys = []

    def answer(args: argparse.Namespace, env: Environment) -> int:
        settings, found = env.load(args)
        keys.append((settings.read_key(), settings.retries, found.origins["retries"].place))
        return 0

    status_runs(answer)

    assert terminal.run("status", MUNSIT_API_KEY=KEY, FETCHER_RETRIES="2") == 0
    assert keys == [(KEY, 2, "FETCHER_RETRIES")]


@pytest.mark.parametrize(
    ("raised", "status", "words"),
    [
        (errors.UsageError("bad"), 2, "error: bad"),
        (errors.KeyRefusedError("refused"), 3, "error: refused"),
        (errors.ApiError("down"), 4, "error: down"),
        (errors.LockedError("held"), 5, "error: held"),
        (errors.StorageError("full"), 6, "error: full"),
        (errors.ManifestError("damaged"), 6, "error: damaged"),
        (OSError(errno.ENOSPC, "No space left on device"), 6, "No space left"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (ZeroDivisionError("x"), 70, "a fault in fetcher itself (ZeroDivisionError)"),
        (BrokenPipeError(), 70, "a fault in fetcher itself"),
        (errors.ApiError("two\nlines \x1b[31m"), 4, "error: two lines \ufffd[31m"),
    ],
)
def test_every_error_has_its_status_and_one_line(
    terminal: Terminal,
    status_runs: Callable[[Run], None],
    raised: BaseException,
    status: int,
    words: str,
) -> None:
    def fail(args: argparse.Namespace, env: Environment) -> int:
        raise raised

    status_runs(fail)

    assert terminal.run("status") == status
    assert words in terminal.err.getvalue()
    assert terminal.err.getvalue().count("\n") == 1


@pytest.mark.parametrize("home", ["log file", "state folder", "temporary folder"])
def test_a_fault_is_recorded_without_key_and_signatures(
    terminal: Terminal,
    status_runs: Callable[[Run], None],
    tmp_path: Path,
    home: str,
) -> None:
    argv = ["status", "-d", "x"]
    if home == "log file":
        argv += ["--log-file", "own.log"]
    elif home == "state folder":
        (tmp_path / "x" / ".fetcher").mkdir(parents=True)

    def fail(args: argparse.Namespace, env: Environment) -> int:
        raise ValueError(f"{KEY} https://host.example/a.wav?X-Signature=s3cret \udcff")

    status_runs(fail)

    assert terminal.run(*argv, MUNSIT_API_KEY=KEY) == 70
    named = re.search(r"; (\S+) says where", terminal.err.getvalue())
    assert named is not None
    text = Path(named[1]).read_text(encoding="utf-8")
    expected = {
        "log file": tmp_path / "own.log",
        "state folder": tmp_path / "x" / ".fetcher" / "fault.log",
        "temporary folder": tmp_path / "tmp" / Path(named[1]).name,
    }
    assert Path(named[1]) == expected[home]
    assert "Traceback" in text
    assert "https://host.example/a.wav?..." in text
    assert KEY not in text + terminal.err.getvalue()
    assert "s3cret" not in text
    assert Path(named[1]).stat().st_mode & 0o077 == 0


def test_a_fault_is_told_whatever_the_folder_is_called(
    terminal: Terminal, status_runs: Callable[[Run], None], tmp_path: Path
) -> None:
    def fail(args: argparse.Namespace, env: Environment) -> int:
        raise ZeroDivisionError

    status_runs(fail)

    assert terminal.run("status", "-d", "x" * 300) == 70
    assert str(tmp_path / "tmp") in terminal.err.getvalue()


def test_a_fault_in_telling_of_a_fault_changes_no_status(
    terminal: Terminal, status_runs: Callable[[Run], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(args: argparse.Namespace, env: Environment) -> int:
        raise ZeroDivisionError

    status_runs(fail)
    monkeypatch.setattr("tempfile.tempdir", 7)

    assert terminal.run("status", "-d", "x") == 70
    assert terminal.err.getvalue().count("\n") == 1


@pytest.mark.parametrize("folder", ["x" * 300, "x/" * 3000], ids=["a name", "a path"])
@pytest.mark.parametrize("option", ["-d", "--state-dir"])
@pytest.mark.parametrize(
    "command",
    [
        *("list", "status", "export", "verify", "verify --repair", "retry", "layout --apply"),
        *("backfill", "watch", "backfill --dry-run"),
    ],
)
def test_a_folder_whose_name_is_too_long_is_told(
    terminal: Terminal, command: str, option: str, folder: str
) -> None:
    argv = [*command.split(), "--api-url", "http://127.0.0.1:9/x", "--retries", "0", option, folder]

    assert terminal.run(*argv, MUNSIT_API_KEY=KEY) == 6

    said = terminal.out.getvalue() + terminal.err.getvalue()
    assert "fault" not in said
    assert "too long" in said or len(folder) > 1000  # what is as long as that is cut


@pytest.mark.parametrize("options", [[], ["--dry-run"], ["--dry-run", "-q"]])
def test_an_api_that_cannot_be_reached_is_told_once(terminal: Terminal, options: list[str]) -> None:
    with socket.socket() as nobody:  # bound and not listening: it refuses
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/x"

        argv = ["backfill", "--api-url", url, "--retries", "0", *options]
        assert terminal.run(*argv, MUNSIT_API_KEY=KEY) == 4

    assert terminal.err.getvalue().count("The history could not be read") == 1


@pytest.mark.parametrize(
    ("argv", "prepare", "status", "words"),
    [
        (["backfill"], "no key", 2, "MUNSIT_API_KEY"),
        (["watch"], "locked", 5, "Another process"),
        (["verify"], "damaged", 6, "damaged"),
        (["list", "--refresh"], "no key", 2, "MUNSIT_API_KEY"),
    ],
)
def test_why_a_run_cannot_begin_is_told_once_wherever_a_run_tells(
    terminal: Terminal, argv: list[str], prepare: str, status: int, words: str
) -> None:
    log, state = terminal.env.cwd / "log", terminal.env.cwd / "d" / ".fetcher"
    state.mkdir(parents=True)
    if prepare == "damaged":
        (state / schema.FILE_NAME).write_bytes(b"no database" * 1000)
    environ = {} if prepare == "no key" else {"MUNSIT_API_KEY": KEY}
    lock = held([state], command="backfill", wait_s=0) if prepare == "locked" else nullcontext()
    with lock:
        argv = [*argv, "-q", "-d", "d", "--log-file", str(log), "--log-format", "json"]
        assert terminal.run(*argv, **environ) == status

    told = [json.loads(line) for line in terminal.err.getvalue().splitlines()]
    assert [one["level"] for one in told if words in one["message"]] == ["error"]
    logged = log.read_text(encoding="utf-8").splitlines()
    assert [words in line for line in logged if " error: " in line] == [True]


@pytest.mark.parametrize("source", ["flag", "environment", "file"])
@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("verify --repair", "verify --repair"),
        ("list --refresh", "list --refresh"),
        ("retry", "retry"),
        ("export --format kaldi --to k", "export --to"),
    ],
)
def test_a_dry_run_of_what_can_only_write_is_refused(
    terminal: Terminal, refused: dict[str, str], command: str, name: str, source: str
) -> None:
    cwd = terminal.env.cwd
    if source == "file":
        (cwd / "fetcher.toml").write_text("dry-run = true", encoding="utf-8")
    environ = refused | ({"FETCHER_DRY_RUN": "1"} if source == "environment" else {})
    flags = ["--dry-run"] if source == "flag" else []
    before = sorted(cwd.rglob("*"))

    assert terminal.run(*command.split(), *flags, **environ) == 2

    assert f"`fetcher {name}` is no dry run" in terminal.err.getvalue()
    assert sorted(cwd.rglob("*")) == before


@pytest.mark.parametrize("command", ["verify", "list"])
def test_a_dry_run_of_what_only_reads_is_the_same(terminal: Terminal, command: str) -> None:
    assert terminal.run(command, "--dry-run") == 0


def test_a_fault_shows_its_traceback_at_vv(
    terminal: Terminal, status_runs: Callable[[Run], None]
) -> None:
    def fail(args: argparse.Namespace, env: Environment) -> int:
        raise ZeroDivisionError

    status_runs(fail)

    assert terminal.run("status", "-vv") == 70
    assert "Traceback" in terminal.err.getvalue()


class Closed(StringIO):
    """A stream whose reader has gone."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    def flush(self) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


class Full(StringIO):
    """A stream onto a full disk."""

    def flush(self) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(("stream", "status"), [(Closed(), 0), (Full(), 6)])
def test_a_reader_that_left_is_no_error_and_a_full_disk_is(
    terminal: Terminal, stream: TextIO, status: int
) -> None:
    assert run(["man"], terminal.env._replace(stdout=stream)) == status
    assert "fault" not in terminal.err.getvalue()


def test_a_closed_stderr_changes_no_status(terminal: Terminal) -> None:
    assert run(["bogus"], terminal.env._replace(stderr=Closed())) == 2


@pytest.fixture
def refused() -> Iterator[dict[str, str]]:
    """Give the environment of runs that no API answers."""
    with socket.socket() as nobody:  # bound and not listening
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/x"
        yield {"MUNSIT_API_KEY": KEY, "FETCHER_RETRIES": "0", "FETCHER_API_URL": url}


@pytest.mark.parametrize("stderr", [Closed(), Full()], ids=["closed", "full"])
@pytest.mark.parametrize(
    ("argv", "status"),
    [(["config"], 0), (["status"], 0), (["list"], 0), (["export"], 0), (["backfill"], 4), ([], 2)],
    ids=["config", "status", "list", "export", "backfill", "nothing"],
)
def test_a_note_that_stderr_does_not_take_stops_nothing(
    terminal: Terminal, refused: dict[str, str], argv: list[str], status: int, stderr: TextIO
) -> None:
    environ = {"FETCHER_OOPS": "1", **refused}
    assert run(argv, terminal.env._replace(stderr=stderr, environ=environ)) == status


@pytest.mark.parametrize("command", ["backfill", "list", "config"])
def test_a_note_shows_no_control_characters(
    terminal: Terminal, refused: dict[str, str], command: str
) -> None:
    terminal.run(command, **{"FETCHER_\x1b[31mOOPS": "1", **refused})
    assert "OOPS" in terminal.err.getvalue()
    assert "\x1b" not in terminal.err.getvalue()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_stderr_changes_no_status_of_the_process() -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "fetcher", "config"],
            cwd=ROOT,
            env={"FETCHER_OOPS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=full,
            timeout=50,
            check=False,
        )
    assert ended.returncode == 0


def test_main_takes_the_process_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"fetcher {__version__}\n"


# ---- the process -------------------------------------------------------------------------


@pytest.mark.parametrize("argv", [["--help"], ["--version"], ["help", "backfill"], ["man"]])
def test_light_commands_import_nothing_heavy(argv: list[str]) -> None:
    code = (
        "import sys; from fetcher.cli import main; main(sys.argv[1:]);"
        "heavy = {'pydantic', 'aiohttp', 'asyncio', 'sqlite3', 'tqdm', 'mutagen', 'wcwidth',"
        " 'platformdirs', 'logging', 'inspect_', 'tomllib', 'difflib', 'fetcher.simulator'};"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )

    done = subprocess.run(
        [sys.executable, "-c", code, *argv],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    )

    assert done.stderr == "[]\n"


def test_settings_of_light_commands_need_no_pydantic() -> None:
    code = (
        "import sys; from pathlib import Path; from fetcher.configuration.config import resolve;"
        "resolve({}, {}, cwd=Path('/'), user_config_dir=Path('/'));"
        "sys.exit('pydantic' in sys.modules or 'aiohttp' in sys.modules)"
    )

    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_a_name_in_a_locale_that_cannot_write_it_is_no_fault() -> None:
    done = in_process("config", "-d", "تسجيل", PYTHONUTF8="0", PYTHONIOENCODING="ascii")

    assert done.returncode == 0
    assert "\\u062a" in done.stdout


def test_a_removed_current_folder_is_no_fault(tmp_path: Path) -> None:
    code = (
        "import os, sys; os.chdir(sys.argv[1]); os.rmdir(sys.argv[1]);"
        "from fetcher.cli import main; sys.exit(main(['--version']))"
    )
    gone = tmp_path / "gone"
    gone.mkdir()

    done = subprocess.run(
        [sys.executable, "-c", code, str(gone)],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("command", "status"),
    [("backfill", 6), ("list", 6), ("verify", 6), ("doctor", 6), ("config", 0), ("help", 0)],
)
def test_a_folder_that_starts_in_a_removed_one_is_told(
    command: str, status: int, tmp_path: Path
) -> None:
    code = (
        "import os, sys; os.chdir(sys.argv[1]); os.rmdir(sys.argv[1]);"
        f"from fetcher.cli import main; sys.exit(main([{command!r}]))"
    )
    gone = tmp_path / "gone"
    gone.mkdir()

    done = subprocess.run(
        [sys.executable, "-c", code, str(gone)],
        env={"PYTHONPATH": str(ROOT), "MUNSIT_API_KEY": KEY, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == status
    assert ("which was removed" in done.stderr) == (status == 6)


def test_a_port_in_use_is_told_with_a_cure(terminal: Terminal) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert terminal.run("simulate", "--port", str(port)) == 2

    assert f"port {port} cannot be used: Address already in use" in terminal.err.getvalue()
    assert "--port" in terminal.err.getvalue()


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_pipe_closed_by_its_reader_ends_quietly(unbuffered: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)

    done = subprocess.run(
        [sys.executable, "-m", "fetcher", "--help"],
        cwd=ROOT,
        env={"PYTHONUNBUFFERED": unbuffered},
        stdout=writer,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writer)

    assert (done.returncode, done.stderr) == (0, b"")


# ---- help, manual, completion ------------------------------------------------------------


@pytest.mark.parametrize("argv", [["--help"], ["-h"], ["help"], ["help", "help"]])
def test_help_goes_to_stdout_and_ends_well(terminal: Terminal, argv: list[str]) -> None:
    assert terminal.run(*argv) == 0
    assert terminal.out.getvalue().startswith("usage: fetcher ")
    assert terminal.err.getvalue() == ""


def test_nothing_typed_is_a_usage_error_with_a_short_help(terminal: Terminal) -> None:
    assert terminal.run() == 2
    assert terminal.out.getvalue() == ""
    assert "fetcher demo" in terminal.err.getvalue()


def test_help_wins_over_what_is_missing(terminal: Terminal) -> None:
    assert terminal.run("completion", "--help") == 0
    assert terminal.out.getvalue() == page(COMMANDS["completion"])


def test_help_of_an_unknown_command_is_refused(terminal: Terminal) -> None:
    assert terminal.run("help", "bakfill") == 2


def test_overview_names_every_command_and_every_status() -> None:
    text = overview()

    assert [name for name in COMMANDS if f"\n  {name} " not in text] == []
    assert [s for s in (0, 1, 2, 3, 4, 5, 6, 70, 130) if f"\n  {s} " not in text] == []


def test_every_option_has_its_place_in_some_help() -> None:
    pages = "".join(page(command) for command in COMMANDS.values())

    assert [option.name for option in OPTIONS if f"{option.flag}" not in pages] == []


@pytest.mark.parametrize("columns", [20, 40, 80, 100])
def test_help_has_text_for_any_width(columns: int) -> None:
    text = page(COMMANDS["backfill"], columns)

    assert "--concurrency" in text
    assert max(len(line) for line in text.splitlines()) <= max(columns, 60)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_names_every_command_and_its_options(terminal: Terminal, shell: str) -> None:
    assert terminal.run("completion", shell) == 0

    script = terminal.out.getvalue()
    assert [name for name in COMMANDS if name not in script] == []
    assert [o.name for o in OPTIONS if o.name not in script] == []


@pytest.mark.parametrize(
    ("argv", "words"),
    [([], "bash, zsh or fish"), (["zhs"], "did you mean zsh?"), (["tcsh"], "tcsh")],
)
def test_completion_for_no_known_shell_is_refused(
    terminal: Terminal, argv: list[str], words: str
) -> None:
    assert terminal.run("completion", *argv) == 2
    assert words in terminal.err.getvalue()


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("fetcher bac", "backfill"),
        ("fetcher backfill --limi", "--limit-rate"),
        ("fetcher list --state par", "partial"),
        ("fetcher -d x watch --unti", "--until-idle --until"),
        ("fetcher backfill --log-format = j", "json"),
        ("fetcher completion z", "zsh"),
        ("fetcher backfill --retries 3", ""),
    ],
)
def test_bash_completes(terminal: Terminal, typed: str, expected: str) -> None:
    terminal.run("completion", "bash")
    script = (
        f"{terminal.out.getvalue()}\nCOMP_WORDS=({typed}); COMP_CWORD=$((${{#COMP_WORDS[@]}}-1));"
        ' _fetcher; echo "${COMPREPLY[*]}"'
    )

    done = subprocess.run(
        ["bash", "--norc", "-c", script], capture_output=True, text=True, check=True
    )

    assert (done.stdout.strip(), done.stderr) == (expected, "")


def test_man_page_has_every_option_and_no_stray_request() -> None:
    page_text = man_page()
    requests = {line.split()[0] for line in page_text.splitlines() if line.startswith(".")}

    assert requests <= {".TH", ".SH", ".SS", ".TP", ".PP", ".B", ".I", ".nf", ".fi"}
    plain = page_text.replace("\\-", "-")
    assert [option.flag for option in OPTIONS if option.flag not in plain] == []


# ---- config ------------------------------------------------------------------------------


def test_config_shows_values_and_their_places_but_never_the_key(terminal: Terminal) -> None:
    (terminal.env.cwd / "fetcher.toml").write_text("timeout = 7", encoding="utf-8")

    status = terminal.run("config", "--json", "-j", "2", FETCHER_RETRIES="3", MUNSIT_API_KEY=KEY)

    rows = {}
    for line in terminal.out.getvalue().splitlines():
        row = json.loads(line)
        rows[row["option"]] = (row["value"], row["source"])
    assert status == 0
    assert rows["concurrency"] == ("2", "--concurrency")
    assert rows["retries"] == ("3", "FETCHER_RETRIES")
    assert rows["timeout"] == ("7", f"{terminal.env.cwd / 'fetcher.toml'}: timeout")
    assert rows["limit-rate"] == ("none", "default")
    assert rows["api-key"] == ("set", "MUNSIT_API_KEY")
    assert rows["config"][0] == str(terminal.env.cwd / "fetcher.toml")
    assert KEY not in terminal.out.getvalue() + terminal.err.getvalue()


def test_config_is_a_table_without_json(terminal: Terminal) -> None:
    assert terminal.run("config", "-d", "/x", FETCHER_INTERVL="1") == 0

    lines = terminal.out.getvalue().splitlines()
    assert lines[0].split() == ["api-key", "not", "set"]
    assert len({line.rindex("  ") for line in lines if line.endswith("  default")}) == 1
    assert "did you mean FETCHER_INTERVAL?" in terminal.err.getvalue()


def test_init_writes_a_file_once(terminal: Terminal) -> None:
    path = terminal.env.cwd / "fetcher.toml"

    assert terminal.run("config", "--init") == 0
    assert path.read_text(encoding="utf-8") == commented_file()
    path.write_text("retries = 1", encoding="utf-8")
    assert terminal.run("config", "--init") == 2
    assert path.read_text(encoding="utf-8") == "retries = 1"


def test_init_takes_the_name_of_the_file(terminal: Terminal) -> None:
    assert terminal.run("config", "--init", "--config", "other.toml") == 0
    assert (terminal.env.cwd / "other.toml").exists()


def test_init_takes_the_name_of_the_file_from_the_environment(terminal: Terminal) -> None:
    named = {"FETCHER_CONFIG": str(terminal.env.cwd / "mine.toml")}
    assert terminal.run("config", "--init", **named) == 0
    assert terminal.run("config", "--init", "--config", "other.toml", **named) == 0
    written = sorted(path.name for path in terminal.env.cwd.glob("*.toml"))
    assert written == ["mine.toml", "other.toml"]


@pytest.mark.parametrize(
    ("flags", "environ", "status"),
    [
        (["--dry-run"], {}, 2),
        ([], {"FETCHER_DRY_RUN": "1"}, 2),
        (["--no-dry-run"], {"FETCHER_DRY_RUN": "1"}, 0),
    ],
    ids=["flag", "environment", "taken back"],
)
def test_init_is_no_dry_run(
    terminal: Terminal, flags: list[str], environ: dict[str, str], status: int
) -> None:
    assert terminal.run("config", "--init", *flags, **environ) == status
    assert (terminal.env.cwd / "fetcher.toml").exists() is (status == 0)


def test_init_where_nothing_can_be_written_is_a_storage_error(terminal: Terminal) -> None:
    assert terminal.run("config", "--init", "--config", "no/such/folder.toml") == 6


def test_the_commented_file_sets_nothing(tmp_path: Path) -> None:
    assert tomllib.loads(commented_file()) == {}


def test_every_line_of_the_commented_file_can_be_taken_in(tmp_path: Path) -> None:
    settings = re.sub(r"^# ([a-z-]+ = )", r"\1", commented_file(), flags=re.MULTILINE)
    settings = re.sub(r"^# (\[profile)", r"\1", settings, flags=re.MULTILINE)
    (tmp_path / "fetcher.toml").write_text(settings, encoding="utf-8")

    found = resolve({"profile": "work"}, {}, cwd=tmp_path)

    unset = {o.name for o in OPTIONS if found.origins[o.field].is_default and not o.own}
    assert unset == {"config"}
    assert NOT_IN_FILE == ("config", "profile")


def test_usage_errors_of_the_file_end_any_command(terminal: Terminal) -> None:
    (terminal.env.cwd / "fetcher.toml").write_text("retris = 3", encoding="utf-8")

    assert terminal.run("config") == UsageError.exit_code
    assert "did you mean retries?" in terminal.err.getvalue()
