"""One process per destination: who is kept out, what it is told, and what a kill leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest

from fetcher.errors import LockedError, StorageError
from fetcher.files.locks import Grip, held, holder, is_held, present_holder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOLD = """
import sys
from pathlib import Path
from fetcher.files.locks import held
with held([Path(folder) for folder in sys.argv[2:]], command=sys.argv[1], wait_s=0):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def other_process(command: str, *folders: Path) -> Iterator[subprocess.Popen[str]]:
    """Let another process hold these folders while the block runs."""
    arguments = [sys.executable, "-c", HOLD, command, *map(str, folders)]
    with subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_second_process_is_kept_out_and_told_who_holds_the_destination(tmp_path: Path) -> None:
    with (
        other_process("watch", tmp_path) as other,
        pytest.raises(LockedError) as caught,
        held([tmp_path], command="backfill", wait_s=0),
    ):
        pytest.fail("two processes hold the lock")
    assert caught.value.exit_code == 5
    assert f"process {other.pid}" in str(caught.value)
    assert "fetcher watch" in str(caught.value)


def test_who_is_kept_out_does_not_wait_without_being_asked_to(tmp_path: Path) -> None:
    with other_process("watch", tmp_path):
        began_s = time.monotonic()
        with pytest.raises(LockedError), held([tmp_path], command="backfill", wait_s=0):
            pass
        assert time.monotonic() - began_s < 2


def test_who_waits_gets_the_lock_once_it_is_free(tmp_path: Path) -> None:
    with other_process("watch", tmp_path) as other:
        killer = threading.Timer(0.3, other.kill)
        killer.start()
        with held([tmp_path], command="backfill", wait_s=30):
            assert holder(tmp_path) is not None
            assert holder(tmp_path) == present_holder(tmp_path)
        killer.join()


def test_waiting_ends_after_the_time_that_was_given(tmp_path: Path) -> None:
    with other_process("watch", tmp_path):
        began_s = time.monotonic()
        with pytest.raises(LockedError), held([tmp_path], command="backfill", wait_s=0.5):
            pass
        assert 0.5 <= time.monotonic() - began_s < 5


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_lock_dies_with_its_holder(tmp_path: Path, how: signal.Signals) -> None:
    with other_process("watch", tmp_path) as other:
        other.send_signal(how)
        other.wait()
        assert holder(tmp_path) is not None, "a killed holder leaves its card"
        assert present_holder(tmp_path) is None
        assert not is_held(tmp_path)
        with held([tmp_path], command="backfill", wait_s=0):
            who = holder(tmp_path)
    assert who is not None
    assert who["pid"] == str(os.getpid())


def test_the_card_says_who_since_when_and_goes_at_the_end(tmp_path: Path) -> None:
    with held([tmp_path], command="verify --repair", wait_s=0):
        who = holder(tmp_path)
        assert who is not None
        assert who.keys() == {"pid", "host", "command", "since"}
        assert who["command"] == "verify --repair"
        assert who["since"].endswith("+00:00")
    assert holder(tmp_path) is None
    assert present_holder(tmp_path) is None
    assert not is_held(tmp_path)


def test_the_lock_is_given_back_where_the_work_fails(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), held([tmp_path], command="backfill", wait_s=0):
        raise ZeroDivisionError
    with held([tmp_path], command="backfill", wait_s=0):
        pass


def test_a_lock_that_one_thread_took_another_gives_back(tmp_path: Path) -> None:
    lock = held([tmp_path], command="backfill", wait_s=0)
    taking = threading.Thread(target=lock.__enter__)
    taking.start()
    taking.join()
    assert is_held(tmp_path)
    lock.__exit__(None, None, None)
    assert not is_held(tmp_path)


def test_two_runs_in_one_process_keep_each_other_out(tmp_path: Path) -> None:
    with (
        held([tmp_path], command="backfill", wait_s=0),
        pytest.raises(LockedError),
        held([tmp_path], command="backfill", wait_s=0),
    ):
        pytest.fail("two runs hold the lock")


def test_a_destination_is_guarded_wherever_the_state_is(tmp_path: Path) -> None:
    dest, first, second = (tmp_path / name for name in ("dest", "first", "second"))
    for folder in (dest, first, second):
        folder.mkdir()
    with (
        other_process("watch", dest, first),
        pytest.raises(LockedError),
        held([dest, second], command="backfill", wait_s=0),
    ):
        pytest.fail("two processes write to one destination")
    assert not is_held(second), "what was taken before is given back"
    assert holder(second) is None


def test_the_same_folder_twice_is_held_once(tmp_path: Path) -> None:
    with held([tmp_path, tmp_path], command="backfill", wait_s=0):
        assert is_held(tmp_path)


def test_asking_who_holds_a_folder_leaves_nothing_in_it(tmp_path: Path) -> None:
    assert not is_held(tmp_path)
    assert holder(tmp_path) is None
    assert present_holder(tmp_path) is None
    assert list(tmp_path.iterdir()) == []
    assert not is_held(tmp_path / "nowhere")


def test_many_who_ask_do_not_keep_a_process_out(tmp_path: Path) -> None:
    with held([tmp_path], command="backfill", wait_s=0):
        pass
    is_over = threading.Event()

    def ask() -> None:
        while not is_over.wait(0.002):
            is_held(tmp_path)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for _ in range(20):
            with held([tmp_path], command="backfill", wait_s=0):
                pass
    finally:
        is_over.set()
        asking.join()


@pytest.mark.parametrize(
    "card",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\xff\xfe\x00", id="no text"),
        pytest.param(b"[1, 2]", id="a list"),
        pytest.param(b"{", id="torn"),
        pytest.param(json.dumps({"pid": None, "host": 7}).encode(), id="strange values"),
        pytest.param(json.dumps({"pid": "9" * 400, "host": "x"}).encode(), id="no such pid"),
    ],
)
def test_a_damaged_card_hinders_nobody(tmp_path: Path, card: bytes) -> None:
    with held([tmp_path], command="backfill", wait_s=0):
        pass
    (tmp_path / "holder.json").write_bytes(card)
    present_holder(tmp_path)
    with other_process("watch", tmp_path):
        (tmp_path / "holder.json").write_bytes(card)
        with pytest.raises(LockedError), held([tmp_path], command="backfill", wait_s=0):
            pass
    with held([tmp_path], command="backfill", wait_s=0):
        assert holder(tmp_path) is not None


def test_a_named_pipe_in_the_place_of_the_card_hinders_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "holder.json")
    assert holder(tmp_path) is None
    with held([tmp_path], command="backfill", wait_s=0):
        assert holder(tmp_path) is not None


def test_a_folder_in_the_place_of_the_card_is_told(tmp_path: Path) -> None:
    (tmp_path / "holder.json").mkdir()
    with (
        pytest.raises(StorageError, match=r"holder\.json"),
        held([tmp_path], command="backfill", wait_s=0),
    ):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"holder.json", "lock"}


def test_a_folder_in_the_place_of_the_lock_is_told(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    with (
        pytest.raises(StorageError),
        held([tmp_path], command="backfill", wait_s=0),
    ):
        pass


# ---- whether it is still ours ------------------------------------------------------------


def test_a_lock_that_is_removed_is_lost(tmp_path: Path) -> None:
    with held([tmp_path], command="watch", wait_s=0):
        grip = Grip(tmp_path, tmp_path)
        assert grip.lost() is None
        (tmp_path / "lock").unlink()
        assert grip.lost() == tmp_path / "lock"


def test_a_lock_in_a_folder_that_was_moved_away_and_made_anew_is_lost(tmp_path: Path) -> None:
    folder = tmp_path / "dest"
    folder.mkdir()
    with held([folder], command="watch", wait_s=0):
        grip = Grip(tmp_path, folder)
        folder.rename(tmp_path / "elsewhere")
        folder.mkdir()
        with other_process("backfill", folder):
            assert grip.lost() == folder / "lock"


def test_another_lock_file_is_lost_only_where_others_may_take_it(tmp_path: Path) -> None:
    """A network file system may show the same file under another number."""
    lock, ours = tmp_path / "lock", tmp_path / "ours"
    lock.touch()
    grip = Grip(tmp_path, tmp_path)
    lock.rename(ours)
    with held([tmp_path], command="watch", wait_s=0):
        assert lock.stat().st_ino != ours.stat().st_ino
        assert grip.lost() is None
    assert grip.lost() == lock


def test_a_file_that_goes_with_the_lock_is_lost_alone(tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.db"
    manifest.touch()
    with held([tmp_path], command="watch", wait_s=0):
        grip = Grip(tmp_path, tmp_path, [manifest])
        assert grip.lost() is None
        manifest.unlink()
        assert grip.lost() == manifest


def test_a_destination_that_is_away_tells_nothing(tmp_path: Path) -> None:
    """It may have been unmounted, and be mounted again."""
    folder = tmp_path / "dest"
    folder.mkdir()
    with held([folder], command="watch", wait_s=0):
        grip = Grip(folder, folder)
        folder.rename(tmp_path / "away")
        assert grip.lost() is None
        (tmp_path / "away").rename(folder)
        assert grip.lost() is None


def test_who_has_taken_over_stays_the_holder(tmp_path: Path) -> None:
    with ExitStack() as stack:
        with held([tmp_path], command="watch", wait_s=0):
            (tmp_path / "lock").unlink()
            other = stack.enter_context(other_process("backfill", tmp_path))
        who = holder(tmp_path)
        assert who is not None
        assert who["pid"] == str(other.pid)
