"""Streams of pending jobs: which are followed, for how long, and what their words lead to.

The streams are scripted and the clock is moved by hand.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from support import E, eventually

from fetcher.core.sse import Done, Errored, Processing, Progress, Unknown
from fetcher.errors import ContentError, KeyRefusedError, ManifestError, StatusError
from fetcher.events import Event, JobProgress, JobSettled
from fetcher.models import Job, JobId, Status
from fetcher.runs.live import MOST_STREAMS, Live

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Sequence

    from fetcher.errors import FetcherError

URL = "https://files.example/a.wav?X-Signature=1"


@dataclass(slots=True)
class Scripted:
    """Streams that say what their job's script has, and then stay open or end."""

    scripts: dict[JobId, Sequence[Progress | FetcherError]] = field(default_factory=dict)
    stay_open: bool = False
    opened: Counter[JobId] = field(default_factory=Counter)
    open_now: set[JobId] = field(default_factory=set)

    @asynccontextmanager
    async def progress(
        self, job_id: JobId, *, gap_s: float
    ) -> AsyncIterator[AsyncIterator[Progress]]:
        self.opened[job_id] += 1
        self.open_now.add(job_id)
        try:
            await asyncio.sleep(0)
            yield self._stages(job_id)
        finally:
            self.open_now.discard(job_id)

    async def _stages(self, job_id: JobId) -> AsyncGenerator[Progress]:
        for one in self.scripts.get(job_id, ()):
            if isinstance(one, Exception):
                raise one
            yield one
        if self.stay_open:
            await asyncio.Event().wait()


@dataclass(slots=True)
class Scene:
    """A `Live` on scripted streams, and all that it tells."""

    streams: Scripted = field(default_factory=Scripted)
    events: list[Event] = field(default_factory=list)
    done: list[tuple[str, str]] = field(default_factory=list)
    polls: int = 0
    now_s: float = 1000.0
    trouble: FetcherError | None = None

    async def _on_done(self, job_id: JobId, url: str) -> None:
        self.done.append((job_id, url))
        if self.trouble is not None:
            raise self.trouble

    def _on_end(self) -> None:
        self.polls += 1

    def live(self) -> Live:
        return Live(
            self.streams, self.events.append, self._on_done, self._on_end, lambda: self.now_s
        )

    def of(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]


def pending(*names: str) -> list[Job]:
    return [Job(JobId(name), Status.PENDING, f"{name}.wav") for name in names]


async def all_ended(scene: Scene) -> None:
    """Let the streams that are about to end do so."""
    await eventually(lambda: not scene.streams.open_now)
    await asyncio.sleep(0)


async def all_said() -> None:
    """Let every stream that was just opened say what its script has."""
    for _ in range(5):
        await asyncio.sleep(0)


async def told(*stages: Progress | FetcherError) -> Scene:
    """Follow one job whose stream says that and ends."""
    scene = Scene(Scripted({JobId("a"): stages}))
    live = scene.live()
    live.follow(pending("a"))
    await eventually(lambda: bool(scene.of(JobSettled)))
    await live.close()
    return scene


async def test_percentages_and_messages_are_told() -> None:
    scene = await told(Processing(0.0, "Queued"), Processing(37.5), Processing(100.0, "x"))
    assert [(e.id, e.pct, e.message) for e in scene.of(JobProgress)] == [
        ("a", 0.0, "Queued"),
        ("a", 37.5, None),
        ("a", 100.0, "x"),
    ]
    assert (scene.done, scene.polls) == ([], 0)


async def test_done_hands_the_link_over_untouched() -> None:
    scene = await told(Processing(3.0), Done(URL, "a"))
    assert scene.done == [("a", URL)]
    assert scene.polls == 0


async def test_what_follows_done_is_not_heard() -> None:
    scene = await told(Done(URL), Done(URL), Processing(3.0), Errored("late"))
    assert (scene.done, scene.polls, scene.of(JobProgress)) == ([("a", URL)], 0, [])


async def test_the_id_of_done_may_be_written_in_capitals() -> None:
    assert (await told(Done(URL, "A"))).done == [("a", URL)]


@pytest.mark.parametrize(
    "done",
    [
        Done("file:///etc/passwd"),
        Done("/relative.wav"),
        Done("javascript:alert(1)"),
        Done("https://"),
        Done(URL, "another-job"),
    ],
    ids=lambda done: f"{done.url} {done.denoise_id}",
)
async def test_a_done_that_cannot_be_used_only_calls_for_a_poll(done: Done) -> None:
    scene = await told(done)
    assert (scene.done, scene.polls) == ([], 1)


async def test_a_failed_job_calls_for_a_poll() -> None:
    scene = await told(Errored("no speech"))
    assert (scene.done, scene.polls) == ([], 1)


@pytest.mark.parametrize(
    "said",
    [
        [],
        [Unknown("a stage called 'warming'")],
        [Processing(None, "no number")],
        [StatusError(404, "unknown job")],
        [ContentError("the answer is no event stream")],
    ],
    ids=["silence", "unknown stage", "no number", "404", "html"],
)
async def test_a_stream_that_is_of_no_use_costs_nothing(
    said: Sequence[Progress | FetcherError],
) -> None:
    scene = await told(*said)
    assert (scene.done, scene.polls, scene.of(JobProgress)) == ([], 0, [])
    assert [event.id for event in scene.of(JobSettled)] == ["a"]


async def test_trouble_with_the_manifest_is_not_the_streams_matter() -> None:
    scene = Scene(Scripted({JobId("a"): [Done(URL)]}), trouble=ManifestError("damaged"))
    live = scene.live()
    live.follow(pending("a"))
    await eventually(lambda: bool(scene.of(JobSettled)))
    await live.close()


# ---- who is followed, and when again -----------------------------------------------------


async def test_a_bounded_number_is_followed_oldest_first() -> None:
    scene = Scene(Scripted(stay_open=True))
    names = [f"job-{n:02}" for n in range(30)]
    live = scene.live()
    for _ in range(3):
        live.follow(pending(*names))
        await asyncio.sleep(0)
    assert scene.streams.open_now == set(names[:MOST_STREAMS])
    assert set(scene.streams.opened.values()) == {1}
    await live.close()
    assert scene.streams.open_now == set()


async def test_a_stream_without_effect_is_opened_ever_more_rarely() -> None:
    scene = Scene(Scripted({JobId("a"): [ContentError("no event stream")]}))
    live = scene.live()
    opened_at_s = []
    for second in range(3600):
        scene.now_s = 1000.0 + second
        before = scene.streams.opened[JobId("a")]
        live.follow(pending("a"))
        await all_ended(scene)
        await asyncio.sleep(0)
        if scene.streams.opened[JobId("a")] > before:
            opened_at_s.append(second)
    await live.close()
    pauses = [late - early for early, late in pairwise(opened_at_s)]
    assert pauses == [5, 10, 20, 40, 80, 160, 320, 600, 600, 600, 600]


async def test_a_stream_that_was_worth_it_is_opened_again_soon() -> None:
    """The service closes a stream in time; a job that is worked on for hours stays followed."""
    scene = Scene(Scripted({JobId("a"): [Processing(1.0)]}, stay_open=True))
    live = scene.live()
    for _ in range(7):
        scene.events.clear()
        live.follow(pending("a"))
        await eventually(lambda: bool(scene.of(JobProgress)))
        scene.now_s += 400.0
        await live.close()  # as an end from outside
        await all_ended(scene)
        scene.now_s += 6.0
    assert scene.streams.opened == {"a": 7}


async def test_others_have_their_turn_at_the_streams() -> None:
    scene = Scene(Scripted(stay_open=True))
    names = [f"job-{n:02}" for n in range(3 * MOST_STREAMS)]
    live = scene.live()
    followed: Counter[str] = Counter()
    for _ in range(60):
        live.follow(pending(*names))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(scene.streams.open_now) <= MOST_STREAMS
        followed.update(scene.streams.open_now)
        scene.now_s += 60.0
    assert set(followed) == set(names)
    assert max(followed.values()) <= 2 * min(followed.values())
    await live.close()


async def test_without_others_a_stream_is_never_cut() -> None:
    scene = Scene(Scripted(stay_open=True))
    live = scene.live()
    for _ in range(30):
        live.follow(pending("a", "b"))
        await asyncio.sleep(0)
        scene.now_s += 600.0
    assert scene.streams.opened == {"a": 1, "b": 1}
    await live.close()


async def test_a_job_that_is_no_longer_pending_is_let_go() -> None:
    scene = Scene(Scripted(stay_open=True))
    live = scene.live()
    live.follow(pending("a", "b"))
    await asyncio.sleep(0)
    live.follow(pending("b"))
    await eventually(lambda: scene.streams.open_now == {"b"})
    await eventually(lambda: [event.id for event in scene.of(JobSettled)] == ["a"])
    await live.close()


async def test_closing_waits_until_every_stream_has_ended() -> None:
    scene = Scene(Scripted(stay_open=True))
    live = scene.live()
    before = len(asyncio.all_tasks())
    live.follow(pending(*"abcdef"))
    await asyncio.sleep(0)
    live.follow(pending("a"))
    await live.close()
    assert len(asyncio.all_tasks()) == before
    assert scene.streams.open_now == set()


async def test_a_stream_that_is_dropped_before_it_began_leaves_nothing() -> None:
    scene = Scene(Scripted(stay_open=True))
    live = scene.live()
    live.follow(pending("a"))
    live.follow([])
    await live.close()
    assert scene.streams.opened == {}


@pytest.mark.parametrize(
    "error",
    [KeyRefusedError("401"), StatusError(503, "busy"), ContentError("no event stream")],
    ids=["401", "503", "html"],
)
async def test_an_api_that_refuses_every_stream_is_left_alone_until_a_poll(
    error: FetcherError,
) -> None:
    names = [f"job-{n:03}" for n in range(300)]
    scene = Scene(Scripted({JobId(name): [error] for name in names}))
    live = scene.live()
    for _ in range(20):
        scene.now_s += 2.0
        live.follow(pending(*names))
        await all_said()
    assert scene.streams.opened.total() == MOST_STREAMS
    live.trust()
    live.follow(pending(*names))
    await all_said()
    assert scene.streams.opened.total() == 2 * MOST_STREAMS
    await live.close()


async def test_a_key_that_one_stream_was_refused_opens_no_other() -> None:
    scene = Scene(Scripted({JobId("a"): [KeyRefusedError("401")]}, stay_open=True))
    live = scene.live()
    live.follow(pending("a"))
    await eventually(lambda: bool(scene.of(JobSettled)))
    live.follow(pending("a", "b"))
    await asyncio.sleep(0)
    assert scene.streams.opened == {"a": 1}
    scene.now_s += 60.0
    live.follow(pending("a", "b"))
    await eventually(lambda: scene.streams.open_now == {"b"})
    await live.close()
