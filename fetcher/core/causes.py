"""The one error that matters among those that ended a group of tasks."""

from __future__ import annotations

from fetcher.errors import FetcherError


def first_cause(ended_by: BaseException) -> BaseException:
    """Return the error that ended a group of tasks: ours before anything foreign."""
    flat: list[BaseException] = []
    stack = [ended_by]
    while stack:
        error = stack.pop(0)
        if isinstance(error, BaseExceptionGroup):
            stack[:0] = error.exceptions
        else:
            flat.append(error)
    ours = [error for error in flat if isinstance(error, FetcherError)]
    return (ours or flat)[0]
