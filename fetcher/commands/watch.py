"""`fetcher watch`: polls repeated, until stopped or until idle."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fetcher.commands.starting import start

if TYPE_CHECKING:
    from argparse import Namespace

    from fetcher.commands import Environment


def run(args: Namespace, env: Environment) -> int:
    """Watch the history and fetch what finishes; return the exit status."""
    return start(args, env, lambda fetcher: fetcher.run_watch)
