"""What a month came to, and whether it was good: figures, limits, and the text of both.

Owns the arithmetic of samples and counts; pure.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from endurance.watcher import Sample

MIB = 2**20
_MOST_FILES_MORE = 1
_MOST_SOCKETS = 48  # 16 downloads, 8 streams, a list request, and idle ones kept for 30 s


@dataclass(slots=True)
class Report:
    """What was seen. `failures` says what must not have been."""

    seed: int
    jobs_before: int
    days: float = 0.0
    jobs: int = 0
    starts: int = 0
    kills: int = 0
    stops: int = 0
    polls: int = 0
    full_passes: int = 0
    completed: int = 0
    given_up: int = 0
    cpu_s: float = 0.0
    tenths_bytes: list[int] = field(default_factory=list)  # memory of the last process
    early_files: int = 0  # open in the second tenth of its life
    late_files: int = 0  # and in the last one
    most_sockets: int = 0
    spells: Counter[str] = field(default_factory=Counter)
    requests: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def weigh(self, samples: Sequence[Sample], cpu_s: float, *, most_growth: float) -> None:
        """Judge the last process: its memory must be flat and no descriptor leak.

        `most_growth`: of memory, from the second tenth of its life to the last.
        """
        self.cpu_s = cpu_s
        tenth = len(samples) // 10
        if not tenth:
            self.failures.append("the last process did not live long enough to be weighed")
            return
        tenths = [samples[n * tenth : (n + 1) * tenth] for n in range(10)]
        self.tenths_bytes = [_resident_bytes(one) for one in tenths]
        self.early_files, self.late_files = _files(tenths[1]), _files(tenths[-1])
        self.most_sockets = max(sample.sockets for sample in samples)
        growth = self.tenths_bytes[-1] / self.tenths_bytes[1]
        if growth > most_growth:
            self.failures.append(f"its memory grew by {growth - 1:.1%}")
        if self.late_files > self.early_files + _MOST_FILES_MORE:
            self.failures.append(f"it holds {self.late_files - self.early_files} files more")
        if self.most_sockets > _MOST_SOCKETS:
            self.failures.append(f"it held {self.most_sockets} sockets at once")

    def judge_counts(
        self, completed: Mapping[str, int], twice: Sequence[str], *, excused: Collection[str]
    ) -> None:
        """Judge that no file came twice; a kill may cost the report of one, or its recording."""
        repeated = [job for job, n in completed.items() if n > 1 and job not in excused]
        if repeated:
            self.failures.append(f"said to be complete twice: {sorted(repeated)[:5]}")
        if twice:
            self.failures.append(f"{len(twice)} fetched twice, such as {', '.join(twice[:5])}")

    def text(self) -> str:
        """Return the report as lines for a person."""
        tenths = " ".join(f"{size / MIB:.1f}" for size in self.tenths_bytes)
        spells = ", ".join(f"{count} x {kind}" for kind, count in sorted(self.spells.items()))
        lines = [
            (
                f"seed {self.seed}: {self.days:.1f} days, {self.jobs:,} jobs,"
                f" {self.jobs_before:,} of them from before"
            ),
            (
                f"{self.starts} processes ({self.kills} killed, {self.stops} stopped);"
                f" the last one took {self.cpu_s:.1f} s of CPU"
            ),
            (
                f"{self.polls:,} good polls, {self.full_passes} of them over the whole history:"
                f" {self.requests['list']:,} list requests, {self.requests['progress']:,} streams,"
                f" {self.requests['audio']:,} audio requests"
            ),
            f"{self.completed:,} downloads completed, {self.given_up:,} given up for a while",
            f"weather: {spells}",
            (
                f"the last process: MiB of memory in each tenth of its life: {tenths};"
                f" {self.early_files} open files in the second tenth, {self.late_files} in the"
                f" last; at most {self.most_sockets} sockets"
            ),
            *(f"FAILED: {failure}" for failure in self.failures),
        ]
        return "\n".join([*lines, "failed" if self.failures else "nothing missed, nothing twice"])


def _resident_bytes(samples: Sequence[Sample]) -> int:
    return int(median(sample.resident_bytes for sample in samples))


def _files(samples: Sequence[Sample]) -> int:
    """Return the fewest open files: what downloads hold for a moment does not count."""
    return min(sample.files for sample in samples)
