"""When a file's own line is helped by others, decided from what it brings."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from fetcher.models import Validator
from fetcher.network.gates import Gates, Limiter
from fetcher.transfers.slots import Slots
from fetcher.transfers.splitting import Lines, Splitter

if TYPE_CHECKING:
    from collections.abc import Coroutine

MIB = 1 << 20
TOTAL = 1000 * MIB


class Clerk(Splitter):
    """A splitter that counts the lines that it would open."""

    opened = 0

    def _open_line(self, work: Coroutine[None, None, None]) -> None:
        work.close()
        self.opened += 1


def clerk(done_bytes: int, *, limit_bytes_s: float | None = None) -> Clerk:
    version = SimpleNamespace(bytes_total=TOTAL, validator=Validator('"v1"', None))
    file: Any = SimpleNamespace(
        part=SimpleNamespace(bytes_written=done_bytes, version=version),
        stretches=[],
        ranges_work=True,
        kit=SimpleNamespace(limiter=Limiter(limit_bytes_s, lambda: 0.0)),
    )
    host: Any = None
    gates = Gates(lambda: 0.0, delay_s=1, longest_s=60)
    return Clerk(file, host, Lines(Slots(7), 8), gates, "http://127.0.0.1/file")


@pytest.mark.parametrize(
    ("done_bytes", "rate_bytes_s", "lines"),
    [
        pytest.param(MIB, 2 * MIB, 7, id="a slow line"),
        pytest.param(MIB, 63 * MIB, 7, id="not quite fast"),
        pytest.param(MIB, 65 * MIB, 0, id="a fast line, whatever is left"),
        pytest.param(TOTAL - 20 * MIB, 20 * MIB, 0, id="nearly there"),
        pytest.param(4096, 2 * MIB, 0, id="too early to tell"),
    ],
)
def test_a_line_is_helped_where_it_is_slow(
    done_bytes: int, rate_bytes_s: float, lines: int
) -> None:
    splitter = clerk(done_bytes)
    stop = splitter.consider(TOTAL, rate_bytes_s)
    assert splitter.opened == lines
    assert (stop < TOTAL) == (lines > 0)


@pytest.mark.parametrize("limit_bytes_s", [1, MIB, 12 * MIB, 1000 * MIB])
def test_no_line_is_helped_where_a_limit_is_set(limit_bytes_s: float) -> None:
    splitter = clerk(MIB, limit_bytes_s=limit_bytes_s)
    assert splitter.consider(TOTAL, 2 * MIB) == TOTAL
    assert splitter.opened == 0
