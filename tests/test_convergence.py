"""Invented histories: jobs come, end and go, hosts lie, runs crash; then all is well.

A state machine over the engine, the simulator and a real folder. Whatever happened, what is
visible is always a right file, and one run without faults brings home whatever is missing:
every finished job's file once, nothing else, and nothing is fetched again after that.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from support import check_account, check_pairs, files, run, short_path, unfinished
from support import settings as options

from fetcher.engine import Fetcher
from fetcher.events import DownloadFailed
from fetcher.manifest.reader import Reader
from fetcher.models import State, Variant
from fetcher.simulator import Fault, Serving, Simulator

if TYPE_CHECKING:
    from fetcher.events import Event, RunCompleted

FOREIGN = b"written by somebody else"
NAMES = ("talk.wav", "TALK.wav", "مقابلة.mp4", "")
SIZES = (100, 4_000, 70_000, 400_000)
SERVINGS = (
    Serving(),
    Serving(etag="weak"),
    Serving(etag=None),
    Serving(etag=None, last_modified=False),
    Serving(length="chunked"),
    Serving(length="close"),
    Serving(length="close", etag=None, last_modified=False),
    Serving(ranges=False),
    Serving(gzip=True),
    Serving(digests=("repr-digest", "content-digest", "x-goog-hash", "content-md5")),
    Serving(redirects=(302, 307), redirect_to="other"),
)
HOST_FAULTS: tuple[dict[str, Any], ...] = (
    {"cut_after_bytes": 0},
    {"cut_after_bytes": 50},
    {"cut_after_bytes": 30_000},
    {"cut_after_bytes": 300_000, "reset": True},
    {"status": 500},
    {"status": 503, "headers": {"Retry-After": "0.02"}},
    {"status": 429, "headers": {"Retry-After": "3600"}},
    {"status": 403},
    {"status": 416},
    {"html": True},
    {"body": b""},
    {"body": b'{"message": "no"}'},
    {"disconnect": True},
    {"ignore_range": True},
    {"change_file": True},
    {"content_range": "bytes 0-9/10"},
    {"digest": "wrong"},
    {"hang_up": True},
    {"stall_after_bytes": 20},
)
LIST_FAULTS: tuple[dict[str, Any], ...] = (
    {"status": 500},
    {"html": True},
    {"cut_after_bytes": 30},
    {"body": b"[]"},
    {"disconnect": True},
)


ALIKE = "aaaaaaaa"


@dataclass(frozen=True, slots=True)
class New:
    """A job to be added; ids of some begin alike."""

    name: str
    size_bytes: int
    serving: Serving
    is_alike: bool
    status: Any


JOBS = st.lists(
    st.builds(
        New,
        name=st.sampled_from(NAMES),
        size_bytes=st.sampled_from(SIZES),
        serving=st.sampled_from(SERVINGS),
        is_alike=st.booleans(),
        status=st.sampled_from(["success", "success", "success", "pending", "failed"]),
    ),
    min_size=1,
    max_size=6,
)
FAULTS = st.lists(
    st.one_of(
        st.builds(
            lambda effect, after, times: Fault("audio", after=after, times=times, **effect),
            st.sampled_from(HOST_FAULTS),
            st.integers(0, 3),
            st.integers(1, 4),
        ),
        st.builds(
            lambda effect, after: Fault("list", after=after, **effect),
            st.sampled_from(LIST_FAULTS),
            st.integers(0, 4),
        ),
        st.just(Fault("progress", times=3, status=500)),
    ),
    min_size=1,
    max_size=6,
)


class Histories(RuleBasedStateMachine):
    """One account, one folder, and what was ever right for each job."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.home = Path(tempfile.mkdtemp(prefix="fetcher-"))
        self.dest = self.home / "dest"
        self.versions: dict[str, set[bytes]] = {}
        self.gone: set[str] = set()
        self.back: set[str] = set()
        self.foreign: set[Path] = set()
        self.serial = 0
        self.is_manifest_lost = False

    @initialize(seed=st.integers(0, 3), jobs=st.integers(1, 12), size=st.sampled_from(SIZES))
    def begin(self, seed: int, jobs: int, size: int) -> None:
        self.sim = Simulator(seed)
        self.runner.run(self.sim.__aenter__())
        for job in self.sim.add_jobs(jobs, size_bytes=size):
            self.versions[job] = {self.sim.content(job)}

    def teardown(self) -> None:
        try:
            if hasattr(self, "sim"):
                self.converge()
        finally:
            if hasattr(self, "sim"):
                self.runner.run(self.sim.__aexit__(None, None, None))
            self.runner.close()
            shutil.rmtree(self.home)

    # ---- the service ----

    @rule(jobs=JOBS)
    def add(self, jobs: list[New]) -> None:
        for new in jobs:
            self.serial += 1
            job_id = f"{ALIKE}-0000-4000-8000-{self.serial:012d}" if new.is_alike else None
            job = self.sim.add_job(
                new.name,
                size_bytes=new.size_bytes,
                serving=new.serving,
                id=job_id,
                status=new.status,
            )
            self.versions[job] = {self.sim.content(job)}

    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        for job in self.some(data, "pending"):
            self.sim.finish(job)

    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        for job in self.some(data, "pending"):
            self.sim.fail(job)

    @rule(data=st.data(), which=st.sampled_from(["pending", "failed"]))
    def take_back(self, data: st.DataObject, which: str) -> None:
        """Let the service work on a finished job anew, or fail it after all; it ends well."""
        for job in self.some(data, "success"):
            self.back.add(job)
            if which == "pending":
                self.sim.reopen(job)
            else:
                self.sim.fail(job)

    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        for job in self.some(data, "success", "pending", "failed"):
            self.gone.add(job)
            self.sim.delete(job)

    @rule()
    def expire(self) -> None:
        self.sim.expire_links()

    @rule(cap=st.sampled_from([None, 1, 3]), envelope=st.booleans())
    def change_habits(self, cap: int | None, *, envelope: bool) -> None:
        self.sim.page_cap, self.sim.envelope = cap, envelope

    # ---- the disk ----

    @rule()
    def lose_the_manifest(self) -> None:
        self.is_manifest_lost = True
        for path in (self.dest / ".fetcher").glob("manifest.db*"):
            path.unlink()

    @rule(data=st.data())
    def put_something_in_the_way(self, data: st.DataObject) -> None:
        for job in self.some(data, "success", "pending"):
            path = self.dest / short_path(self.sim.job(job).file_name or "untitled", job)
            if not path.exists() and not path.parent.is_file():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(FOREIGN)
                self.foreign.add(path)

    @rule(keep=st.floats(0, 1), zeros=st.booleans())
    def lose_the_tail_of_parts(self, keep: float, *, zeros: bool) -> None:
        """Do to unfinished files what a power cut may: their ends missing, or zeros."""
        for name in unfinished(self.dest):
            path = self.dest / ".fetcher" / "partial" / name
            content = path.read_bytes()
            at = int(len(content) * keep)
            path.write_bytes(content[:at] + (bytes(len(content) - at) if zeros else b""))

    # ---- runs ----

    @rule(jobs=JOBS, faults=FAULTS)
    def run(self, jobs: list[New], faults: list[Fault]) -> None:
        self.prepare(jobs, faults)
        ran = self.runner.run(run(self.sim.api_url, self.dest, **QUICK))
        assert ran.exit_code in {0, 1, 4}
        self.check_visible()

    @rule(jobs=JOBS, faults=FAULTS, after=st.integers(1, 60))
    def run_and_stop(self, jobs: list[New], faults: list[Fault], after: int) -> None:
        """Stop a run at one of its events, as a signal does."""
        self.prepare(jobs, faults)
        events: list[Event] = []
        fetcher = Fetcher(options(self.sim.api_url, self.dest, **QUICK))

        def sink(event: Event) -> None:
            events.append(event)
            if len(events) == after:
                fetcher.stop.ask(143)

        final: RunCompleted = self.runner.run(fetcher.run_backfill(sink))
        assert final.exit_code in {0, 1, 4, 143}
        check_account(final)
        check_pairs(events)
        self.check_visible()

    @rule(jobs=JOBS, faults=FAULTS, after=st.integers(1, 60))
    def run_and_crash(self, jobs: list[New], faults: list[Fault], after: int) -> None:
        """Go on with the disk as it was at one event of a run: what a kill leaves behind."""
        self.prepare(jobs, faults)
        crashed = self.home / "crashed"
        count = 0
        fetcher = Fetcher(options(self.sim.api_url, self.dest, **QUICK))

        def sink(_: Event) -> None:
            nonlocal count
            count += 1
            if count == after:
                copy_as_killed(self.dest, crashed)
                fetcher.stop.ask(143)

        self.runner.run(fetcher.run_backfill(sink))
        if crashed.exists():
            shutil.rmtree(self.dest)
            crashed.rename(self.dest)
        self.check_visible()

    @rule(jobs=JOBS, faults=FAULTS, after=st.integers(1, 60))
    def run_and_cancel(self, jobs: list[New], faults: list[Fault], after: int) -> None:
        """Cancel a run's task at one of its events, as a program that uses the library may."""
        self.prepare(jobs, faults)
        events: list[Event] = []

        async def cancelled() -> None:
            task = asyncio.create_task(fetcher.run_backfill(sink))
            tasks.append(task)
            await asyncio.gather(task, return_exceptions=True)

        def sink(event: Event) -> None:
            events.append(event)
            if len(events) == after:
                tasks[0].cancel()

        tasks: list[asyncio.Task[RunCompleted]] = []
        fetcher = Fetcher(options(self.sim.api_url, self.dest, **QUICK))
        self.runner.run(cancelled())
        check_pairs(events)
        self.check_visible()

    def prepare(self, jobs: list[New], faults: list[Fault]) -> None:
        """Add jobs, and put these faults in force in place of all others."""
        self.add(jobs)
        self.sim.faults.clear()
        self.sim.faults.add(*(replace(fault) for fault in faults))

    @rule()
    def converge(self) -> None:
        """Run without faults: all is there, and a second run does nothing."""
        self.sim.faults.clear()
        if not self.sim.ids:
            self.add([New("last.wav", 100, Serving(), is_alike=False, status="success")])
        for job in self.back - self.gone:
            if self.sim.job(job).status != "success":
                self.sim.finish(job)
        self.note_versions()
        ran = self.runner.run(run(self.sim.api_url, self.dest, **QUICK))
        assert {event.id for event in ran.of(DownloadFailed)} <= self.gone
        assert ran.exit_code in ({0, 1} if self.gone else {0})
        self.check_whole()
        asked = [r for r in self.sim.audio_requests() if r.job not in self.gone]
        again = self.runner.run(run(self.sim.api_url, self.dest, **QUICK))
        assert (again.final.downloaded, again.final.adopted) == (0, 0)
        assert [r for r in self.sim.audio_requests() if r.job not in self.gone] == asked

    # ---- what must be true ----

    def some(self, data: st.DataObject, *statuses: str) -> list[str]:
        """Return at most one job of these statuses."""
        jobs = [job for job in self.sim.ids if self.sim.job(job).status in statuses]
        return [data.draw(st.sampled_from(jobs))] if jobs else []

    def note_versions(self) -> None:
        """Remember what a fault may have put behind a link."""
        for job in self.sim.ids:
            self.versions[job].add(self.sim.content(job))

    def check_visible(self) -> None:
        """Assert that every visible file is right for some job, or not ours and untouched."""
        self.note_versions()
        right = set().union(*self.versions.values())
        for path, content in files(self.dest).items():
            if self.dest / path in self.foreign:
                assert content == FOREIGN
            else:
                assert content in right, path

    def check_whole(self) -> None:
        """Assert that each finished job has its one file, and that nothing else is there."""
        self.check_visible()
        seen = files(self.dest)
        with Reader(self.dest / ".fetcher" / "manifest.db") as reader:
            complete = {
                entry.job.id: entry.path
                for entry in reader.entries()
                if entry.state is State.COMPLETE and entry.variant is Variant.DENOISED
            }
        for job in self.sim.ids:
            if self.sim.job(job).status == "success":
                path = complete[job]  # type: ignore[index]  # the simulator's ids are plain text
                assert path is not None
                assert seen[path] in self.versions[job]
        paths = list(complete.values())
        assert len(set(paths)) == len(paths)
        strangers = {str(path.relative_to(self.dest)) for path in self.foreign}
        left = {path for path, content in seen.items() if self.may_be_left(content)}
        assert seen.keys() - strangers - left == set(paths) - left

    def may_be_left(self, content: bytes) -> bool:
        """Return whether a file of no known job may hold this.

        That of a deleted job may. So may, once the manifest was lost, that of a job whose id
        begins like another's: both may want the path where it stands.
        """
        alike = {job for job in self.versions if job.startswith(ALIKE)}
        jobs = self.gone | alike if self.is_manifest_lost else self.gone
        return any(content in self.versions[job] for job in jobs)


QUICK: dict[str, Any] = {"timeout": 0.4, "page_size": 4, "concurrency": 3, "retries": 1}


def copy_as_killed(dest: Path, to: Path) -> None:
    """Copy what a process that ends now leaves, its threads still at work meanwhile.

    The database is read before its log, which only grows, and both before the files: what
    they call complete must be there.
    """
    state = Path(".fetcher")
    database = [state / "manifest.db", state / "manifest.db-wal"]
    others = [path.relative_to(dest) for path in sorted(dest.rglob("*")) if path.is_file()]
    unwanted = {*database, state / "manifest.db-shm", state / "lock", state / "holder.json"}
    held = {path: (dest / path).read_bytes() for path in database if (dest / path).exists()}
    for path in others:
        if path not in unwanted:
            with contextlib.suppress(FileNotFoundError):
                (to / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(dest / path, to / path)
    for path, content in held.items():
        (to / path).parent.mkdir(parents=True, exist_ok=True)
        (to / path).write_bytes(content)


TestHistories = Histories.TestCase
TestHistories.settings = settings(
    max_examples=10,
    stateful_step_count=15,
    deadline=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
