"""What a test or a demonstration tells the simulator: jobs, their ends, links, faults.

Owns the account and the words for changing it; `server` adds the network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from fetcher.simulator.api import ApiHabits
from fetcher.simulator.audio import wav_duration_s
from fetcher.simulator.clock import SimClock
from fetcher.simulator.content import Content, Filler, Melody, Stored, whole
from fetcher.simulator.faults import FaultBook
from fetcher.simulator.generated import Generated
from fetcher.simulator.history import DEFAULT_ERROR, Account, SimJob
from fetcher.simulator.links import Links
from fetcher.simulator.log import RequestLog, SimRequest
from fetcher.simulator.record import link, make_id
from fetcher.simulator.serving import Serving

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime

DEFAULT_BYTES = 4_000
_FIRST_AGO_S = 30 * 86_400.0  # jobs begin a month ago and are a second apart
_GENERATED_AGO_S = 31 * 86_400.0


class Script(ApiHabits):
    """The account of a simulator, and how a script changes it.

    Attributes that may be set at any time: those of `ApiHabits`, `serving` (how files are
    served), `api_down` and `host_down` (true: connections are closed; a status: answered
    with it), `submit_takes_s` (simulated). `faults` takes what shall go wrong.
    """

    def __init__(self, seed: int, started_at: float, speed: float) -> None:
        super().__init__()
        self.clock = SimClock(started_at, speed)
        self.account = Account(self.clock)
        self.links = Links(seed, self.clock)
        self.faults = FaultBook()
        self.log = RequestLog()
        self.serving = Serving()
        self.api_down: bool | int = False
        self.host_down: bool | int = False
        self.submit_takes_s = 3.0
        self._seed = seed
        self._added = 0
        self._started_at = started_at

    # ---- jobs --------------------------------------------------------------------------

    def add_job(  # noqa: PLR0913 - the one-line vocabulary of tests: any subset, by name
        self,
        file_name: str = "audio.wav",
        *,
        status: Literal["pending", "success", "failed"] | None = None,
        content: bytes | None = None,
        size_bytes: int = DEFAULT_BYTES,
        duration_s: float | None = None,
        created_at: datetime | float | None = None,
        finishes_after_s: float | None = None,
        fails_after_s: float | None = None,
        error: str | None = None,
        id: str | None = None,  # noqa: A002 - the record's own word
        audio_duration: float | None = None,
        serving: Serving | None = None,
        **overrides: object,
    ) -> str:
        """Add a job, by default a success newer than all others; return its id.

        Its clean audio is `content`, or real audio of `duration_s`, or `size_bytes` of filler
        in a WAV. With `finishes_after_s` or `fails_after_s` (simulated seconds) it is pending
        until then; `error` is the reason of a failure. `overrides` replace fields of its
        record (`OMIT` leaves one out). Raises ValueError where the id is taken.
        """
        job_id = id if id is not None else self._next_id()
        source, result = _contents(job_id, content, size_bytes, duration_s)
        at = self._time_of(created_at)
        delays = [s for s in (finishes_after_s, fails_after_s) if s is not None]
        state = status or ("pending" if delays else "success")
        updated_at = self.clock.now() if delays else at
        if audio_duration is None:
            audio_duration = duration_s or round(wav_duration_s(result.size_bytes), 3)
        job = SimJob(
            id=job_id,
            created_at=at,
            updated_at=updated_at,
            source=source,
            result=result,
            file_name=file_name,
            audio_duration_s=audio_duration,
            status=state,
            error=(error or DEFAULT_ERROR) if state == "failed" else None,
            serving=serving,
            overrides=overrides,
            due_at=updated_at + min(delays) if delays else None,
            due_error=(error or DEFAULT_ERROR) if fails_after_s is not None else None,
        )
        self.account.add(job)
        return job_id

    def add_jobs(
        self,
        count: int,
        *,
        size_bytes: int = DEFAULT_BYTES,
        duration_s: float | None = None,
        file_name: str = "audio.wav",
        serving: Serving | None = None,
    ) -> list[str]:
        """Add `count` finished jobs; return their ids, oldest first.

        `{n}` in `file_name` becomes 0, 1, 2, ...
        """
        return [
            self.add_job(
                file_name.replace("{n}", str(n)),
                size_bytes=size_bytes,
                duration_s=duration_s,
                serving=serving,
            )
            for n in range(count)
        ]

    def insert(self, position: int, file_name: str = "audio.wav", *, size_bytes: int = 4000) -> str:
        """Add a finished job that stands at `position` of the list, 0 being the newest."""
        at = self.account.created_at_for(position)
        return self.add_job(file_name, created_at=at, size_bytes=size_bytes)

    def add_raw(self, value: object, position: int = 0) -> None:
        """Put any JSON value into the list in place of a record; bytes go out as they are."""
        self.account.add_raw(value, position)

    def generate(self, count: int, size_bytes: int, *, pending: Collection[int] = ()) -> Generated:
        """Let the account end in `count` jobs that are made on demand, up to 1,000,000.

        They are older than any job added without `created_at`; rank 0 is the newest of them,
        and `pending` the ranks that are not finished. The answer knows `id(rank)`.
        """
        newest_at = self._started_at - _GENERATED_AGO_S
        self.account.generated = Generated(count, size_bytes, newest_at)
        self.account.generated.set_pending(pending)
        return self.account.generated

    def submit(self, file_name: str, data: bytes) -> str:
        """Add what a client uploaded as a pending job that ends by itself; return its id."""
        job_id = self._next_id()
        now = self.clock.now()
        self.account.add(
            SimJob(
                id=job_id,
                created_at=now,
                updated_at=now,
                source=Stored(data),
                result=Melody(job_id, 1.0, clean=True),
                file_name=file_name,
                audio_duration_s=1.0,
                status="pending",
                due_at=now + self.submit_takes_s,
            )
        )
        return job_id

    # ---- what happens to them ----------------------------------------------------------

    def finish(self, job_id: str, /) -> None:
        """Make a job a success now; its stream says so at once."""
        self.account.finish(job_id)

    def fail(self, job_id: str, error: str = DEFAULT_ERROR, /) -> None:
        """Make a job a failure of the service now."""
        self.account.fail(job_id, error)

    def reopen(self, job_id: str, /, finishes_after_s: float | None = None) -> None:
        """Make a job pending again, for good or for so many simulated seconds."""
        due = None if finishes_after_s is None else self.clock.now() + finishes_after_s
        self.account.reopen(job_id, due)

    def delete(self, job_id: str, /) -> None:
        """Take a job out of the account; its links and its stream answer 404 from now on."""
        self.account.delete(job_id)

    def override(self, job_id: str, /, **fields: object) -> None:
        """Replace fields of a job's record in the list, whatever the job really is."""
        self.account.changeable(job_id).overrides.update(fields)

    def progress(self, job_id: str, /, pct: float, message: str | None = None) -> None:
        """Say how far a pending job is; its stream says so at once."""
        job = self.account.changeable(job_id)
        job.pct, job.message = pct, message
        self.account.notify(job_id)

    def change(self, job_id: str, /, content: bytes | None = None) -> None:
        """Put another clean file behind a job's link: other bytes, ETag and Last-Modified."""
        job = self.account.changeable(job_id)
        job.version += 1
        size_bytes = job.result.size_bytes
        salt = f"{job_id}:{job.version}"
        job.result = Filler(size_bytes, salt) if content is None else Stored(content)

    def serve(self, job_id: str, /, serving: Serving) -> None:
        """Let one job's files be served in a way of their own."""
        self.account.changeable(job_id).serving = serving

    def expire_links(self, job_id: str | None = None) -> None:
        """Refuse every link given out so far (of one job, or of all); new ones are right."""
        if job_id is None:
            self.links.epoch += 1
        else:
            self.account.changeable(job_id).link_epoch += 1

    def advance(self, seconds: float) -> None:
        """Move the simulated time on by so many seconds."""
        self.clock.advance(seconds)
        self.account.settle()

    # ---- what is true, and what was asked ----------------------------------------------

    @property
    def ids(self) -> list[str]:
        """The ids of all jobs but the generated ones, newest first."""
        return self.account.ids()

    def job(self, job_id: str, /) -> SimJob:
        """Return a job as it is; raises KeyError where there is none."""
        return self.account.get(job_id)

    def content(self, job_id: str, /) -> bytes:
        """Return the clean audio of a job, as its link delivers it."""
        return whole(self.account.get(job_id).result)

    def original(self, job_id: str, /) -> bytes:
        """Return the upload of a job."""
        return whole(self.account.get(job_id).source)

    def url(self, job_id: str, /, part: Literal["audio", "original"] = "audio") -> str:
        """Return a fresh link to a job's audio."""
        job = self.account.get(job_id)
        return link(job, part, self.links, job.serving or self.serving)

    @property
    def requests(self) -> list[SimRequest]:
        """Every request so far, in the order in which they came."""
        return self.log.all()

    @property
    def list_requests(self) -> list[SimRequest]:
        """The requests for pages of the history."""
        return self.log.of("list")

    def audio_requests(self, job_id: str | None = None) -> list[SimRequest]:
        """Return the requests for clean audio, of one job or of all."""
        return self.log.of("audio", job=job_id)

    def bytes_sent(self, job_id: str | None = None) -> int:
        """Return the bytes of bodies that the file host has sent, of one job or of all."""
        return sum(r.body_bytes for r in self.log.of("audio", "original", job=job_id))

    # ---- inside ------------------------------------------------------------------------

    def _next_id(self) -> str:
        self._added += 1
        return make_id(self._seed, self._added)

    def _time_of(self, created_at: datetime | float | None) -> float:
        if created_at is None:
            newest_at = self.account.newest_at()
            first_at = self._started_at - _FIRST_AGO_S
            return first_at if newest_at is None else newest_at + 1.0
        return created_at if isinstance(created_at, int | float) else created_at.timestamp()


def _contents(
    job_id: str, content: bytes | None, size_bytes: int, duration_s: float | None
) -> tuple[Content, Content]:
    """Return (upload, clean result) of a new job."""
    if duration_s is not None:
        return Melody(job_id, duration_s, clean=False), Melody(job_id, duration_s, clean=True)
    result = Filler(size_bytes, job_id) if content is None else Stored(content)
    return Filler(result.size_bytes, job_id + ":source"), result
