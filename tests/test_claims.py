"""Who gets which path, told from the keys' owners alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fetcher.manifest.claims import Wanted, assign


def same(*names: str) -> list[tuple[str, str]]:
    """Return candidates whose keys are their paths."""
    return [(name, name) for name in names]


@pytest.mark.parametrize(
    ("wanted", "owners", "given", "taken"),
    [
        pytest.param([], {}, [], [], id="nobody"),
        pytest.param([(1, same("a"))], {}, ["a"], [("a", "a", 1)], id="free"),
        pytest.param([(1, same("a"))], {"a": 1}, ["a"], [], id="its own already"),
        pytest.param([(1, same("a"))], {"a": 2}, [None], [], id="another's"),
        pytest.param([(1, same("a", "b"))], {"a": 2}, ["b"], [("b", "b", 1)], id="the second"),
        pytest.param(
            [(1, same("a", "b")), (2, same("a", "b")), (3, same("a", "b"))],
            {},
            ["a", "b", None],
            [("a", "a", 1), ("b", "b", 2)],
            id="first come, first served",
        ),
        pytest.param(
            [(1, [("A", "a")]), (2, [("a", "a")])],
            {},
            ["A", None],
            [("A", "a", 1)],
            id="one key, two spellings",
        ),
        pytest.param(
            [(1, same("new")), (2, same("old"))],
            {"old": 1},
            ["new", "old"],
            [("new", "new", 1), ("old", "old", 2)],
            id="what one lets go of is free for the next",
        ),
    ],
)
def test_each_gets_the_first_that_is_nobody_elses(
    wanted: list[Wanted],
    owners: dict[str, int],
    given: list[str | None],
    taken: list[tuple[str, str, int]],
) -> None:
    assert assign(wanted, owners) == (given, taken)


NAMES = [f"n{n}" for n in range(6)]


@given(
    owned=st.lists(st.sampled_from(NAMES), unique=True, max_size=4),
    asked=st.dictionaries(
        st.integers(0, 7), st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True)
    ),
)
def test_no_path_ever_has_two_owners(owned: list[str], asked: dict[int, list[str]]) -> None:
    owners = {name: seq for seq, name in enumerate(owned)}
    wanted: list[Wanted] = [(seq, same(*names)) for seq, names in asked.items()]
    given_paths, taken = assign(wanted, owners)
    now = {seq: name for name, seq in owners.items()}
    for path, _, seq in taken:
        assert path not in now.values()
        now[seq] = path
    for seq, got in zip(asked, given_paths, strict=True):
        assert got is None or now[seq] == got
