"""What is brought home, and from what kind of host.

Owns the table of workloads; how they are run is `compare`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from benchmark.origin import Door

Kind = Literal["whole", "half", "killed"]
MB = 1_000_000


@dataclass(frozen=True, slots=True)
class Workload:
    """`count` files of `size_bytes`, `jobs` at a time.

    `door`: how the host serves. `away_s`: the way to it takes so long, one way. `kind`: from
    nothing; or half the files are there already; or the run is killed at half the bytes and
    repeated. `connections`: so many for one file, None: each tool's default. `peers`: the
    tools it is compared with.
    """

    name: str
    title: str
    count: int
    size_bytes: int
    jobs: int
    door: Door = "plain"
    away_s: float = 0.0
    kind: Kind = "whole"
    connections: int | None = None
    peers: tuple[str, ...] = ("curl", "aria2c", "rclone", "wget2")

    @property
    def total_bytes(self) -> int:
        """The bytes of all its files."""
        return self.count * self.size_bytes

    @property
    def needs_nginx(self) -> bool:
        """Whether the simulator's file host cannot stand in for nginx."""
        return self.door == "tls" or self.kind != "whole" or self.away_s > 0

    def quick(self) -> Workload:
        """Return a tenth of it."""
        return replace(self, count=max(min(self.count, 4), self.count // 10))


# curl 7.88 in parallel has no way to leave complete files alone.
_RESUMING = ("aria2c", "rclone", "wget2")

WORKLOADS = (
    Workload("small", "2,000 x 100 KB", 2000, 100_000, 8),
    Workload("middle", "300 x 2 MB", 300, 2 * MB, 8),
    Workload("large", "6 x 173 MB", 6, 173 * MB, 8),
    Workload("tls", "6 x 173 MB over TLS", 6, 173 * MB, 8, door="tls"),
    Workload(
        "capped",
        "one 20 MB file, each connection capped at 2 MB/s",
        1,
        20 * MB,
        8,
        door="capped",
        connections=4,
        peers=("curl", "aria2c"),
    ),
    Workload("far", "500 x 100 KB over a 60 ms round trip", 500, 100_000, 16, away_s=0.03),
    Workload("far-large", "8 x 20 MB over a 60 ms round trip", 8, 20 * MB, 8, away_s=0.03),
    Workload(
        "half", "300 x 2 MB, half of them there", 300, 2 * MB, 8, kind="half", peers=_RESUMING
    ),
    Workload(
        "killed",
        "8 x 20 MB at 10 MB/s each, killed half way and run again",
        8,
        20 * MB,
        8,
        door="paced",
        kind="killed",
        peers=_RESUMING,
    ),
)
