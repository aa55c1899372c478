"""Commands of the user's: what they are told, how they are bounded, and that they harm nothing."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import sys
import textwrap
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from support import eventually, is_alive

from fetcher.configuration.config import resolve
from fetcher.configuration.settings import Settings
from fetcher.configuration.targets import EXEC_PLACEHOLDERS, RUN_FACTS
from fetcher.engine import Stop
from fetcher.events import Event, ExecFailed, Notice, RunCompleted
from fetcher.models import Entry, Job, JobId, State, Status, Variant
from fetcher.runs.desk import Done
from fetcher.runs.hooks import Hooks, Limits, facts_of, without_key
from fetcher.runs.leave import LAST_COMMAND_BY_S, Leave

if TYPE_CHECKING:
    from pathlib import Path

KEY = "k3y-that-nobody-may-see"
JOB = Job(
    id=JobId("0b5e2f9a-1111-4222-8333-444455556666"),
    status=Status.SUCCESS,
    file_name="a b.wav",
    audio_url="https://files.example/x.wav?signature=secret",
    original_audio_url="https://files.example/y.mp4?signature=secret",
    created_at=datetime(2025, 1, 31, 18, 30, tzinfo=UTC),
    updated_at=datetime(2025, 1, 31, 18, 31, tzinfo=UTC),
    source_type="audio",
    audio_format="wav",
    audio_duration_s=2.5,
    audio_size_bytes=1234,
    user_id="user-1",
    transaction_id="tx-1",
)


def finished(**changes: Any) -> Done:
    """Return a recorded file; `changes` are of its job."""
    job = JOB._replace(**changes)
    entry = Entry(1, job, Variant.DENOISED, State.COMPLETE)
    return Done(entry, f"a b/a b.{job.id[:8]}.wav", 777, "ab" * 32)


def several(count: int) -> list[Done]:
    return [finished(id=JobId(f"{n:08d}-0000")) for n in range(count)]


@dataclass
class Desk:
    """A folder where commands leave what they saw, and hooks that start them."""

    folder: Path
    stop: Stop = field(default_factory=Stop)
    events: list[Event] = field(default_factory=list)
    environ: dict[str, str] = field(default_factory=lambda: dict(os.environ))
    late_s: float = 0.0

    def python(self, code: str, *words: str) -> str:
        """Return a command that runs `code` with `words`; its folder is `out`."""
        script = self.folder / f"script{len(list(self.folder.glob('*.py')))}.py"
        head = f"import json, os, sys, time\nout = {str(self.folder)!r}\n"
        script.write_text(head + textwrap.dedent(code))
        return shlex.join([sys.executable, "-IS", str(script), *words])

    def hooks(
        self, exec_: str | None = None, *, limits: Limits | None = None, **more: Any
    ) -> Hooks:
        settings = Settings(api_key=KEY, dest=self.folder / "dest", exec=exec_, **more)
        return Hooks(
            settings,
            self.events.append,
            leave=Leave(self.stop.asked, lambda: time.monotonic() + self.late_s),
            environ=self.environ,
            limits=limits,
        )

    async def run(self, command: str, *files: Done, **options: Any) -> None:
        async with self.hooks(command, **options) as hooks:
            for done in files:
                await hooks.finished(done)
            await hooks.settle(RunCompleted(), has_downloaded=bool(files))

    def read(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text())

    @property
    def failures(self) -> list[ExecFailed]:
        return [event for event in self.events if isinstance(event, ExecFailed)]

    @property
    def notices(self) -> list[str]:
        return [event.message for event in self.events if isinstance(event, Notice)]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


TELL_WORDS = "json.dump(sys.argv[1:], open(out + '/words', 'w'))"
TELL_ENVIRONMENT = """
    json.dump({k: v.decode("utf-8", "backslashreplace") for k, v in
               ((os.fsdecode(k), v) for k, v in os.environb.items())},
              open(out + "/environment", "w"))
"""


# ---- what a command is told --------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["{path}"], ["{dest}/a b/a b.0b5e2f9a.wav"]),
        (["{relative_path}", "-n"], ["a b/a b.0b5e2f9a.wav", "-n"]),
        (["--in={id}:{short_id}"], ["--in=0b5e2f9a-1111-4222-8333-444455556666:0b5e2f9a"]),
        (["{file_name}", "{stem}", "{ext}"], ["a b.wav", "a b", ".wav"]),
        (["{bytes}", "{sha256}", "{variant}"], ["777", "ab" * 32, "denoised"]),
        (["{}", "{print $1}", "${path} *"], ["{}", "{print $1}", "${path} *"]),
    ],
    ids=["path", "relative", "inside a word", "name", "content", "not ours"],
)
async def test_placeholders_become_text_of_their_word(
    desk: Desk, words: list[str], expected: list[str]
) -> None:
    await desk.run(desk.python(TELL_WORDS, *words), finished())
    dest = str(desk.folder / "dest")
    assert desk.read("words") == [word.replace("{dest}", dest) for word in expected]
    assert desk.events == []


@pytest.mark.parametrize(
    "name",
    [
        "a; touch x",
        "$(touch x) `touch x`",
        "\"quoted\" 'twice'",
        "two\nlines\tand a tab",
        "{id} {path}",
        "-rf",
        "مقابلة 🎙.wav",
        "\x1b[31mred",
        "",
    ],
)
async def test_a_name_is_one_argument_whatever_it_holds(desk: Desk, name: str) -> None:
    await desk.run(desk.python(TELL_WORDS, "{file_name}", "end"), finished(file_name=name))
    assert desk.read("words") == [name, "end"]


@pytest.mark.parametrize(
    ("name", "told"),
    [("a\0b.wav", "a\ufffdb.wav"), ("a\ud800b.wav", "a?b.wav")],
    ids=["NUL", "lone surrogate"],
)
async def test_what_no_argument_can_hold_is_replaced(desk: Desk, name: str, told: str) -> None:
    await desk.run(desk.python(TELL_WORDS, "{file_name}"), finished(file_name=name))
    assert desk.read("words") == [told]


async def test_the_environment_carries_every_placeholder(desk: Desk) -> None:
    await desk.run(desk.python(TELL_ENVIRONMENT), finished())
    told = desk.read("environment")
    facts = facts_of(finished(), desk.folder / "dest")
    assert {name: told[f"FETCHER_{name.upper()}"] for name in EXEC_PLACEHOLDERS} == {
        name: value.decode() for name, value in facts.items()
    }
    assert told["FETCHER_PATH"] == str(desk.folder / "dest/a b/a b.0b5e2f9a.wav")
    assert told["FETCHER_CREATED_AT"] == "2025-01-31T18:30:00Z"
    assert told["FETCHER_AUDIO_DURATION"] == "2.5"
    assert told["FETCHER_AUDIO_SIZE"] == "1234"
    assert told["PATH"] == os.environ["PATH"]


def test_what_a_record_lacks_is_empty(tmp_path: Path) -> None:
    bare = finished(
        created_at=None, transaction_id=None, audio_duration_s=None, audio_size_bytes=None
    )
    facts = facts_of(bare, tmp_path)
    empty = {"created_at", "transaction_id", "audio_duration", "audio_size"}
    assert {name for name, value in facts.items() if value == b""} == empty


def test_only_a_known_extension_of_the_stored_file_is_told(tmp_path: Path) -> None:
    done = finished()
    assert facts_of(replace(done, path="x/talk.M4A"), tmp_path)["ext"] == b".M4A"
    assert facts_of(replace(done, path="x/talk.0b5e2f9a"), tmp_path)["ext"] == b""


async def test_the_key_is_nowhere_in_the_environment(desk: Desk) -> None:
    desk.environ |= {
        "MUNSIT_API_KEY": KEY,
        "MUNSIT_API_KEY_FILE": "/run/key",
        "FETCHER_API_KEY_FILE": "/run/key",
        "CREDENTIALS_DIRECTORY": "/run/credentials",
        "WRAPPED": f"Bearer {KEY}",
        "HARMLESS": "yes",
    }
    await desk.run(
        desk.python(TELL_ENVIRONMENT),
        finished(),
        exec_after=desk.python(TELL_ENVIRONMENT.replace("/environment", "/after")),
    )
    for name in ("environment", "after"):
        told = desk.read(name)
        assert KEY not in json.dumps(told)
        assert told["HARMLESS"] == "yes"
        assert not {"MUNSIT_API_KEY_FILE", "FETCHER_API_KEY_FILE", "CREDENTIALS_DIRECTORY"} & set(
            told
        )


def test_a_short_key_takes_no_unrelated_variable_away() -> None:
    environ = {"PATH": "/usr/bin", "MUNSIT_API_KEY": "s", "COPY": " s ", "HOME": "/users"}
    assert without_key(environ, "s") == {"PATH": "/usr/bin", "HOME": "/users"}


def test_a_key_of_the_environment_is_removed_although_a_file_is_used() -> None:
    environ = {"MUNSIT_API_KEY": "another-long-key", "COPY": "x another-long-key", "HOME": "/"}
    assert without_key(environ, KEY) == {"HOME": "/"}


async def test_signed_links_are_not_told(desk: Desk) -> None:
    await desk.run(desk.python(TELL_ENVIRONMENT), finished())
    assert "signature" not in json.dumps(desk.read("environment"))


async def test_a_command_has_no_input_and_a_group_of_its_own(desk: Desk) -> None:
    code = "json.dump([sys.stdin.read(), os.getpgrp() == os.getpid()], open(out + '/seen', 'w'))"
    await desk.run(desk.python(code), finished())
    assert desk.read("seen") == ["", True]


# ---- output ------------------------------------------------------------------------------

SPEAK = "print('spoken'); print('complained', file=sys.stderr)"


async def test_output_goes_to_stderr_and_never_to_stdout(
    desk: Desk, capfd: pytest.CaptureFixture[str]
) -> None:
    await desk.run(desk.python(SPEAK), finished())
    out, err = capfd.readouterr()
    assert out == ""
    assert sorted(err.split()) == ["complained", "spoken"]
    assert desk.events == []


async def test_output_becomes_log_lines_where_the_log_is_json(
    desk: Desk, capfd: pytest.CaptureFixture[str]
) -> None:
    await desk.run(desk.python(SPEAK), finished(), log_format="json")
    assert capfd.readouterr() == ("", "")
    assert sorted(desk.notices) == ["complained", "spoken"]


async def test_a_flood_of_output_is_cut_off(desk: Desk) -> None:
    code = "print('x' * 10_000); print('\\n' * 5_000); sys.stdout.write('end')"
    await desk.run(desk.python(code), finished(), log_format="json")
    assert [len(line) for line in desk.notices[:3]] == [4096, 4096, 1808]
    assert len(desk.notices) == 1001
    assert "not shown" in desk.notices[-1]


async def test_a_last_line_without_an_end_is_told(desk: Desk) -> None:
    await desk.run(desk.python("sys.stdout.write('no end')"), finished(), log_format="json")
    assert desk.notices == ["no end"]


async def test_a_process_that_is_left_behind_holds_nothing_up(desk: Desk) -> None:
    code = """
        if os.fork() == 0:
            os.setsid()
            open(out + "/left", "w").write(str(os.getpid()))
            time.sleep(60)
        while not os.path.exists(out + "/left") or not open(out + "/left").read():
            time.sleep(0.005)
    """
    await asyncio.wait_for(desk.run(desk.python(code), finished(), log_format="json"), 10)
    left = int((desk.folder / "left").read_text())
    assert is_alive(left), "what a command left running on purpose is not ours to end"
    os.kill(left, signal.SIGKILL)


# ---- failures ----------------------------------------------------------------------------


async def test_a_failing_command_is_reported_with_its_code(desk: Desk) -> None:
    await desk.run(desk.python("sys.exit(3)"), finished())
    assert desk.failures == [ExecFailed(id=JOB.id, file_name="a b.wav", code=3)]


async def test_a_command_that_a_signal_killed_is_reported_with_it(desk: Desk) -> None:
    await desk.run(desk.python("os.kill(os.getpid(), 9)"), finished())
    assert [event.code for event in desk.failures] == [-9]


@pytest.mark.parametrize("command", ["no-such-program-anywhere {path}", "/ {path}"])
async def test_a_command_that_cannot_start_is_reported_without_a_code(
    desk: Desk, command: str
) -> None:
    await desk.run(command, *several(3))
    assert [event.code for event in desk.failures] == [None] * 3
    assert all("could not be started" in event.reason for event in desk.failures)


async def test_a_name_too_long_for_any_argument_is_reported(desk: Desk) -> None:
    await desk.run(desk.python(TELL_WORDS, "{file_name}"), finished(file_name="x" * 300_000))
    assert [event.code for event in desk.failures] == [None]


async def test_a_failure_does_not_hold_up_the_next_file(desk: Desk) -> None:
    code = "open(out + '/seen.' + sys.argv[1], 'w'); sys.exit(sys.argv[1] == '00000000-0000')"
    await desk.run(desk.python(code, "{id}"), *several(3))
    assert len(list(desk.folder.glob("seen.*"))) == 3
    assert [event.id for event in desk.failures] == ["00000000-0000"]


# ---- bounds ------------------------------------------------------------------------------

WITH_A_CHILD = """
    import signal
    child = os.fork()
    if child == 0:
        if "stubborn" in sys.argv:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        open(out + "/child", "w").write(str(os.getpid()))
        time.sleep(60)
    while not os.path.exists(out + "/child") or not open(out + "/child").read():
        time.sleep(0.005)
    if "stubborn" in sys.argv:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    open(out + "/self", "w").write(str(os.getpid()))
    open(out + "/ready", "w")
    time.sleep(60)
"""


def pids(desk: Desk) -> list[int]:
    return [int((desk.folder / name).read_text()) for name in ("self", "child")]


async def test_a_command_that_takes_too_long_is_ended_with_its_children(desk: Desk) -> None:
    limits = Limits(each_s=0.7)
    await desk.run(desk.python(WITH_A_CHILD), finished(), limits=limits)
    [failure] = desk.failures
    assert failure.code is None
    assert "longer than 0.7 s" in failure.reason
    await eventually(lambda: not any(map(is_alive, pids(desk))))


async def test_so_many_commands_run_at_a_time_and_no_more(desk: Desk) -> None:
    code = """
        mine = out + "/running." + str(os.getpid())
        open(mine, "w")
        deadline = time.monotonic() + 5
        while not (peak := [n for n in os.listdir(out) if n.startswith("running.")])[1:]:
            if time.monotonic() > deadline: break
            time.sleep(0.005)
        open(out + f"/peak.{len(peak)}", "w")
        time.sleep(0.05)
        os.unlink(mine)
    """
    await desk.run(desk.python(code), *several(6), limits=Limits(at_once=2))
    assert desk.events == []
    assert {path.name for path in desk.folder.glob("peak.*")} == {"peak.2"}


async def test_downloads_wait_once_too_many_files_wait(desk: Desk) -> None:
    code = """
        while not os.path.exists(out + "/go"): time.sleep(0.005)
        open(out + "/seen." + sys.argv[1], "w")
    """
    limits = Limits(at_once=1, waiting=1)
    async with desk.hooks(desk.python(code, "{id}"), limits=limits) as hooks:
        running, waiting, too_many = several(3)
        await hooks.finished(running)
        await asyncio.sleep(0)  # its worker takes it
        await hooks.finished(waiting)
        blocked = asyncio.create_task(hooks.finished(too_many))
        await asyncio.sleep(0.05)
        assert not blocked.done()
        (desk.folder / "go").touch()
        await blocked
        await hooks.settle(RunCompleted(), has_downloaded=False)
    assert len(list(desk.folder.glob("seen.*"))) == 3


async def test_without_commands_nothing_happens(desk: Desk) -> None:
    async with desk.hooks() as hooks:
        await hooks.finished(finished())
        await hooks.settle(RunCompleted(), has_downloaded=True)
    assert desk.events == []


# ---- a run that is stopped ---------------------------------------------------------------


async def test_a_stop_lets_short_commands_end_by_themselves(desk: Desk) -> None:
    code = """
        open(out + "/ready", "w")
        while not os.path.exists(out + "/go"): time.sleep(0.005)
    """
    async with desk.hooks(desk.python(code), limits=Limits(grace_s=10)) as hooks:
        await hooks.finished(finished())
        await eventually((desk.folder / "ready").exists)
        desk.stop.ask(143)
        settling = asyncio.create_task(
            hooks.settle(RunCompleted(exit_code=143), has_downloaded=False)
        )
        await asyncio.sleep(0.05)
        (desk.folder / "go").touch()
        await settling
    assert desk.failures == []


@pytest.mark.parametrize("manner", ["meek", "stubborn"])
async def test_a_stop_ends_what_takes_longer_and_starts_nothing_more(
    desk: Desk, manner: str
) -> None:
    command = desk.python(WITH_A_CHILD, manner)
    limits = Limits(at_once=1, grace_s=0.05)
    async with desk.hooks(command, limits=limits) as hooks:
        for done in several(3):
            await hooks.finished(done)
        await eventually((desk.folder / "ready").exists)
        desk.stop.ask(130)
        began_s = time.monotonic()
        await hooks.settle(RunCompleted(exit_code=130), has_downloaded=False)
        assert time.monotonic() - began_s < 2
    assert [event.code for event in desk.failures] == [None] * 3
    assert ["was ended" in event.reason for event in desk.failures] == [True, False, False]
    assert ["not started" in event.reason for event in desk.failures] == [False, True, True]
    await eventually(lambda: not any(map(is_alive, pids(desk))))


async def test_leaving_ends_whatever_still_runs(desk: Desk) -> None:
    async with desk.hooks(desk.python(WITH_A_CHILD)) as hooks:
        await hooks.finished(finished())
        await eventually((desk.folder / "ready").exists)
    await eventually(lambda: not any(map(is_alive, pids(desk))))


# ---- the end of a run --------------------------------------------------------------------

TELL_AFTER = TELL_ENVIRONMENT.replace("/environment", "/after")
FINAL = RunCompleted(
    records=9, downloaded=2, already=4, failed=1, pending=2, bytes=123, seconds=1.5, exit_code=1
)


async def test_the_last_command_is_told_how_the_run_went(desk: Desk) -> None:
    async with desk.hooks(exec_after=desk.python(TELL_AFTER)) as hooks:
        await hooks.settle(FINAL, has_downloaded=True)
    told = desk.read("after")
    assert {name: told[f"FETCHER_{name.upper()}"] for name in RUN_FACTS} == {
        name: str(getattr(FINAL, name)) for name in RUN_FACTS
    }
    assert told["FETCHER_DEST"] == str(desk.folder / "dest")


async def test_a_fetcher_started_by_a_command_is_not_confused(desk: Desk) -> None:
    last = desk.python(TELL_AFTER)
    final = replace(FINAL, failed=2)
    async with desk.hooks(desk.python(TELL_ENVIRONMENT), exec_after=last) as hooks:
        await hooks.finished(finished())
        await hooks.settle(final, has_downloaded=True)
    for name in ("environment", "after"):
        found = resolve({}, desk.read(name), cwd=desk.folder, user_config_dir=desk.folder)
        assert found.notices == ()
        assert found.dest == desk.folder / "dest"


async def test_the_last_command_takes_braces_as_they_are(desk: Desk) -> None:
    async with desk.hooks(exec_after=desk.python(TELL_WORDS, "{path}", "two words")) as hooks:
        await hooks.settle(FINAL, has_downloaded=True)
    assert desk.read("words") == ["{path}", "two words"]


async def test_the_last_command_does_not_run_where_nothing_was_downloaded(desk: Desk) -> None:
    async with desk.hooks(exec_after=desk.python(TELL_AFTER)) as hooks:
        await hooks.settle(replace(FINAL, downloaded=0, adopted=2), has_downloaded=False)
    assert not (desk.folder / "after").exists()


async def test_the_last_command_comes_after_those_of_all_files(desk: Desk) -> None:
    append = "open(out + '/order', 'a').write(sys.argv[1] + ' ')"
    last = desk.python(append, "last")
    await desk.run(desk.python(append, "file"), *several(6), exec_after=last)
    assert (desk.folder / "order").read_text().split() == ["file"] * 6 + ["last"]


async def test_a_failing_last_command_is_a_warning_and_no_file_s_failure(desk: Desk) -> None:
    async with desk.hooks(exec_after=desk.python("sys.exit(7)")) as hooks:
        await hooks.settle(FINAL, has_downloaded=True)
    [event] = desk.events
    assert isinstance(event, Notice)
    assert event.level == "WARNING"
    assert "7" in event.message


async def test_the_last_command_has_a_moment_after_a_stop(desk: Desk) -> None:
    """A watch ends by being stopped, so its last command must run even then."""
    limits = Limits(grace_s=0.0, last_s=0.4)
    command = "open(out + '/ran', 'w'); time.sleep(60)"
    async with desk.hooks(exec_after=desk.python(command), limits=limits) as hooks:
        desk.stop.ask(143)
        await asyncio.sleep(0.02)
        began_s = time.monotonic()
        await hooks.settle(FINAL, has_downloaded=True)
        assert time.monotonic() - began_s < 2
    assert (desk.folder / "ran").exists()
    assert len(desk.notices) == 1


async def test_a_stubborn_last_command_is_not_waited_for_after_a_stop(desk: Desk) -> None:
    limits = Limits(grace_s=0.0, last_s=0.3)
    command = desk.python(WITH_A_CHILD, "stubborn")
    async with desk.hooks(exec_after=command, limits=limits) as hooks:
        desk.stop.ask(143)
        await asyncio.sleep(0.02)
        began_s = time.monotonic()
        await hooks.settle(FINAL, has_downloaded=True)
        assert time.monotonic() - began_s < 1.5
    assert "the run was stopped" in desk.notices[0]


async def test_a_last_command_does_not_begin_once_a_stop_has_no_time_left(desk: Desk) -> None:
    async with desk.hooks(exec_after=desk.python(TELL_AFTER)) as hooks:
        desk.stop.ask(143)
        await asyncio.sleep(0.02)
        desk.late_s = LAST_COMMAND_BY_S
        await hooks.settle(FINAL, has_downloaded=True)
    assert not (desk.folder / "after").exists()
    assert "not started" in desk.notices[0]


async def test_a_stop_hastens_the_end_of_a_command_that_took_too_long(desk: Desk) -> None:
    code = """
        import signal
        signal.signal(signal.SIGTERM, lambda *_: open(out + "/asked", "w"))
        while True: time.sleep(1)
    """
    limits = Limits(each_s=0.7, grace_s=0.1)
    async with desk.hooks(desk.python(code), limits=limits) as hooks:
        await hooks.finished(finished())
        await eventually((desk.folder / "asked").exists)
        desk.stop.ask(143)
        began_s = time.monotonic()
        await hooks.settle(FINAL, has_downloaded=False)
        assert time.monotonic() - began_s < 1.5


def test_commands_are_split_as_a_shell_would(desk: Desk) -> None:
    command = 'sh -c \'echo "$FETCHER_ID" > "$1/id"\' name {dest}'
    (desk.folder / "dest").mkdir()
    asyncio.run(desk.run(command, finished()))
    assert (desk.folder / "dest/id").read_text().strip() == JOB.id
