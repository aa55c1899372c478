"""The walk through a list that changes while it is read: nothing is missed, and it ends."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fetcher.core.pages import tied
from fetcher.core.paging import Walk
from fetcher.errors import ApiError
from fetcher.models import Job, JobId, Status

Element = str | None  # an id, or an element without a readable one


def ids(count: int, prefix: str = "r") -> list[Element]:
    return [f"{prefix}{n}" for n in range(count)]


@dataclass
class Server:
    """A list that answers by offset, never more than `cap` elements at once.

    `caps` are used up first, one for each request; `script` maps the number of a request
    (from 1 on) to what happens to the list just before it is answered; `blind` requests get
    an empty answer, whatever the list holds.
    """

    items: list[Element]
    cap: int | None = None
    caps: list[int] = field(default_factory=list)
    script: dict[int, list[Change]] = field(default_factory=dict)
    every: list[Change] = field(default_factory=list)
    blind: frozenset[int] = frozenset()
    asked: list[tuple[int, int]] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)
    made: int = 0

    def answer(self, offset: int, limit: int) -> list[Element]:
        self.asked.append((offset, limit))
        number = len(self.asked)
        for change in [*self.script.get(number, []), *self.every]:
            change.apply(self)
        if number in self.blind:
            return []
        caps = [limit, *([self.cap] if self.cap else []), *self.caps[:1]]
        self.caps = self.caps[1:]
        return self.items[offset : offset + min(caps)]

    def walk(self, page_size: int, most_requests: int = 2000) -> set[str]:
        """Walk through the list; return the ids of those that were in it all the time."""
        stayed = {one for one in self.items if one is not None}
        walk = Walk(page_size)
        while not walk.finished:
            assert len(self.asked) < most_requests, self.asked[-20:]
            page = self.answer(walk.next.offset, walk.next.limit)
            readable = [JobId(one) for one in page if one is not None]
            self.seen.update(readable)
            walk.feed(readable, len(page))
        return stayed & {one for one in self.items if one is not None}


@dataclass(frozen=True)
class Change:
    """So many elements deleted or inserted at a share (0 to 1) of the list's length."""

    where: float
    delete: int = 0
    insert: int = 0
    blank: bool = False

    def apply(self, server: Server) -> None:
        at = int(self.where * len(server.items))
        fresh: list[Element] = []
        for _ in range(self.insert):
            server.made += 1
            fresh.append(None if self.blank else f"new{server.made}")
        server.items[at : at + self.delete] = fresh


# ---- lists that do not change ------------------------------------------------------------


@pytest.mark.parametrize("cap", [None, 1, 2, 3, 10, 199, 200])
@pytest.mark.parametrize("page_size", [1, 2, 3, 5, 7, 50, 200])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 6, 10, 11, 200, 201])
def test_every_record_is_seen_whatever_the_page_size(
    count: int, page_size: int, cap: int | None
) -> None:
    server = Server(ids(count), cap=cap)
    assert server.walk(page_size) <= server.seen
    assert len(server.seen) == count


@pytest.mark.parametrize(
    ("count", "page_size", "most"),
    [
        pytest.param(0, 200, 1, id="empty"),
        pytest.param(1, 200, 3, id="one record"),
        pytest.param(150, 200, 3, id="one page"),
        pytest.param(200, 200, 4, id="exactly one page"),
        pytest.param(2_000, 200, 14, id="ten pages"),
        pytest.param(100_000, 1000, 104, id="a hundred pages"),
        pytest.param(50, 1, 152, id="pages of one record are looked at three times"),
    ],
)
def test_an_unchanged_list_costs_its_pages_and_few_requests_more(
    count: int, page_size: int, most: int
) -> None:
    server = Server(ids(count))
    server.walk(page_size)
    assert len(server.asked) <= most


def test_every_request_asks_for_the_page_size() -> None:
    server = Server(ids(90), cap=20)
    server.walk(37)
    assert {limit for _, limit in server.asked} == {37}
    assert min(offset for offset, _ in server.asked) == 0


@pytest.mark.parametrize("start", [0, 1, 150, 194, 195, 196, 199, 200, 399, 594])
@pytest.mark.parametrize("length", [1, 5, 6, 100, 200, 201, 450])
def test_a_run_of_malformed_elements_anywhere_hides_nothing(start: int, length: int) -> None:
    items = ids(600)
    items[start : start + length] = [None] * len(items[start : start + length])
    server = Server(items)
    assert server.walk(200) <= server.seen
    assert len(server.asked) <= 20


@pytest.mark.parametrize("page_size", [1, 2, 3, 200])
def test_a_list_of_nothing_but_malformed_elements_ends(page_size: int) -> None:
    server = Server([None] * 50)
    server.walk(page_size)
    assert max(offset for offset, _ in server.asked) >= 49


@pytest.mark.parametrize("page_size", [1, 2, 3, 10])
@pytest.mark.parametrize(
    "items",
    [
        pytest.param(["a"] * 30 + ["b"], id="one record many times"),
        pytest.param(["a", "b"] * 15 + ["c"], id="two records in turn"),
        pytest.param([*ids(20), *ids(20), "z"], id="the whole list twice"),
        pytest.param([one for one in ids(20) for _ in range(2)], id="each record twice"),
    ],
)
def test_duplicates_hide_nothing(items: list[Element], page_size: int) -> None:
    server = Server(items)
    assert server.walk(page_size) <= server.seen


@settings(deadline=None)
@given(
    items=st.lists(st.sampled_from(["a", "b", "c", "d", "e", "f", None]), max_size=60),
    page_size=st.integers(1, 25),
    cap=st.none() | st.integers(1, 12),
)
def test_lists_of_duplicates_and_malformed_elements_are_read_whole(
    items: list[Element], page_size: int, cap: int | None
) -> None:
    server = Server(list(items), cap=cap)
    assert server.walk(page_size) <= server.seen


@settings(deadline=None)
@given(
    count=st.integers(0, 120),
    page_size=st.integers(1, 30),
    caps=st.lists(st.integers(1, 12), max_size=200),
)
def test_pages_of_any_size_are_read_whole(count: int, page_size: int, caps: list[int]) -> None:
    server = Server(ids(count), caps=caps, cap=7)
    assert server.walk(page_size) <= server.seen


# ---- lists that change -------------------------------------------------------------------


def touches(server: Server, page_size: int) -> list[tuple[int, bool]]:
    """Walk through the list; return each page's offset, and whether it touched."""
    walk, told = Walk(page_size), []
    while not walk.finished:
        offset = walk.next.offset
        page = server.answer(offset, walk.next.limit)
        walk.feed([JobId(one) for one in page if one is not None], len(page))
        told.append((offset, walk.touched))
    return told


def test_pages_of_an_unchanged_list_touch_but_for_the_looks_at_its_end() -> None:
    assert touches(Server(ids(24)), 10) == [
        *[(0, True), (5, True), (10, True), (15, True)],  # half of a page is shared
        *[(24, False), (19, False)],
    ]


def test_a_page_behind_a_gap_does_not_touch_until_the_walk_went_back() -> None:
    told = touches(Server(ids(40), script={2: [Change(0.0, delete=8)]}), 10)
    assert told[:4] == [(0, True), (5, False), (0, True), (5, True)]


def test_a_page_of_one_record_touches_once_it_was_read_again() -> None:
    assert touches(Server(ids(9), cap=1), 1)[:4] == [(0, True), (1, False), (0, False), (1, True)]


def test_a_page_right_behind_a_short_one_does_not_touch() -> None:
    assert touches(Server(ids(60), cap=20), 50)[:3] == [(0, True), (20, False), (15, True)]


def test_a_page_behind_one_in_which_nothing_could_be_read_does_not_touch() -> None:
    told = touches(Server([*([None] * 15), *ids(30)], cap=5), 5)
    assert [touched for offset, touched in told if offset == 6] == [False]


CHANGES = st.builds(
    Change,
    where=st.sampled_from([0.0, 0.0, 0.25, 0.5, 0.75, 0.95, 1.0]),
    delete=st.sampled_from([0, 1, 2, 4, 5, 6, 10, 40]),
    insert=st.sampled_from([0, 0, 1, 2, 6, 10]),
)
SCRIPTS = st.dictionaries(st.integers(2, 30), st.lists(CHANGES, min_size=1, max_size=3))


@settings(deadline=None)
@given(
    count=st.integers(0, 150),
    page_size=st.integers(1, 60),
    cap=st.none() | st.integers(1, 12),
    script=SCRIPTS,
)
@example(20, 7, None, {2: [Change(0.0, delete=6)]})
@example(20, 10, None, {3: [Change(0.0, delete=4), Change(1.0, insert=4)]})
def test_whatever_stays_in_the_list_is_seen(
    count: int, page_size: int, cap: int | None, script: dict[int, list[Change]]
) -> None:
    server = Server(ids(count), cap=cap, script=script)
    try:
        stayed = server.walk(page_size)
    except ApiError:
        assert not server.items  # all of it was deleted: told, and not taken for the truth
    else:
        assert stayed <= server.seen


@settings(deadline=None)
@given(
    count=st.integers(20, 150),
    page_size=st.integers(10, 60),
    holes=st.sets(st.integers(0, 149), max_size=15),
    inserts=st.dictionaries(
        st.integers(2, 20),
        st.builds(Change, st.just(0.0), insert=st.integers(1, 12), blank=st.booleans()).map(
            lambda one: [one]
        ),
    ),
)
@example(
    count=20,
    page_size=10,
    holes=set(),
    inserts={2: [Change(0.0, insert=1)], 3: [Change(0.0, insert=10, blank=True)]},
)
def test_insertions_amid_malformed_elements_hide_nothing(
    count: int, page_size: int, holes: set[int], inserts: dict[int, list[Change]]
) -> None:
    items = [None if n in holes else one for n, one in enumerate(ids(count))]
    server = Server(items, script=inserts)
    assert server.walk(page_size) <= server.seen


@pytest.mark.parametrize("count", [5, 50, 200, 500])
@pytest.mark.parametrize("inserted", [1, 7, 30])
def test_a_record_that_comes_before_every_request_does_not_keep_the_walk_from_ending(
    count: int, inserted: int
) -> None:
    server = Server(ids(count), every=[Change(0.0, insert=inserted)])
    assert server.walk(100) <= server.seen
    assert len(server.asked) <= 15


@pytest.mark.parametrize("number", range(2, 20))
@pytest.mark.parametrize(("page_size", "cap"), [(1, None), (20, 1)])
def test_a_deletion_that_an_insertion_makes_up_for_hides_nothing_between_pages_of_one(
    number: int, page_size: int, cap: int | None
) -> None:
    script = {number: [Change(0.0, delete=1)], number + 1: [Change(0.0, insert=1)]}
    server = Server(ids(10), cap=cap, script=script)
    assert server.walk(page_size) <= server.seen


@pytest.mark.parametrize("number", range(2, 30))
@pytest.mark.parametrize("deleted", [2, 4, 10])
@pytest.mark.parametrize(("page_size", "cap"), [(2, None), (20, 2), (2, 7)])
def test_deletions_behind_malformed_elements_hide_nothing_from_small_pages(
    page_size: int, cap: int | None, deleted: int, number: int
) -> None:
    items = [*ids(12), *([None] * 3), *ids(20, "s")]
    server = Server(items, cap=cap, script={number: [Change(0.0, delete=deleted)]})
    assert server.walk(page_size) <= server.seen


@pytest.mark.parametrize("deleted", [1, 4, 5, 6, 20, 60])
def test_deletions_before_every_request_hide_nothing(deleted: int) -> None:
    script = {n: [Change(0.0, delete=deleted)] for n in range(2, 30)}
    server = Server(ids(3_000), script=script)
    assert server.walk(200) <= server.seen
    assert len(server.asked) <= 60


@pytest.mark.parametrize("deleted", [100, 195, 200, 1_000, 1_900])
def test_a_large_deletion_is_bridged(deleted: int) -> None:
    server = Server(ids(4_000), script={11: [Change(0.0, delete=deleted)]})
    assert server.walk(200) <= server.seen
    assert len(server.asked) <= 50


def test_a_deletion_just_before_the_end_is_asked_for_is_noticed() -> None:
    server = Server(ids(20), cap=10, script={2: [Change(0.0, delete=10)]})
    assert server.walk(200) <= server.seen


def test_a_cap_that_is_lowered_meanwhile_is_no_end() -> None:
    server = Server(ids(100), caps=[10, 10, 5, 5, 2, 2], cap=2)
    assert server.walk(50) <= server.seen


@pytest.mark.parametrize("number", range(2, 12))
def test_a_short_answer_after_a_deletion_is_no_end(number: int) -> None:
    script = {number: [Change(0.0, delete=6)]}
    server = Server(ids(1_000), caps=[100] * number + [80], script=script)
    assert server.walk(100) <= server.seen


@pytest.mark.parametrize("number", [2, 3, 4, 5, 6])
def test_one_empty_answer_amid_the_list_is_no_end(number: int) -> None:
    server = Server(ids(1_000), blind=frozenset({number}))
    assert server.walk(200) <= server.seen


# ---- records of one time -----------------------------------------------------------------


@dataclass
class Restless:
    """A list that never changes, but orders records of one time anew for every answer.

    `runs`: how many records have each time. Without `rng` the order stays. `shorts`: by the
    number of the request, how many the answer has at most; `dips`: it lacks up to a third.
    """

    runs: list[int]
    rng: Random | None = None
    cap: int | None = None
    shorts: dict[int, int] = field(default_factory=dict)
    dips: Random | None = None
    asked: list[tuple[int, int]] = field(default_factory=list)
    rows: int = 0

    def answer(self, offset: int, limit: int) -> list[Job]:
        self.asked.append((offset, limit))
        listed: list[Job] = []
        for number, length in enumerate(self.runs):
            at = datetime(2025, 1, 1, tzinfo=UTC) - timedelta(seconds=number)
            run = [
                Job(JobId(f"r{number}-{n}"), Status.SUCCESS, created_at=at) for n in range(length)
            ]
            if self.rng is not None:
                self.rng.shuffle(run)
            listed += run
        most = min(limit, self.cap or limit, self.shorts.get(len(self.asked), limit))
        dip = self.dips.randint(0, limit // 3) if self.dips is not None else 0
        page = listed[offset : offset + most - dip]
        self.rows += len(page)
        return page

    def walk(self, page_size: int) -> int:
        """Walk through the list; return how many records were seen."""
        walk, seen = Walk(page_size), set[str]()
        while not walk.finished:
            assert len(self.asked) < 2000, self.asked[-20:]
            page = self.answer(walk.next.offset, walk.next.limit)
            seen.update(job.id for job in page)
            walk.feed([job.id for job in page], len(page), tied=tied(page))
        return len(seen)


RUNS = {
    "a few across an edge": [1] * 190 + [20] + [1] * 190,
    "more than half a page": [1] * 90 + [150] + [1] * 190,
    "more than a page": [300, 300],
    "several pages": [1] * 10 + [900] + [1] * 10,
    "one behind the other": [30] * 40,
    "a whole account": [700],
}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("runs", RUNS.values(), ids=RUNS)
def test_records_of_one_time_are_all_seen_in_whatever_order_they_come(
    runs: list[int], seed: int
) -> None:
    server = Restless(runs, Random(seed))
    assert server.walk(200) == sum(runs)


@pytest.mark.parametrize("seed", range(30))
def test_records_of_one_time_are_all_seen_though_pages_differ_in_length(seed: int) -> None:
    rng = Random(seed)
    runs = [min(9, 1 + rng.choice([0, 0, 1, 3, 8])) for _ in range(150)]
    server = Restless(runs, rng, dips=Random(seed))
    assert server.walk(20) == sum(runs)


@pytest.mark.parametrize("short", range(2, 14))
def test_one_short_answer_is_no_cap(short: int) -> None:
    for seed in range(10):
        server = Restless([9] * 40, Random(seed), shorts={short: 11})
        assert server.walk(20) == 360


@given(
    runs=st.lists(st.sampled_from([1, 1, 1, 2, 3, 7, 12, 40]), max_size=40),
    page_size=st.integers(12, 60),
    seed=st.integers(0, 1000),
)
def test_runs_of_any_length_are_read_whole(runs: list[int], page_size: int, seed: int) -> None:
    assert Restless(runs, Random(seed)).walk(page_size) == sum(runs)


@pytest.mark.parametrize("cap", [None, 150])
@pytest.mark.parametrize("runs", [*RUNS.values(), [5_000]], ids=[*RUNS, "far too many"])
def test_records_of_one_time_in_a_steady_order_cost_little(
    runs: list[int], cap: int | None
) -> None:
    server = Restless(runs, cap=cap)
    plain = Server(ids(sum(runs)), cap=cap)
    plain.walk(200)
    assert server.walk(200) == sum(runs)
    assert len(server.asked) <= len(plain.asked) + 3
    assert max(limit for _, limit in server.asked) <= 2_000


def test_a_page_that_begins_amid_records_of_one_time_does_not_touch() -> None:
    walk = Walk(10)
    walk.feed([JobId(one) for one in [*map(str, range(8)), "x1", "x2"]], 10, tied=2)
    assert walk.next.offset == 5
    # Four were deleted, and x3, of the time of x1 and x2, has come to stand in front of them.
    walk.feed([JobId(one) for one in ["x1", "x2", *map(str, range(20, 28))]], 10, tied=1)
    assert (walk.touched, walk.next.offset) == (False, 0)


@dataclass
class Churning:
    """A list of records of few times, in a new order for every answer, some without an id.

    Before an answer, one time in five, `deleted` records anywhere in the list are.
    """

    count: int
    rng: Random
    tied: int
    blank: float
    deleted: int
    cap: int | None = None
    asked: int = 0

    def walk(self, page_size: int) -> tuple[set[int], set[int]]:
        """Walk through the list; return what stayed in it and is readable, and what was seen."""
        listed = self._made()
        blank = {one for one in listed if self.rng.random() < self.blank}
        walk, seen = Walk(page_size), set[int]()
        while not walk.finished:
            self.asked += 1
            assert self.asked < 2000
            listed = self._changed(listed)
            most = min(walk.next.limit, self.cap or self.count)
            page = list(listed)[walk.next.offset :][:most]
            readable = [one for one in page if one not in blank]
            seen.update(readable)
            jobs = [Job(JobId(str(n)), Status.SUCCESS, created_at=listed[n]) for n in readable]
            walk.feed([job.id for job in jobs], len(page), tied=tied(jobs))
        return set(listed) - blank, seen

    def _made(self) -> dict[int, datetime]:
        at, listed = datetime(2025, 1, 1, tzinfo=UTC), dict[int, datetime]()
        for number in range(self.count):
            at -= timedelta(seconds=self.rng.randrange(self.tied) == 0)
            listed[number] = at
        return listed

    def _changed(self, listed: dict[int, datetime]) -> dict[int, datetime]:
        gone: set[int] = set()
        if self.asked > 1 and self.rng.random() < 0.2:
            gone.update(self.rng.sample(sorted(listed), min(self.deleted, len(listed))))
        order = {one: (-at.timestamp(), self.rng.random()) for one, at in listed.items()}
        return {
            one: listed[one] for one in sorted(listed, key=order.__getitem__) if one not in gone
        }


@settings(deadline=None)
@given(
    count=st.integers(1, 150),
    page_size=st.integers(4, 50),
    seed=st.integers(0, 10_000_000),
    tied=st.sampled_from([1, 2, 3, 8]),
    blank=st.sampled_from([0, 0, 0.02, 0.3, 0.7]),
    deleted=st.sampled_from([0, 2, 4, 10]),
)
def test_restless_lists_with_malformed_elements_may_shrink_as_they_like(
    count: int, page_size: int, seed: int, tied: int, blank: float, deleted: int
) -> None:
    server = Churning(count, Random(seed), tied, blank, deleted)
    try:
        stayed, seen = server.walk(page_size)
    except ApiError:
        assert deleted  # all of it was: told, and not taken for the truth
    else:
        assert stayed <= seen


@pytest.mark.parametrize("blank", [0.3, 0.8])
@pytest.mark.parametrize("cap", [None, 1, 2, 3, 7])
@pytest.mark.parametrize("page_size", [1, 2, 3, 5, 20])
def test_small_pages_with_malformed_elements_are_read_to_the_end(
    page_size: int, cap: int | None, blank: float
) -> None:
    for seed in range(5):
        server = Churning(100, Random(seed), 1, blank, 0, cap)
        stayed, seen = server.walk(page_size)
        assert stayed == seen
        assert server.asked <= 400


@pytest.mark.parametrize("count", [200, 300, 450, 5_000])
def test_a_server_that_ignores_the_offset_is_noticed_amid_records_of_one_time(count: int) -> None:
    server = Restless([count])
    walk, seen = Walk(200), set[str]()
    try:
        while not walk.finished:
            page = server.answer(0, walk.next.limit)
            seen.update(job.id for job in page)
            walk.feed([job.id for job in page], len(page), tied=tied(page))
    except ApiError:
        assert len(seen) < count
    else:
        assert len(seen) == count
    assert len(server.asked) <= 10


# ---- servers that cannot be followed -----------------------------------------------------


def ignoring_offset(
    items: list[Element], page_size: int, *, reads_limit: bool = True
) -> tuple[set[str], int]:
    """Walk through a list whose server gives its beginning whatever the offset.

    Returns what was seen, and in how many requests.
    """
    walk, seen = Walk(page_size), set[str]()
    for number in range(1, 20):
        there = items[: walk.next.limit] if reads_limit else items
        page = [JobId(one) for one in there if one]
        seen.update(page)
        walk.feed(page, len(page))
        if walk.finished:
            return seen, number
    pytest.fail("the walk does not end")


def test_a_server_that_ignores_the_offset_gives_its_one_page() -> None:
    assert len(ignoring_offset(ids(30), 200)[0]) == 30


@pytest.mark.parametrize("page_size", [1, 2, 200])
@pytest.mark.parametrize("more", [0, 1, 300])
def test_a_server_that_ignores_the_offset_and_holds_back_records_is_refused(
    more: int, page_size: int
) -> None:
    with pytest.raises(ApiError, match="page-size"):
        ignoring_offset(ids(page_size + more), page_size)


@pytest.mark.parametrize("count", [10, 199, 200, 201, 450])
def test_a_server_that_ignores_offset_and_limit_gives_all_in_every_page(count: int) -> None:
    seen, requests = ignoring_offset(ids(count), 200, reads_limit=False)
    assert len(seen) == count
    assert requests <= 4


def test_a_list_that_becomes_empty_is_refused() -> None:
    server = Server(ids(500), blind=frozenset(range(2, 100)))
    with pytest.raises(ApiError, match="empty"):
        server.walk(100)


def test_a_server_of_random_answers_is_given_up() -> None:
    server = Server(ids(10), every=[Change(0.0, delete=10, insert=10)])
    with pytest.raises(ApiError, match="contradicts"):
        server.walk(10)
