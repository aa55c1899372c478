"""Hosts that asked for a pause, and the limit on bytes a second, in virtual time."""

from __future__ import annotations

import asyncio
import selectors
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fetcher.network.gates import Gates, Limiter, Pause, Visit

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

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

    first, *rest, last = in_virtual_time(work)
    assert first == pytest.approx(30)
    assert last == pytest.approx(45)
    assert all(30 < at_s <= 31 for at_s in rest)


def test_a_pause_tells_how_long_it_lasts_and_can_be_ended() -> None:
    async def work(clock: Callable[[], float]) -> list[float]:
        pause = Pause(clock)
        before = pause.left_s
        pause.ask(30)
        pause.ask(5)
        await asyncio.sleep(10)
        told = pause.left_s
        pause.end()
        await pause.passed()
        pause.ask(7)
        await pause.passed()
        return [before, told, pause.left_s, clock()]

    assert in_virtual_time(work) == pytest.approx([0, 20, 0, 17])


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
        pytest.param([(0, 0.5)], 0.5, id="a short one"),
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


class Counting:
    """A host that allows `rate` requests a second, `burst` at once, and refuses the others."""

    def __init__(self, clock: Callable[[], float], rate: float, burst: float) -> None:
        self._clock = clock
        self._rate, self._burst = rate, burst
        self._tokens, self._at_s = burst, 0.0
        self.asked_at_s: list[float] = []

    def takes(self) -> bool:
        now_s = self._clock()
        self._tokens = min(self._burst, self._tokens + (now_s - self._at_s) * self._rate)
        self._at_s = now_s
        self.asked_at_s.append(now_s)
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


async def ask_until_taken(gates: Gates, host: Counting, *, most: int = 1000) -> int:
    """Ask a host as a file does that is asked for again after a second; return how often."""

    async def wait(turn: Awaitable[None]) -> None:
        await turn

    for attempt in range(1, most + 1):
        visit = Visit(gates, wait)
        await visit.ask("a")
        await asyncio.sleep(0.01)  # until it has answered
        if host.takes():
            visit.answered()
            return attempt
        visit.refused(0.0)
        await asyncio.sleep(1.0)
    return most


@pytest.mark.parametrize("rate", [0.5, 2.0, 10.0, 50.0, 400.0])
@pytest.mark.parametrize("workers", [1, 16])
def test_a_host_that_counts_requests_is_asked_as_often_as_it_allows(
    rate: float, workers: int
) -> None:
    """Sixty files come in about the time that they must take, and few requests are refused."""

    async def work(clock: Callable[[], float]) -> tuple[float, int, int]:
        gates, host = Gates(clock), Counting(clock, rate, 3)
        files = iter(range(60))
        most = 0

        async def worker() -> None:
            nonlocal most
            for _ in files:
                most = max(most, await ask_until_taken(gates, host))

        await asyncio.gather(*(worker() for _ in range(workers)))
        return clock(), len(host.asked_at_s), most

    took_s, requests, most = in_virtual_time(work)
    assert took_s <= 2 * 60 / rate + 12
    assert requests <= 150
    assert most <= 6


def test_those_who_wait_pass_in_the_order_of_their_coming() -> None:
    async def work(clock: Callable[[], float]) -> list[int]:
        gates = Gates(clock)
        gates.hold("a", 5)
        passed: list[int] = []

        async def pass_(number: int) -> None:
            await gates.passed("a")
            passed.append(number)

        await asyncio.gather(*(pass_(number) for number in range(50)))
        return passed

    assert in_virtual_time(work) == list(range(50))


def test_a_gate_that_many_requests_have_passed_is_gone() -> None:
    async def work(clock: Callable[[], float]) -> bool:
        gates, host = Gates(clock), Counting(clock, 1e9, 1e9)
        gates.hold("a", 5)
        for _ in range(40):
            await ask_until_taken(gates, host)
        return gates.is_clear("a")

    assert in_virtual_time(work)


def test_a_host_that_takes_nothing_is_not_asked_ever_more_slowly() -> None:
    """It is down, whatever it says; each file has its six attempts, and the run has an end."""

    async def work(clock: Callable[[], float]) -> float:
        gates, host = Gates(clock), Counting(clock, 0, 0)
        await asyncio.gather(*(ask_until_taken(gates, host, most=6) for _ in range(60)))
        return clock()

    assert in_virtual_time(work) <= 60 * 6 / 4 + 60


@pytest.mark.parametrize(
    ("taken_at_s", "is_busy"),
    [(None, False), (1.0, False), (3.0, True)],
    ids=["nothing", "something before", "something since"],
)
def test_a_host_that_takes_other_requests_is_busy_and_not_down(
    taken_at_s: float | None, is_busy: bool
) -> None:
    async def work(clock: Callable[[], float]) -> bool:
        gates = Gates(clock)
        gates.refused("a", 0.0, asked_s=0, since_s=0.0)
        if taken_at_s is not None:
            await asyncio.sleep(taken_at_s)
            gates.answered("a", clock())
        await asyncio.sleep(5)
        return gates.refused("a", clock(), asked_s=0, since_s=2.0)

    assert in_virtual_time(work) is is_busy


def test_a_pause_of_more_than_ten_minutes_closes_no_gate_but_halves_the_pace() -> None:
    async def work(clock: Callable[[], float]) -> list[float]:
        gates = Gates(clock, delay_s=1)
        passed_at_s: list[float] = []
        for _ in range(3):
            gates.refused("a", clock(), asked_s=601, since_s=0.0)
            assert not gates.is_held("a")
            await gates.passed("a")
            passed_at_s.append(clock())
        return passed_at_s

    assert in_virtual_time(work) == pytest.approx([0.5, 1.5, 3.5])


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
