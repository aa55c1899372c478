"""What is told of trouble, and when: once at its beginning, once at its end."""

from __future__ import annotations

import pytest

from fetcher.core.patience import RELOOK_S, Outage, Relook, Shortage
from fetcher.errors import ApiError, FetcherError, KeyRefusedError, StorageError


def test_an_outage_is_told_once_whatever_its_words() -> None:
    outage = Outage()
    told = [outage.note(ApiError(f"attempt {n} failed"), float(n)) for n in range(5)]
    assert told == [
        "attempt 0 failed. Watching goes on and catches up by itself.",
        *(None for _ in range(4)),
    ]
    assert (outage.failures, outage.since_s, str(outage.error)) == (5, 0.0, "attempt 4 failed")


def test_another_kind_of_trouble_is_told() -> None:
    outage = Outage()
    kinds: list[FetcherError] = [ApiError("down"), KeyRefusedError("401"), KeyRefusedError("403")]
    told = [outage.note(error, 1.0) is not None for error in kinds]
    assert told == [True, True, False]
    assert outage.is_refused


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ApiError("down"), "the API answers again"),
        (KeyRefusedError("401"), "the API answers again"),
        (StorageError("The disk is full."), "polling goes on"),
    ],
    ids=["api", "key", "storage"],
)
def test_the_end_of_an_outage_is_told_once(error: FetcherError, told: str) -> None:
    outage = Outage()
    assert outage.end() is None
    outage.note(error, 1.0)
    assert [outage.end(), outage.end()] == [told, None]
    assert (outage.failures, outage.error, outage.is_refused) == (0, None, False)


def test_the_next_outage_is_told_again_and_has_its_own_beginning() -> None:
    outage = Outage()
    outage.note(ApiError("down"), 1.0)
    outage.end()
    assert outage.note(ApiError("down"), 9.0) is not None
    assert outage.since_s == 9.0


def test_a_full_disk_is_told_once_until_something_was_stored() -> None:
    shortage = Shortage()
    full = StorageError("Not enough space.")
    assert shortage.note(full, 0) == "Not enough space. Downloading waits until there is room."
    assert [shortage.note(full, 0), shortage.end(0), shortage.note(full, 0)] == [None] * 3
    assert shortage.end(5_000) == "there is room again: downloading goes on"
    assert (shortage.end(6_000), shortage.error) == (None, None)
    assert shortage.note(full, 6_000) is not None


def test_room_is_looked_for_ever_more_rarely() -> None:
    shortage = Shortage()
    pauses_s = []
    for _ in range(7):
        shortage.note(StorageError("full"), 0)
        pauses_s.append(shortage.pause_s(3600.0))
    assert pauses_s == [30.0, 60.0, 120.0, 240.0, 480.0, 480.0, 480.0]
    shortage.note(StorageError("full"), 1)
    assert shortage.pause_s(2.0) == 2.0


def test_files_that_were_given_up_are_taken_up_ever_more_rarely_while_there_are_any() -> None:
    relook, now_s, pauses_s = Relook(30.0, 86_400.0), 0.0, list[float]()
    assert not relook.is_due(1e9)
    for _ in range(9):
        relook.note(3, 0, now_s)
        began_s = now_s
        while not relook.is_due(now_s):
            now_s += 300.0
        relook.passed(now_s)
        relook.note(0, 3, now_s)  # under way once more
        pauses_s.append(now_s - began_s)
    assert pauses_s == [min(RELOOK_S * 2**n, 86_400.0) for n in range(9)]
    relook.note(0, 0, now_s)
    assert not relook.is_due(1e9)


def test_a_new_failure_among_old_ones_is_taken_up_as_soon_as_the_first() -> None:
    relook = Relook(30.0, 86_400.0)
    relook.note(1, 0, 0.0)
    for now_s in (1e4, 2e4, 3e4, 4e4):
        relook.passed(now_s)
    relook.note(2, 0, 5e4)
    assert [relook.is_due(5e4 + RELOOK_S - 1), relook.is_due(5e4 + RELOOK_S)] == [False, True]


def test_after_an_outage_they_are_taken_up_at_once_but_not_at_every_flap() -> None:
    relook = Relook(30.0, 86_400.0)
    relook.note(2, 0, 0.0)
    assert not relook.is_due(10.0)
    relook.answered()
    assert relook.is_due(10.0)
    relook.passed(10.0)
    relook.note(2, 0, 20.0)
    relook.answered()
    assert [relook.is_due(309.0), relook.is_due(310.0)] == [False, True]


def test_an_outage_in_which_nothing_was_given_up_brings_no_full_pass() -> None:
    relook = Relook(30.0, 86_400.0)
    relook.answered()
    relook.note(0, 0, 5.0)
    relook.note(1, 0, 6.0)
    assert not relook.is_due(7.0)


def test_after_an_outage_one_full_pass_is_owed_to_what_was_given_up_or_will_be() -> None:
    relook, owed = Relook(30.0, 86_400.0), list[bool]()
    relook.answered()
    for failed, queued in ((0, 1), (1, 0)):  # it was under way as the API answered, and fails
        relook.note(failed, queued, 5.0)
        owed.append(relook.is_owed)
    relook.passed(6.0)
    relook.note(1, 0, 7.0)
    assert [*owed, relook.is_owed] == [False, True, False]
