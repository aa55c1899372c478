"""What the commands share that start a run: settings, notices, and the run in the foreground."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fetcher.commands.reading import tell_notices

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable

    from fetcher.commands import Environment
    from fetcher.engine import Fetcher
    from fetcher.foreground import Runner


def start(args: Namespace, env: Environment, choose: Callable[[Fetcher], Runner]) -> int:
    """Carry out the run that `choose` names, or its dry run; return the exit status."""
    settings, found = env.load(args)
    tell_notices(found, env)
    from fetcher.network.certificates import import_without  # noqa: PLC0415 - `--help` needs no ssl

    import_without()
    from fetcher.engine import Fetcher  # noqa: PLC0415 - after the settings are known to be good
    from fetcher.foreground import conduct  # noqa: PLC0415 - as above

    fetcher = Fetcher(settings)
    return conduct(fetcher, fetcher.run_plan if settings.dry_run else choose(fetcher), env)
