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
_MOST_GROWTH = 1.05  # of memory, from the second tenth of a life to its last
_MOST_DESCRIPTORS_MORE = 2


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
    early: tuple[int, int] = (0, 0)  # resident bytes and descriptors in the second tenth
    late: tuple[int, int] = (0, 0)  # and in the last one
    spells: Counter[str] = field(default_factory=Counter)
    requests: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def weigh(self, samples: Sequence[Sample], cpu_s: float) -> None:
        """Judge the last process: its memory must be flat and no descriptor leak."""
        self.cpu_s = cpu_s
        tenth = len(samples) // 10
        if not tenth:
            self.failures.append("the last process did not live long enough to be weighed")
            return
        self.early, self.late = _weight(samples[tenth : 2 * tenth]), _weight(samples[-tenth:])
        if self.late[0] > self.early[0] * _MOST_GROWTH:
            self.failures.append(f"its memory grew by {self.late[0] / self.early[0] - 1:.1%}")
        if self.late[1] > self.early[1] + _MOST_DESCRIPTORS_MORE:
            self.failures.append(f"it holds {self.late[1] - self.early[1]} descriptors more")

    def judge_counts(
        self, completed: Mapping[str, int], twice: Sequence[str], *, excused: Collection[str]
    ) -> None:
        """Judge that no file came twice; a kill may cost the report of one, or its recording."""
        repeated = [job for job, n in completed.items() if n > 1 and job not in excused]
        if repeated:
            self.failures.append(f"said to be complete twice: {sorted(repeated)[:5]}")
        if twice:
            self.failures.append(f"{len(twice)} fetched twice, such as {twice[:5]}")

    def text(self) -> str:
        """Return the report as lines for a person."""
        spells = ", ".join(f"{count} x {kind}" for kind, count in sorted(self.spells.items()))
        (early_bytes, early_fds), (late_bytes, late_fds) = self.early, self.late
        lines = [
            f"seed {self.seed}: {self.days:.1f} days, {self.jobs:,} jobs"
            f" ({self.jobs_before:,} of them from before)",
            f"{self.starts} processes ({self.kills} killed, {self.stops} stopped);"
            f" the last one took {self.cpu_s:.1f} s of CPU",
            f"{self.polls:,} good polls, {self.full_passes} of them over the whole history;"
            f" {self.requests['list']:,} list requests, {self.requests['progress']:,} streams,"
            f" {self.requests['audio']:,} audio requests",
            f"{self.completed:,} downloads completed, {self.given_up:,} given up for a while",
            f"weather: {spells}",
            f"memory: {early_bytes / MIB:.1f} MiB in the second tenth of the last process's life,"
            f" {late_bytes / MIB:.1f} MiB in the last; descriptors: {early_fds} and {late_fds}",
            *(f"FAILED: {failure}" for failure in self.failures),
        ]
        return "\n".join([*lines, "failed" if self.failures else "nothing missed, nothing twice"])


def _weight(samples: Sequence[Sample]) -> tuple[int, int]:
    """Return the median of memory and the fewest descriptors, which no download adds to."""
    resident = median(sample.resident_bytes for sample in samples)
    return int(resident), min(sample.descriptors for sample in samples)
