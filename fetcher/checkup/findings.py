"""One finding of a check, and what all of them together mean for the exit status. Pure."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from enum import StrEnum

from fetcher.errors import ApiError, KeyRefusedError, StorageError, UsageError
from fetcher.frozen import frozen

# Whoever mends one thing at a time begins with what hinders all else.
_FIRST_TO_LAST = tuple(
    error.exit_code for error in (UsageError, KeyRefusedError, ApiError, StorageError)
)


class Level(StrEnum):
    """How bad a finding is: with a problem a run cannot do its work."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@frozen
class Finding:
    """What a check found. `cure`: what to do about it; `exit_code`: 0 but for a problem."""

    check: str
    level: Level
    found: str
    cure: str = ""
    exit_code: int = 0


Findings = Generator[Finding, None, None]
"""What a check yields, each as soon as it is known."""


def good(check: str, found: str) -> Finding:
    """Return a finding that asks for nothing."""
    return Finding(check, Level.OK, found)


def warning(check: str, found: str, cure: str) -> Finding:
    """Return a finding that a run can live with."""
    return Finding(check, Level.WARNING, found, cure)


def problem(check: str, found: str, cure: str, exit_code: int) -> Finding:
    """Return a finding that ends a run, with the exit status that it would end with."""
    return Finding(check, Level.PROBLEM, found, cure, exit_code)


def verdict(findings: Iterable[Finding]) -> int:
    """Return the exit status: that of the first problem in the order 2, 3, 4, 6, else 0."""
    codes = {finding.exit_code for finding in findings if finding.level is Level.PROBLEM}
    for code in _FIRST_TO_LAST:
        if code in codes:
            return code
    return max(codes, default=0)
