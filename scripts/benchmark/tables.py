"""The print: Markdown tables that are aligned, so that they read well on a terminal too.

Owns columns and numbers as text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmark.targets import Verdict, middle, ratio
from benchmark.tools import FETCHER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmark.compare import Samples
    from benchmark.workloads import Workload

_HEAD = ("tool", "wall s", "durable s", "CPU s", "peak MB", "sent again MB", "fetcher / tool")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; the first column to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]

    def line(row: Sequence[str]) -> str:
        first, *others = row
        cells = [first.ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        return "| " + " | ".join(cells) + " |"

    rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (w + 1) + ":" for w in widths[1:])]) + "|"
    return "\n".join([line(head), rule, *map(line, rows)])


def comparison(workload: Workload, samples: Samples) -> str:
    """Return the table of one workload: medians, and the ratio of durable wall times."""
    rounds = max(map(len, samples.values()))
    title = f"### {workload.name}: {workload.title}, {workload.jobs} at a time"
    rows = [_row(workload, samples, name) for name in samples]
    return f"{title} (medians of {rounds})\n\n{table(_HEAD, rows)}\n"


def verdicts(found: Sequence[Verdict]) -> str:
    """Return the table of targets."""
    rows = [
        (v.text, f"{v.measured:.2f}", f"{v.limit:.4g}", "reached" if v.reached else "MISSED")
        for v in found
    ]
    return f"### Targets\n\n{table(('target', 'measured', 'limit', 'verdict'), rows)}\n"


def _row(workload: Workload, samples: Samples, name: str) -> tuple[str, ...]:
    own = samples[name]
    again = "" if own[0].sent_again_bytes is None else f"{middle(own, 'again_mb', workload):.1f}"
    compared = name != FETCHER and FETCHER in samples
    return (
        name,
        f"{middle(own, 'wall', workload):.2f}",
        f"{middle(own, 'durable', workload):.2f}",
        f"{middle(own, 'cpu', workload):.2f}",
        f"{middle(own, 'peak_mb', workload):.0f}",
        again,
        f"{ratio(samples, 'durable', workload, name):.2f}" if compared else "",
    )
