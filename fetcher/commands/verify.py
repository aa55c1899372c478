"""`fetcher verify`: the files on disk against the manifest; `--repair` mends them."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from fetcher.commands.reading import refuse_dry_run, tell_notices
from fetcher.core.text import printable
from fetcher.events import VerifyCompleted
from fetcher.report.units import human_count
from fetcher.report.words import verdict

if TYPE_CHECKING:
    from argparse import Namespace

    from fetcher.commands import Environment
    from fetcher.configuration.config import Resolved
    from fetcher.events import Event, RunCompleted, Sink
    from fetcher.report import Report


def run(args: Namespace, env: Environment) -> int:
    """Check every file; return 0 where all are whole in the end, 1 where some are not."""
    settings, found = env.load(args)
    repair = found.value("repair", bool)
    if repair:
        refuse_dry_run(found, "verify --repair", "verify")
    tell_notices(found, env)
    from fetcher.network.certificates import import_without  # noqa: PLC0415 - as in `starting`

    import_without()
    from fetcher.engine import Fetcher  # noqa: PLC0415 - after the settings are known to be good
    from fetcher.foreground import conduct  # noqa: PLC0415 - as above
    from fetcher.verify import verify  # noqa: PLC0415 - as above

    keyless = {} if repair else {"api_key_file": None}  # a check must not wait for a key
    fetcher = Fetcher(settings.model_copy(update={"dry_run": False, **keyless}))
    ended: list[VerifyCompleted] = []

    async def runner(report: Sink) -> RunCompleted:
        def sink(event: Event) -> None:
            if isinstance(event, VerifyCompleted):
                ended.append(event)
            report(event)

        return await verify(fetcher, sink, repair=repair)

    def ending(_: Report) -> str:
        if not ended or (settings.quiet and ended[0].files == ended[0].intact):
            return ""
        return _summary(ended[0], found, repair=repair)

    return conduct(fetcher, runner, env, ending=ending)


def _summary(check: VerifyCompleted, found: Resolved, *, repair: bool) -> str:
    lines = [verdict(check)]
    broken = check.files - check.intact
    if repair and broken:
        lines.append(
            f"{human_count(check.repaired)} of {human_count(broken)} whole again"
            if check.repaired < broken
            else "all are whole again"
        )
    elif broken:
        where = f" -d {shlex.quote(printable(str(found.dest)))}"
        is_default = found.origins["dest"].is_default
        lines.append(f"To fetch them again: fetcher verify --repair{'' if is_default else where}")
    return "\n".join(lines)
