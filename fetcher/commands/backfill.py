"""`fetcher backfill`: one full pass over the history, then the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fetcher.commands.starting import start

if TYPE_CHECKING:
    from argparse import Namespace

    from fetcher.commands import Environment


def run(args: Namespace, env: Environment) -> int:
    """Fetch every finished job that is not here yet; return the exit status."""
    return start(args, env, lambda fetcher: fetcher.run_backfill)
