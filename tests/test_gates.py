"""Hosts that asked for a pause, and the limit on bytes a second, in virtual time."""

from __future__ import annotations

import asyncio
import selectors
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fetcher.gates import Gates, Limiter, host_of

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")


class Clock(asyncio.SelectorEventLoop):
    """A loop whose time stands still while there is work and jumps when all tasks wait."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        jumping = self

        class Selector(selectors.DefaultSelector):
            def select(self, timeout: float | None = None) -> Any:
                ready = super().select(0)
                if not ready and timeout is None:
                    raise RuntimeError("everybody waits for something that never comes")
                if not ready and timeout:
                    jumping.now_s += timeout
                return ready

        super().__init__(Selector())

    def time(self) -> float:
        return self.now_s


def in_virtual_time(work: Callable[[Callable[[], float]], Coroutine[Any, Any, T]]) -> T:
    """Return what `work` returns; it is given a clock that begins at 0."""
    with asyncio.Runner(loop_factory=Clock) as runner:
        loop = runner.get_loop()
        return runner.run(work(lambda: loop.time() - 1000.0))


# ---- gates -------------------------------------------------------------------------------


def test_an_open_gate_lets_everybody_through_at_once() -> None:
    async def work(clock: Callable[[], float]) -> float:
        await Gates(clock).passed("a")
        return clock()

    assert in_virtual_time(work) == 0


def test_a_held_gate_holds_back_everybody_until_the_time_and_no_longer() -> None:
    async def work(clock: Callable[[], float]) -> list[float]:
        gates = Gates(clock)
        gates.hold("a", 30)

        async def pass_at(start_s: float) -> float:
            await asyncio.sleep(start_s)
            await gates.passed("a")
            return clock()

        return await asyncio.gather(*(pass_at(start_s) for start_s in (0, 10, 29.9, 30, 45)))

    assert in_virtual_time(work) == pytest.approx([30, 30, 30, 30, 45])


def test_a_gate_tells_how_long_it_is_shut_and_can_be_opened() -> None:
    async def work(clock: Callable[[], float]) -> list[float]:
        gates = Gates(clock)
        gates.hold("a", 30)
        await asyncio.sleep(10)
        told = [gates.left_s("a"), gates.left_s("b")]
        gates.open("a")
        await gates.passed("a")
        return [*told, gates.left_s("a"), clock()]

    assert in_virtual_time(work) == pytest.approx([20, 0, 0, 10])


def test_another_host_is_not_held_back() -> None:
    async def work(clock: Callable[[], float]) -> float:
        gates = Gates(clock)
        gates.hold("a", 30)
        await gates.passed("b")
        return clock()

    assert in_virtual_time(work) == 0


@pytest.mark.parametrize(
    ("holds", "opens_at"),
    [
        pytest.param([(0, 30), (10, 5)], 30, id="a shorter pause shortens nothing"),
        pytest.param([(0, 30), (10, 60)], 70, id="a longer one lengthens"),
        pytest.param([(0, 30), (29, 30), (58, 30)], 88, id="again and again"),
        pytest.param([(0, 0)], 0, id="no pause"),
    ],
)
def test_who_waits_obeys_what_is_asked_meanwhile(
    holds: list[tuple[float, float]], opens_at: float
) -> None:
    async def work(clock: Callable[[], float]) -> float:
        gates = Gates(clock)

        async def hold(at_s: float, delay_s: float) -> None:
            await asyncio.sleep(at_s)
            gates.hold("a", delay_s)

        async with asyncio.TaskGroup() as group:
            for at_s, delay_s in holds:
                group.create_task(hold(at_s, delay_s))
            await asyncio.sleep(0.001)
            await gates.passed("a")
            return clock()

    assert in_virtual_time(work) == pytest.approx(opens_at, abs=0.002)


def test_who_gives_up_waiting_leaves_the_gate_as_it_is() -> None:
    async def work(clock: Callable[[], float]) -> float:
        gates = Gates(clock)
        gates.hold("a", 30)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await gates.passed("a")
        await gates.passed("a")
        return clock()

    assert in_virtual_time(work) == pytest.approx(30)


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://Files.Example/a.wav?x=1", "files.example"),
        ("https://files.example:8443/a.wav", "files.example:8443"),
        ("http://user:pass@files.example/a", "files.example"),
        ("http://[::1]:80/a", "[::1]:80"),
        ("", ""),
        ("no url", ""),
        ("http://[broken", ""),
    ],
)
def test_the_host_of_a_link_is_its_name_and_port(url: str, host: str) -> None:
    assert host_of(url) == host


# ---- the limit ---------------------------------------------------------------------------


def test_without_a_limit_nobody_waits() -> None:
    async def work(clock: Callable[[], float]) -> float:
        limiter = Limiter(None, clock)
        for _ in range(100):
            await limiter.take(10**9)
        return clock()

    assert in_virtual_time(work) == 0
    assert Limiter(None, lambda: 0.0).slice_bytes(1 << 20) == 1 << 20


@pytest.mark.parametrize(
    ("rate", "most", "expected"),
    [
        (1_000_000.0, 1 << 20, 100_000),
        (1e12, 1 << 20, 1 << 20),
        (5.0, 1 << 20, 1),
        (0.001, 1 << 20, 1),
        (1_000.0, 7, 7),
    ],
)
def test_a_slice_is_a_tenth_of_a_second_and_never_nothing(
    rate: float, most: int, expected: int
) -> None:
    assert Limiter(rate, lambda: 0.0).slice_bytes(most) == expected


@settings(deadline=None, max_examples=50)
@given(
    rate=st.floats(1.0, 1e7),
    takers=st.integers(1, 12),
    rounds=st.integers(1, 30),
    idle_s=st.sampled_from([0.0, 0.05, 3.0]),
)
def test_the_rate_is_never_exceeded_and_none_of_it_is_lost(
    rate: float, takers: int, rounds: int, idle_s: float
) -> None:
    """However many take turns, at no time have more bytes been granted than the rate allows."""

    async def work(clock: Callable[[], float]) -> list[tuple[float, int]]:
        limiter = Limiter(rate, clock)
        granted: list[tuple[float, int]] = []
        size = limiter.slice_bytes(1 << 20)

        async def transfer() -> None:
            for _ in range(rounds):
                await limiter.take(size)
                granted.append((clock(), size))
                await asyncio.sleep(idle_s)

        await asyncio.gather(*(transfer() for _ in range(takers)))
        return granted

    total = 0
    for at_s, size in in_virtual_time(work):
        total += size
        assert total <= rate * at_s * (1 + 1e-6) + 1e-3
    if idle_s == 0:
        assert at_s == pytest.approx(total / rate, rel=1e-6)


def test_transfers_share_the_rate_evenly() -> None:
    async def work(clock: Callable[[], float]) -> list[int]:
        limiter = Limiter(1_000_000, clock)
        taken = [0] * 5

        async def transfer(number: int) -> None:
            while True:
                size = limiter.slice_bytes(1 << 20)
                await limiter.take(size)
                taken[number] += size

        tasks = [asyncio.create_task(transfer(number)) for number in range(5)]
        await asyncio.sleep(10.01)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return taken

    taken = in_virtual_time(work)
    assert sum(taken) == pytest.approx(10_000_000, rel=0.02)
    assert max(taken) - min(taken) <= 100_000


def test_a_pause_of_all_transfers_earns_no_burst() -> None:
    async def work(clock: Callable[[], float]) -> float:
        limiter = Limiter(1_000, clock)
        await limiter.take(100)
        await asyncio.sleep(3_600)
        began_s = clock()
        for _ in range(10):
            await limiter.take(100)
        return clock() - began_s

    assert in_virtual_time(work) == pytest.approx(1.0)
