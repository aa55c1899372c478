"""What fetcher must reach, and whether it did.

Owns the targets and their arithmetic; pure. A ratio is taken round by round and its median
counts: what slows a round down slows all tools in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Literal

from benchmark.tools import FETCHER
from benchmark.workloads import MB, WORKLOADS, Workload

if TYPE_CHECKING:
    from benchmark.compare import Sample, Samples

Metric = Literal["wall", "durable", "cpu", "cpu_ms_per_file", "cpu_s_per_gb", "peak_mb", "again_mb"]
Results = Mapping[str, "Samples"]

_BY_NAME = {workload.name: workload for workload in WORKLOADS}


@dataclass(frozen=True, slots=True)
class Target:
    """`metric` of fetcher on `workload` is at most `limit`; with `peer`: times that tool's."""

    workload: str
    metric: Metric
    limit: float
    peer: str | None = None

    @property
    def text(self) -> str:
        """What is asked, in words."""
        than = f" x {self.peer}" if self.peer else ""
        return f"{self.workload}: {self.metric} at most {self.limit:g}{than}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A target and what was measured."""

    text: str
    measured: float
    limit: float

    @property
    def reached(self) -> bool:
        """Whether the target is met."""
        return self.measured <= self.limit


# Where a part of what is sent again is allowed: 1 % of the content and 1 MiB per open file.
_KILLED = _BY_NAME["killed"]
_AGAIN_MB = (0.01 * _KILLED.total_bytes + _KILLED.jobs * 2**20) / MB

TARGETS = (
    Target("small", "wall", 0.35, "aria2c"),
    Target("small", "durable", 2.2, "curl"),
    Target("small", "cpu_ms_per_file", 0.9),
    Target("small", "peak_mb", 75),
    Target("middle", "wall", 0.5, "aria2c"),
    Target("middle", "wall", 2.0, "curl"),
    Target("middle", "peak_mb", 75),
    Target("large", "durable", 1.15, "rclone"),
    Target("large", "durable", 1.0, "curl"),
    Target("large", "durable", 1.0, "aria2c"),
    Target("large", "cpu_s_per_gb", 2.3),
    Target("large", "peak_mb", 75),
    Target("tls", "cpu", 1.6, "curl"),
    Target("capped", "wall", 1.25, "aria2c"),
    Target("far", "wall", 1.3, "curl"),
    Target("far", "peak_mb", 95),
    Target("killed", "again_mb", _AGAIN_MB),
    Target("killed", "wall", 1.2, "wget2"),
)


def value_of(sample: Sample, metric: Metric, workload: Workload) -> float:
    """Return one figure of one run."""
    cost = sample.cost
    match metric:
        case "wall":
            return cost.wall_s
        case "durable":
            return cost.durable_s
        case "cpu":
            return cost.cpu_s
        case "cpu_ms_per_file":
            return cost.cpu_s * 1000 / workload.count
        case "cpu_s_per_gb":
            return cost.cpu_s * 1000 * MB / workload.total_bytes
        case "peak_mb":
            return cost.peak_bytes / MB
        case "again_mb":
            return (sample.sent_again_bytes or 0) / MB


def middle(samples: list[Sample], metric: Metric, workload: Workload) -> float:
    """Return the median over the rounds."""
    return median(value_of(sample, metric, workload) for sample in samples)


def ratio(samples: Samples, metric: Metric, workload: Workload, peer: str) -> float:
    """Return fetcher's figure over the peer's: the median of the rounds' ratios."""
    return median(
        value_of(ours, metric, workload) / value_of(theirs, metric, workload)
        for ours, theirs in zip(samples[FETCHER], samples[peer], strict=True)
    )


def judge(results: Results) -> list[Verdict]:
    """Return a verdict on every target whose workload, and whose peer, was measured."""
    verdicts = []
    for target in TARGETS:
        samples = results.get(target.workload, {})
        if FETCHER not in samples or (target.peer is not None and target.peer not in samples):
            continue
        workload = _BY_NAME[target.workload]
        measured = (
            middle(samples[FETCHER], target.metric, workload)
            if target.peer is None
            else ratio(samples, target.metric, workload, target.peer)
        )
        verdicts.append(Verdict(target.text, measured, target.limit))
    return verdicts
