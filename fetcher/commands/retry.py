"""`fetcher retry`: makes downloads that were given up eligible at once.

Works beside a running watch: it takes no lock, SQLite orders the two. Makes no manifest
where there is none.
"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from fetcher.commands.reading import destination_of, now, refuse_dry_run, tell_notices
from fetcher.configuration.kinds import quoted
from fetcher.configuration.tables import Screen
from fetcher.errors import UsageError
from fetcher.files.locks import present_holder
from fetcher.manifest import schema
from fetcher.manifest.reader import Reader, Selection
from fetcher.manifest.store import Store
from fetcher.models import JobId, State
from fetcher.report.jsonl import dumps, timestamp
from fetcher.report.units import human_count
from fetcher.report.words import named

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence

    from fetcher.commands import Environment
    from fetcher.models import Entry
    from fetcher.runs.destination import Destination

_LEAST_CHARACTERS = 4  # of an id; fewer are more likely a slip than a choice
_SHOWN = 10


def run(args: Namespace, env: Environment) -> int:
    """Queue the files of the named jobs, or all that were given up; return the exit status."""
    found = env.resolve(args)
    refuse_dry_run(found, "retry", "list --state failed")
    tell_notices(found, env)
    destination = destination_of(found)
    with Reader(destination.manifest) as reader:
        ids = [_find(word, reader) for word in dict.fromkeys(args.words)] or None
        failed = _failed(reader, ids)
        others = [] if ids is None else _others(ids, failed, reader)
    if failed and schema.exists(destination.manifest):
        with closing(Store(destination.manifest)) as store:
            queued = set(store.retry(ids))
        failed = [entry for entry in failed if entry.job.id in queued]
    if found.value("json_output", bool):
        for entry in failed:
            env.stdout.write(f"{dumps(_event(entry))}\n")
    else:
        screen = Screen.of(env.stdout, env.environ)
        said = _said(failed, destination, screen) if failed or not others else []
        env.stdout.writelines(f"{line}\n" for line in [*said, *others])
    return 0


def _event(entry: Entry) -> dict[str, str]:
    return {
        "event": "retry.queued",
        "time": timestamp(now()),
        "id": entry.job.id,
        "file_name": entry.job.file_name,
        "variant": str(entry.variant),
    }


def _find(word: str, reader: Reader) -> JobId:
    """Return the id that `word` is, or that it alone is the beginning of. Raises UsageError."""
    matches = reader.ids_from(word, 3)
    if JobId(word) in matches:
        return JobId(word)
    if not matches or len(word) < _LEAST_CHARACTERS:
        short = len(word) < _LEAST_CHARACTERS
        hint = f": write at least {_LEAST_CHARACTERS} characters of it" if short else ""
        raise UsageError(f"no job is known by the id {quoted(word)}{hint}")
    if len(matches) > 1:
        some = ", ".join(quoted(match) for match in matches[:2])
        raise UsageError(f"several ids begin with {quoted(word)}, such as {some}: write more of it")
    return matches[0]


def _failed(reader: Reader, ids: Sequence[JobId] | None) -> list[Entry]:
    chosen = None if ids is None else set(ids)
    failed = reader.entries(Selection(states=(State.FAILED,)))
    return [entry for entry in failed if chosen is None or entry.job.id in chosen]


def _others(ids: Sequence[JobId], failed: Sequence[Entry], reader: Reader) -> list[str]:
    """Return a line for each named job of which nothing was given up."""
    done = {entry.job.id for entry in failed}
    states = reader.look_up(ids)
    return [
        f"nothing to retry: {quoted(job_id)} is {states[job_id].state}"
        for job_id in ids
        if job_id not in done and job_id in states
    ]


def _said(failed: Sequence[Entry], destination: Destination, screen: Screen) -> list[str]:
    if not failed:
        return ["nothing to retry: no download was given up"]
    files = "1 file is" if len(failed) == 1 else f"{human_count(len(failed))} files are"
    is_watched = present_holder(destination.own_state) is not None
    who = "the running fetcher takes" if is_watched else "the next backfill or watch takes"
    lines = [f"{files} to be fetched again; {who} {'it' if len(failed) == 1 else 'them'} up"]
    lines += [f"  {named(one.job.id, one.job.file_name, screen.quote)}" for one in failed[:_SHOWN]]
    if len(failed) > _SHOWN:
        lines.append(f"  and {human_count(len(failed) - _SHOWN)} more")
    return lines
