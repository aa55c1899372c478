"""Reading the manifest at any time: beside a writer, after a kill, and while one begins."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fetcher.core.filters import Rules
from fetcher.errors import ManifestError
from fetcher.manifest import schema
from fetcher.manifest.files import Stored
from fetcher.manifest.listing import Intake
from fetcher.manifest.reader import Reader, Selection, StateTally
from fetcher.manifest.store import Store
from fetcher.models import Entry, Job, JobId, State, Status, Variant

if TYPE_CHECKING:
    from collections.abc import Iterable

START = datetime(2025, 1, 1, tzinfo=UTC)


def job(number: int, status: Status = Status.SUCCESS, **fields: Any) -> Job:
    at = START + timedelta(minutes=number)
    usual: dict[str, Any] = {
        "file_name": f"talk {number}.wav",
        "audio_url": "https://files.example/a.wav" if status is Status.SUCCESS else None,
        "original_audio_url": "https://files.example/a.mp4",
        "created_at": at,
        "updated_at": at,
        "error": "no speech" if status is Status.FAILED else None,
    }
    return Job(JobId(f"job-{number:06}"), status, **(usual | fields))


def write(path: Path, jobs: Iterable[Job], *, originals: bool = False) -> list[int]:
    """Let a run record these jobs; return their rows."""
    with closing(Store(path)) as store:
        absorbed = store.absorb(list(jobs), Intake(Rules(), originals, 0, 0), {})
    return [one.seq for one in absorbed.listed]


def ids(entries: Iterable[Entry]) -> list[str]:
    return [entry.job.id for entry in entries]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / schema.FILE_NAME


@pytest.fixture
def mixed(path: Path) -> Path:
    """Give a manifest with a file in every state."""
    jobs = [
        *(job(number) for number in range(5)),
        job(5, Status.PENDING),
        job(6, Status.FAILED),
        job(7, Status.FAILED, error="too noisy", audio_duration_s=5.0),
        job(8, Status.FAILED, audio_duration_s=7.0),
    ]
    rows = write(path, jobs, originals=True)
    with closing(Store(path)) as store:
        store.complete(
            [
                Stored(rows[0], "a.wav", "a.wav", 1_000, "ab" * 32, START),
                Stored(rows[1], "b.wav", "b.wav", 234, "cd" * 32, START),
            ]
        )
        store.fail(rows[2], "404", 3)
        store.set_state([rows[3]], State.FILTERED)
        store.set_total(rows[4], 999, State.PARTIAL)
    return path


# ---- what is read ------------------------------------------------------------------------


def test_rows_come_newest_job_first_and_its_clean_file_first(mixed: Path) -> None:
    with Reader(mixed) as reader:
        rows = [(entry.job.id, entry.variant) for entry in reader.entries()]
    clean, original = Variant.DENOISED, Variant.ORIGINAL
    assert rows == [
        *((f"job-{number:06}", clean) for number in (8, 7, 6, 5)),
        *((f"job-{number:06}", kind) for number in (4, 3, 2, 1, 0) for kind in (clean, original)),
    ]


def test_jobs_of_one_time_and_without_any_come_in_a_steady_order(path: Path) -> None:
    times = [None, START, None, START, START]
    write(path, [job(n, created_at=at) for n, at in enumerate(times)])
    with Reader(path) as reader:
        assert ids(reader.entries()) == [f"job-{n:06}" for n in (1, 3, 4, 0, 2)]


SELECTIONS = [
    pytest.param(Selection(), range(9), id="all"),
    pytest.param(Selection(states=(State.COMPLETE,)), [0, 1], id="complete"),
    pytest.param(Selection(states=(State.FAILED, State.WAITING)), [2, 5], id="two states"),
    pytest.param(Selection(since=START + timedelta(minutes=7)), [7, 8], id="since, inclusive"),
    pytest.param(Selection(until=START + timedelta(minutes=1)), [0, 1], id="until, inclusive"),
    pytest.param(Selection(match=("talk [1-3]*", "*8.wav")), [1, 2, 3, 8], id="globs"),
    pytest.param(Selection(match=("nothing",)), [], id="no match"),
    pytest.param(
        Selection(states=(State.REJECTED,), match=("talk 6*",), since=START), [6], id="all at once"
    ),
]


@pytest.mark.parametrize(("selection", "numbers"), SELECTIONS)
def test_a_selection_reads_what_it_names(
    mixed: Path, selection: Selection, numbers: Iterable[int]
) -> None:
    with Reader(mixed) as reader:
        found = {entry.job.id for entry in reader.entries(selection)}
    assert found == {f"job-{number:06}" for number in numbers}


def test_tallies_count_files_and_bytes_of_each_state(mixed: Path) -> None:
    with Reader(mixed) as reader:
        tallies = reader.tallies()
    clean = {one.state: one for one in tallies if one.variant is Variant.DENOISED}
    assert {state: one.files for state, one in clean.items()} == {
        State.COMPLETE: 2,
        State.FAILED: 1,
        State.FILTERED: 1,
        State.PARTIAL: 1,
        State.WAITING: 1,
        State.REJECTED: 3,
    }
    assert clean[State.COMPLETE].bytes_stored == 1_234
    assert StateTally(Variant.ORIGINAL, State.QUEUED, 5, 0) in tallies


def test_rejected_jobs_come_by_reason_with_what_they_share(mixed: Path) -> None:
    with Reader(mixed) as reader:
        found = [
            (one.entry.job.id, one.entry.job.error, one.sharing_jobs, one.sharing_s)
            for one in reader.rejected(Selection())
        ]
    assert found == [
        ("job-000008", "no speech", 2, 7.0),
        ("job-000006", "no speech", 2, 7.0),
        ("job-000007", "too noisy", 1, 5.0),
    ]


def test_single_facts_are_looked_up(mixed: Path) -> None:
    with closing(Store(mixed)) as store:
        store.put({"last_poll_at": "today"})
    with Reader(mixed) as reader:
        assert reader.get("last_poll_at") == "today"
        assert reader.get("unheard of") is None
        assert reader.owner("a.wav") == "job-000000"
        assert reader.owner("z.wav") is None
        assert reader.is_empty() is False
        assert reader.reasons(5) == [("404", 1)]
        assert reader.ids_from("job-00000", 3) == [f"job-{n:06}" for n in range(3)]
        known = reader.look_up([JobId("job-000002"), JobId("unheard of")])
        assert {job_id: one.state for job_id, one in known.items()} == {"job-000002": State.FAILED}


def test_files_that_were_complete_are_read_in_pieces(mixed: Path) -> None:
    with Reader(mixed) as reader:
        first = reader.stored(("", ""), 1)
        second = reader.stored((first[0].job.id, str(first[0].variant)), 5)
    assert [entry.path for entry in first + second] == ["a.wav", "b.wav"]


def test_one_row_is_found_by_its_job_and_variant(mixed: Path) -> None:
    with Reader(mixed) as reader:
        every = list(reader.entries())
        assert [reader.entry(one.job.id, one.variant) for one in every] == every
        assert reader.entry(JobId("nobody"), Variant.DENOISED) is None


def test_what_is_left_comes_by_ticket_in_batches_but_for_what_is_over_for_good(path: Path) -> None:
    seqs = write(path, map(job, range(7)))
    with closing(Store(path)) as store:
        store.fail(seqs[1], "404", 1, for_good=True)
        store.fail(seqs[2], "500", 1)
        store.set_state([seqs[3]], State.FILTERED)
        store.retry({JobId("job-000002")})  # goes to the end of the queue
    with Reader(path) as reader:
        first = reader.left((0, 0), 3)
        ticket, last = first[-1]
        rest = reader.left((ticket, last.seq), 3)
        assert reader.left((rest[-1][0], rest[-1][1].seq), 3) == []
    numbers = [int(entry.job.id[-6:]) for _, entry in first + rest]
    assert numbers == [0, 4, 5, 6, 2]


def test_without_a_manifest_everything_is_empty(tmp_path: Path) -> None:
    with Reader(tmp_path / "nowhere" / schema.FILE_NAME) as reader:
        assert list(reader.entries()) == []
        assert list(reader.rejected(Selection())) == []
        assert reader.tallies() == []
        assert reader.is_empty()
        assert reader.get("last_poll_at") is None
        assert reader.entry(JobId("a"), Variant.DENOISED) is None
        assert reader.left((0, 0), 9) == []
    assert list(tmp_path.iterdir()) == []


# ---- beside a writer ---------------------------------------------------------------------


def test_what_is_committed_is_read_while_the_writer_goes_on(path: Path) -> None:
    with closing(Store(path)) as store:
        run = Intake(Rules(), originals=False, run_base=0, retry_base=0)
        store.absorb([job(1)], run, {})
        with Reader(path) as reader:
            assert ids(reader.entries()) == ["job-000001"]
            store.absorb([job(2)], run, {})
            assert ids(reader.entries()) == ["job-000002", "job-000001"]
            assert reader.look_up([JobId("job-000002")])


def churn(path: Path, count: int) -> None:
    """Change every row and add as many, as a long run does, and fold the log in."""
    with closing(Store(path)) as store:
        store.absorb(
            [job(n, file_name="x" * 300, updated_at=START) for n in range(2 * count)],
            Intake(Rules(), originals=False, run_base=0, retry_base=0),
            {},
        )


@pytest.mark.parametrize("given", [0, 1, 499, 500, 501, 1_200])
def test_a_run_that_begins_while_rows_are_read_spoils_none(path: Path, given: int) -> None:
    count = 3_000
    write(path, (job(n) for n in range(count)))
    with Reader(path) as reader:
        rows = iter(reader.entries())
        seen = [str(next(rows).job.id) for _ in range(given)]
        churn(path, count)
        seen += ids(rows)
    before = {f"job-{n:06}" for n in range(count)}
    assert before <= set(seen)
    assert len(seen) == len(set(seen)), "a row came twice"
    assert seen[given:] == sorted(seen[given:], reverse=True)


def test_a_run_that_begins_while_undated_rows_are_read_spoils_none(path: Path) -> None:
    write(path, (job(n, created_at=None if n % 2 else START) for n in range(2_000)))
    with Reader(path) as reader:
        rows = iter(reader.entries())
        seen = [str(next(rows).job.id) for _ in range(1_500)]
        churn(path, 10)
        seen += ids(rows)
    assert len(seen) == len(set(seen)) == 2_000


def test_a_run_that_begins_while_rejected_jobs_are_read_spoils_none(path: Path) -> None:
    write(path, (job(n, Status.FAILED) for n in range(2_000)))
    with Reader(path) as reader:
        rows = iter(reader.rejected(Selection()))
        seen = [next(rows).entry.job.id for _ in range(700)]
        write(path, [job(9_999, Status.PENDING)])
        seen += [one.entry.job.id for one in rows]
    assert len(seen) == len(set(seen)) == 2_000


def test_an_open_reader_finds_what_a_later_run_has_written(path: Path) -> None:
    write(path, [job(1)])
    with Reader(path) as reader:
        assert reader.is_empty() is False
        write(path, [job(2)])
        assert reader.look_up([JobId("job-000002")])
        assert sum(one.files for one in reader.tallies()) == 2


def test_damage_that_comes_while_rows_are_read_is_told(path: Path) -> None:
    write(path, (job(n) for n in range(3_000)))
    with Reader(path) as reader:
        rows = iter(reader.entries())
        next(rows)
        data = path.read_bytes()
        path.write_bytes(data[:8192] + bytes(len(data) - 8192))
        with pytest.raises(ManifestError):
            list(rows)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("bytes_stored", "x"),
        ("bytes_total", b"x"),
        ("path", b"\xff\x00"),
        ("audio_duration_s", "x"),
        ("audio_size_bytes", 1.5),
        ("created_us", "x"),
        ("attempts", "x"),
        ("file_name", b"x"),
        ("audio_url", b"x"),
    ],
)
def test_a_value_of_a_wrong_type_is_damage(path: Path, column: str, value: object) -> None:
    write(path, [job(1)])
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(f"UPDATE entry SET {column} = ?", (value,))
    with pytest.raises(ManifestError, match="damaged"), Reader(path) as reader:
        list(reader.entries())


def test_a_new_manifest_in_the_place_of_the_old_one_is_read(path: Path) -> None:
    write(path, (job(n) for n in range(2_000)))
    with Reader(path) as reader:
        rows = iter(reader.entries())
        next(rows)
        path.rename(path.with_name("old.db"))
        write(path, [job(1), job(2)])
        assert ids(rows)[-2:] == ["job-000002", "job-000001"]


# ---- after a kill ------------------------------------------------------------------------

WRITE_AND_DIE = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_reader import job, write
from fetcher.core.filters import Rules
from fetcher.manifest.listing import Intake
from fetcher.manifest.store import Store
store = Store(Path(sys.argv[1]))
store.absorb([job(n) for n in range(100)], Intake(Rules(), False, 0, 0), {})
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def killed(path: Path) -> Path:
    """Give a manifest whose writer was killed: all it wrote is in the log beside it."""
    tests = str(Path(__file__).parent)
    ended = subprocess.run([sys.executable, "-c", WRITE_AND_DIE, str(path), tests], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert schema.has_log(path)
    return path


def test_what_a_killed_run_wrote_is_read(killed: Path) -> None:
    with Reader(killed) as reader:
        assert len(ids(reader.entries())) == 100


def test_what_a_killed_run_wrote_is_read_without_its_shared_memory(killed: Path) -> None:
    killed.with_name(killed.name + "-shm").unlink()
    with Reader(killed) as reader:
        assert len(ids(reader.entries())) == 100


@pytest.mark.parametrize("keep", [0, 31, 4_000, -1])
def test_a_torn_log_costs_only_what_it_held(killed: Path, keep: int) -> None:
    log = killed.with_name(killed.name + "-wal")
    log.write_bytes(log.read_bytes()[:keep])
    before = killed.read_bytes()
    with Reader(killed) as reader:
        assert set(ids(reader.entries())) <= {f"job-{n:06}" for n in range(100)}
    assert killed.read_bytes() == before
    write(killed, [job(200)])
    with Reader(killed) as reader:
        assert "job-000200" in ids(reader.entries())


def test_reading_after_a_kill_changes_no_byte_of_the_manifest(killed: Path) -> None:
    log = killed.with_name(killed.name + "-wal")
    before = killed.read_bytes(), log.read_bytes()
    with Reader(killed) as reader:
        reader.tallies()
    assert (killed.read_bytes(), log.read_bytes()) == before
