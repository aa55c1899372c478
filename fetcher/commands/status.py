"""`fetcher status`: one screen that says how things stand and what to type next.

Owns what is gathered for it and how it is said. Reads the manifest, the lock's holder and
the watcher's status file; takes no lock and asks nobody. With `--max-age` its exit status
tells a monitor whether polling still succeeds.
"""

from __future__ import annotations

import shlex
from dataclasses import field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from fetcher.commands.reading import destination_of, now, tell_notices
from fetcher.configuration.sources import Source
from fetcher.configuration.tables import Screen
from fetcher.core.text import printable
from fetcher.exports import moment
from fetcher.files.cards import read_card
from fetcher.files.locks import present_holder
from fetcher.frozen import frozen
from fetcher.manifest import schema
from fetcher.manifest.reader import Reader
from fetcher.models import State, Variant
from fetcher.report.jsonl import dumps, timestamp
from fetcher.report.units import human_bytes, human_count, human_duration

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator
    from pathlib import Path

    from fetcher.commands import Environment
    from fetcher.configuration.config import Resolved
    from fetcher.runs.destination import Destination

_EXIT_STALE = 1
_SHOWN_REASONS = 10
_STATUS_FILE = "status.json"  # written by a watch: `heartbeat`, which is heavy to import
_MEANINGS = {
    State.COMPLETE: "on disk",
    State.WAITING: "not finished by the service",
    State.QUEUED: "to be fetched",
    State.PARTIAL: "begun",
    State.FAILED: "could not be fetched",
    State.REJECTED: "failed by the service",
    State.FILTERED: "left out by filters",
}
_COLOURS = {State.COMPLETE: "good", State.FAILED: "bad", State.REJECTED: "bad"}


@frozen
class Standing:
    """How a destination stands. Times are aware UTC, None where there was none yet.

    `jobs` and `originals` count files by state; `reasons` why files were given up;
    `holder` is who works on the destination now; `watch` the watcher's last sign of life.
    """

    dest: Path
    is_known: bool
    jobs: dict[State, int]
    originals: dict[State, int]
    bytes_stored: int
    last_poll_at: datetime | None
    last_full_at: datetime | None
    reasons: list[tuple[str, int]]
    holder: dict[str, str] | None
    watch: dict[str, Any] = field(default_factory=dict)


def run(args: Namespace, env: Environment) -> int:
    """Show how things stand; return 1 where `--max-age` is given and the last poll is older."""
    found = env.resolve(args)
    tell_notices(found, env)
    standing = gather(destination_of(found))
    is_fresh = _is_fresh(standing, found.optional("max_age", float))
    if found.value("json_output", bool):
        env.stdout.write(f"{dumps(_as_json(standing, is_fresh=is_fresh))}\n")
    elif not found.value("quiet", bool):
        screen = Screen.of(env.stdout, env.environ)
        env.stdout.writelines(f"{line}\n" for line in _screen(standing, screen, _where(found)))
    if not is_fresh:
        env.tell(f"fetcher: {_staleness(standing)}")
    return 0 if is_fresh else _EXIT_STALE


# ---- gathering ---------------------------------------------------------------------------


def gather(destination: Destination) -> Standing:
    """Return how the destination stands. Raises StorageError, ManifestError."""
    watch = _sign_of_life(destination)
    with Reader(destination.manifest) as reader:
        tallies = reader.tallies()
        polls = [_instant(reader.get("last_poll_at")), _instant(watch.get("last_poll_at"))]
        return Standing(
            dest=destination.root,
            is_known=schema.exists(destination.manifest),
            jobs={one.state: one.files for one in tallies if one.variant is Variant.DENOISED},
            originals={one.state: one.files for one in tallies if one.variant is Variant.ORIGINAL},
            bytes_stored=sum(one.bytes_stored for one in tallies if one.state is State.COMPLETE),
            last_poll_at=max((at for at in polls if at is not None), default=None),
            last_full_at=_instant(reader.get("last_full_at")),
            reasons=reader.reasons(_SHOWN_REASONS),
            holder=present_holder(destination.own_state) or present_holder(destination.state),
            watch=watch,
        )


def _sign_of_life(destination: Destination) -> dict[str, Any]:
    """Return what a watch said last; empty where none ever ran, or where it is no JSON."""
    return read_card(destination.own_state / _STATUS_FILE) or {}


def _instant(text: object) -> datetime | None:
    try:
        at = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return at if at is not None and at.tzinfo is not None else None


def _is_fresh(standing: Standing, max_age_s: float | None) -> bool:
    """Return whether the last good poll, a watch's or a backfill's, is recent enough."""
    if max_age_s is None:
        return True
    polled_at = standing.last_poll_at
    return polled_at is not None and now() - polled_at <= timedelta(seconds=max_age_s)


# ---- for programs ------------------------------------------------------------------------


def _as_json(standing: Standing, *, is_fresh: bool) -> dict[str, Any]:
    return {
        "event": "status",
        "time": timestamp(now()),
        "dest": str(standing.dest),
        "records": sum(standing.jobs.values()),
        "states": {str(state): standing.jobs.get(state, 0) for state in State},
        "originals": {str(state): standing.originals.get(state, 0) for state in State},
        "bytes": standing.bytes_stored,
        "last_poll_at": moment(standing.last_poll_at),
        "last_full_at": moment(standing.last_full_at),
        "is_fresh": is_fresh,
        "holder": standing.holder,
        "watch": standing.watch or None,
        "failures": [{"reason": reason, "files": files} for reason, files in standing.reasons],
    }


# ---- for people --------------------------------------------------------------------------


def _screen(standing: Standing, screen: Screen, where: str) -> Iterator[str]:
    yield screen.paint(screen.quote(str(standing.dest)), "bold")
    if not standing.jobs:
        if standing.is_known:
            yield "  no job is known yet"
        else:
            yield f"  nothing is here yet: fetcher backfill{where}"
    else:
        yield from _counts(standing, screen)
    if standing.last_poll_at is not None:
        yield f"Last poll: {_ago(standing.last_poll_at)}"
    if standing.last_full_at is not None:
        yield f"Last pass over the whole history: {_ago(standing.last_full_at)}"
    if standing.holder is not None:
        yield _holder(standing.holder, screen)
    trouble = standing.watch.get("last_error")
    if trouble and standing.holder is not None:
        yield f"{screen.paint('The watch has trouble', 'bad')}: {screen.quote(str(trouble))}"
    yield from _failures(standing, screen)
    yield from _next_steps(standing, where)


def _counts(standing: Standing, screen: Screen) -> Iterator[str]:
    counts = {state: standing.jobs.get(state, 0) for state in State}
    size = max(len(human_count(count)) for count in counts.values())
    for state, meaning in _MEANINGS.items():
        count = counts[state]
        if count or state is State.COMPLETE:
            said = f"{human_count(count):>{size}}"
            more = f"  {human_bytes(standing.bytes_stored)}" if state is State.COMPLETE else ""
            label = screen.paint(f"{state:<8}", _COLOURS.get(state, ""))
            yield f"  {label}  {said}  {meaning}{more}"
    if standing.originals:
        total = sum(standing.originals.values())
        done = standing.originals.get(State.COMPLETE, 0)
        yield f"  originals  {human_count(done)} of {human_count(total)} on disk"


def _holder(holder: dict[str, str], screen: Screen) -> str:
    command, pid, host = (screen.quote(holder.get(key, "?")) for key in ("command", "pid", "host"))
    since = _instant(holder.get("since"))
    begun = f", since {_minute(since)}" if since else ""
    return f"In use by fetcher {command}, process {pid} on {host}{begun}"


def _failures(standing: Standing, screen: Screen) -> Iterator[str]:
    if not standing.reasons:
        return
    failed = standing.jobs.get(State.FAILED, 0) + standing.originals.get(State.FAILED, 0)
    yield f"{screen.paint('Could not be fetched', 'bad')}: {human_count(failed)}"
    for reason, files in standing.reasons:
        times = f" ({human_count(files)} files)" if files > 1 else ""
        yield f"  {screen.quote(reason or 'no reason given')}{times}"
    hidden = failed - sum(files for _, files in standing.reasons)
    if hidden > 0:
        yield f"  and {human_count(hidden)} more for other reasons"


def _next_steps(standing: Standing, where: str) -> Iterator[str]:
    jobs = standing.jobs
    is_held = standing.holder is not None
    failed = jobs.get(State.FAILED, 0) + standing.originals.get(State.FAILED, 0)
    left = sum(jobs.get(state, 0) for state in (State.QUEUED, State.PARTIAL))
    if failed and is_held:
        yield f"To try them again now: fetcher retry{where}"
    elif (failed or left) and not is_held:
        yield f"To fetch {'them' if failed else 'the rest'}: fetcher backfill{where}"
    elif jobs.get(State.WAITING) and not is_held:
        yield f"To fetch them as they finish: fetcher watch{where}"
    if failed:
        yield f"Which they are: fetcher list --state failed{where}"
    if jobs.get(State.REJECTED):
        yield f"What the service failed: fetcher list --failed{where}"


def _staleness(standing: Standing) -> str:
    if standing.last_poll_at is None:
        return "no poll has succeeded yet"
    return f"the last good poll was {_ago(standing.last_poll_at)}"


def _ago(at: datetime) -> str:
    passed = now() - at
    if passed < timedelta(0):
        return f"{_minute(at)}, which is in the future: is the clock right?"
    return f"{_minute(at)} ({human_duration(passed.total_seconds())} ago)"


def _minute(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"


def _where(found: Resolved) -> str:
    """Return the options that name this destination again, as they were typed."""
    parts = []
    for name, flag in (("dest", "-d"), ("state_dir", "--state-dir")):
        if found.origins[name].source is Source.COMMAND_LINE:
            parts.append(f" {flag} {shlex.quote(printable(str(found.values[name])))}")
    return "".join(parts)
