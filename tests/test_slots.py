"""Who may be under way, who waits, and who steps aside for others."""

from __future__ import annotations

import asyncio

import pytest

from fetcher.transfers.slots import MOST_ASIDE_OPEN, Slots


async def settled() -> None:
    """Let every task come to where it waits."""
    for _ in range(5):
        await asyncio.sleep(0)


async def until(event: asyncio.Event) -> None:
    await event.wait()


async def test_so_many_are_under_way_and_the_others_follow_in_order() -> None:
    slots, entered = Slots(2), []

    async def file(number: int) -> None:
        await slots.enter()
        entered.append(number)

    tasks = [asyncio.create_task(file(number)) for number in range(5)]
    await settled()
    assert (entered, slots.idle) == ([0, 1], 0)
    slots.leave()
    await settled()
    assert entered == [0, 1, 2]
    for _ in range(4):
        slots.leave()
    await asyncio.gather(*tasks)
    assert (entered, slots.idle) == ([0, 1, 2, 3, 4], 2)


async def test_who_steps_aside_lets_another_one_in_and_comes_back() -> None:
    slots, opened, told = Slots(1), asyncio.Event(), []
    slots.when_free(lambda: told.append(slots.aside))
    await slots.enter()
    waiting = asyncio.create_task(slots.step_aside(until(opened), is_open=False))
    await settled()
    await asyncio.wait_for(slots.enter(), 1)
    assert (told, slots.aside) == ([1], 1)
    opened.set()
    await settled()
    assert not waiting.done()
    slots.leave()
    await asyncio.wait_for(waiting, 1)
    assert (slots.aside, slots.idle) == (0, 0)
    slots.leave()
    assert slots.idle == 1


@pytest.mark.parametrize("is_open_gate", [False, True], ids=["at the gate", "coming back"])
async def test_a_cancelled_one_costs_nobody_a_slot(is_open_gate: bool) -> None:
    slots, opened = Slots(1), asyncio.Event()

    async def file() -> None:
        await slots.enter()
        try:
            await slots.step_aside(until(opened), is_open=False)
        finally:
            slots.leave()

    task = asyncio.create_task(file())
    await settled()
    await slots.enter()
    if is_open_gate:
        opened.set()
        await settled()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    slots.leave()
    assert (slots.aside, slots.idle) == (0, 1)
    await asyncio.wait_for(slots.enter(), 1)


async def test_few_of_those_that_hold_open_files_step_aside() -> None:
    slots, opened = Slots(MOST_ASIDE_OPEN + 1), asyncio.Event()

    async def file() -> None:
        await slots.enter()
        await slots.step_aside(until(opened), is_open=True)
        slots.leave()

    tasks = [asyncio.create_task(file()) for _ in range(MOST_ASIDE_OPEN + 1)]
    await settled()
    assert (slots.aside, slots.idle) == (MOST_ASIDE_OPEN, MOST_ASIDE_OPEN)
    opened.set()
    await asyncio.gather(*tasks)
    assert (slots.aside, slots.idle) == (0, MOST_ASIDE_OPEN + 1)
