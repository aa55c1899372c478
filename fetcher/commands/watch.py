"""`fetcher watch`: polls repeated, until stopped or until idle."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import Namespace

    from fetcher.commands import Environment


def run(args: Namespace, env: Environment) -> int:
    """Watch the history and fetch what finishes; return the exit status."""
    settings, found = env.load(args)
    from fetcher.engine import Fetcher  # noqa: PLC0415 - after the settings are known to be good
    from fetcher.foreground import conduct  # noqa: PLC0415 - as above

    for notice in found.notices:
        env.stderr.write(f"fetcher: note: {notice}\n")
    fetcher = Fetcher(settings)
    runner = fetcher.run_plan if settings.dry_run else fetcher.run_watch
    return conduct(fetcher, runner, env)
