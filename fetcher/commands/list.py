"""`fetcher list`: the history joined with what is on disk, newest first.

Owns the columns. Reads the manifest alone, so it is right at any time, and streams: the
first line comes at once, whatever the length of the history. `--refresh` polls before.
"""

from __future__ import annotations

from itertools import chain, groupby, islice
from typing import TYPE_CHECKING

from fetcher import exports
from fetcher.commands.reading import now, opened, put, put_table, refuse_dry_run, tell_notices
from fetcher.configuration.tables import Cell, Column, Screen, lines
from fetcher.core.text import fit, printable
from fetcher.errors import UsageError
from fetcher.manifest.reader import Selection
from fetcher.models import State, Variant
from fetcher.report.jsonl import dumps, timestamp
from fetcher.report.units import human_bytes, human_count, human_duration

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime

    from fetcher.commands import Environment
    from fetcher.configuration.config import Resolved
    from fetcher.manifest.reader import Reader, Rejected
    from fetcher.models import Entry

_COLOURS = {
    State.COMPLETE: "good",
    State.FAILED: "bad",
    State.REJECTED: "bad",
    State.QUEUED: "busy",
    State.PARTIAL: "busy",
    State.WAITING: "busy",
    State.FILTERED: "dim",
}
_BLOCK = 250  # lines that are written at once
_ROOMY = 116  # columns from which on the name stands beside the path
_STATE = Column("STATE", 8, 8)
_SIZE = Column("SIZE", 7, 7, rank=4, is_right=True)
_CREATED = Column("CREATED (UTC)", 16, 16, rank=3)
_STATUS = Column("STATUS", 7, 7, rank=1)  # the state says nearly as much
_ID = Column("ID", 8, 8, rank=2)
_FILE = Column("FILE", 30, 200)
_NAME = Column("NAME", 20, 40)
_PATH = Column("PATH OR REASON", 30, 200)
_JOB = (
    Column("CREATED (UTC)", 16, 16, rank=1),
    Column("AUDIO", 5, 12, rank=2, is_right=True),
    Column("TRANSACTION", 12, 60, rank=3),
    Column("ID", 36, 60, rank=4),
    Column("NAME", 16, 60),
)


def run(args: Namespace, env: Environment) -> int:
    """List what was asked for; return the exit status."""
    found = env.resolve(args)
    selection = _selection(found)
    does_refresh = found.value("refresh", bool)
    if does_refresh:
        refuse_dry_run(found, "list --refresh", "backfill --dry-run")
    tell_notices(found, env)
    if does_refresh:
        status = _refresh(found, env)
        if status:
            return status
    with opened(found) as reader:
        if found.value("csv", bool):
            put_table(exports.csv_lines(_entries(found, reader, selection)), env.stdout)
        elif found.value("json_output", bool):
            put(_json_lines(_entries(found, reader, selection)), env.stdout)
        else:
            screen = Screen.of(env.stdout, env.environ)
            is_failed = found.value("failed", bool)
            table = _refunds(reader.rejected(selection), screen) if is_failed else None
            _show(table or _table(reader.entries(selection), screen), env)
            if reader.is_empty():
                env.tell("no job is known yet: fetcher backfill, or list --refresh")
    return 0


def _selection(found: Resolved) -> Selection:
    states = found.value("state", tuple)
    if found.value("csv", bool) and found.value("json_output", bool):
        raise UsageError("--csv and --json exclude each other: use one")
    if found.value("failed", bool) and states:
        raise UsageError("--failed and --state exclude each other: use one")
    return Selection(
        states=tuple(State(state) for state in states),
        since=found.values["since"],  # type: ignore[arg-type]  # read by their options
        until=found.values["until"],  # type: ignore[arg-type]  # as above
        match=found.value("match", tuple),
    )


def _refresh(found: Resolved, env: Environment) -> int:
    from fetcher.engine import Fetcher  # noqa: PLC0415 - the plain list pays for no network
    from fetcher.foreground import conduct  # noqa: PLC0415 - as above
    from fetcher.refresh import refresh, refreshing  # noqa: PLC0415 - as above

    fetcher = Fetcher(refreshing(found.settings(), found.standing))
    return conduct(fetcher, lambda sink: refresh(fetcher, sink), env, ending=lambda _: "")


def _entries(found: Resolved, reader: Reader, selection: Selection) -> Iterator[Entry]:
    if found.value("failed", bool):
        return (one.entry for one in reader.rejected(selection))
    return reader.entries(selection)


def _json_lines(entries: Iterable[Entry]) -> Iterator[str]:
    head = {"event": "list.entry", "time": timestamp(now())}
    for entry in entries:
        yield f"{dumps(head | exports.facts(entry))}\n"


def _show(table: Iterator[str], env: Environment) -> None:
    while block := list(islice(table, _BLOCK)):
        env.stdout.write("".join(f"{line}\n" for line in block))


# ---- the table ---------------------------------------------------------------------------


def _table(entries: Iterable[Entry], screen: Screen) -> Iterator[str]:
    is_roomy = screen.columns is None or screen.columns >= _ROOMY
    head = (_STATE, _STATUS, _SIZE, _CREATED, _ID)
    tail = (_NAME, _PATH) if is_roomy else (_FILE,)
    rows = (_row(entry, is_roomy=is_roomy) for entry in entries)
    return lines((*head, *tail), rows, screen)


def _row(entry: Entry, *, is_roomy: bool) -> Sequence[Cell]:
    job, colour = entry.job, _COLOURS[entry.state]
    size_bytes = entry.bytes_stored if entry.bytes_stored is not None else entry.bytes_total
    head = (
        Cell(str(entry.state), colour),
        Cell(str(job.status)),
        Cell("" if size_bytes is None else human_bytes(size_bytes)),
        Cell(_minute(job.created_at)),
        Cell(job.id[:8], "dim"),
    )
    is_original = entry.variant is Variant.ORIGINAL
    name = f"{job.file_name} (original)" if is_original else job.file_name
    reason = _reason(entry)
    if is_roomy:
        return (*head, Cell(name), Cell(reason, "bad") if reason else Cell(entry.path or ""))
    if reason:
        return (*head, Cell(f"{fit(printable(name), _NAME.least)}: {reason}", "bad"))
    return (*head, Cell(entry.path or name))


def _reason(entry: Entry) -> str:
    if entry.state is State.FAILED:
        return entry.last_error or "could not be fetched"
    if entry.state is State.REJECTED:
        return entry.job.error or "failed by the service"
    return ""


def _minute(at: datetime | None) -> str:
    return at.strftime("%Y-%m-%d %H:%M") if at is not None else ""


# ---- what the service failed -------------------------------------------------------------


def _refunds(rejected: Iterator[Rejected], screen: Screen) -> Iterator[str]:
    """Yield a table for each reason: when, how much audio, which transaction, which job."""
    before = ""
    for error, group in groupby(rejected, key=lambda one: one.entry.job.error):
        first = next(group)
        jobs = f"{human_count(first.sharing_jobs)} job{'' if first.sharing_jobs == 1 else 's'}"
        reason = screen.paint(screen.quote(error or "no reason given"), "bold")
        yield f"{before}{reason}: {jobs}, {human_duration(first.sharing_s)} of audio"
        yield from lines(_JOB, (_refund_row(one.entry) for one in chain([first], group)), screen)
        before = "\n"


def _refund_row(entry: Entry) -> Sequence[Cell]:
    job = entry.job
    seconds = job.audio_duration_s
    return (
        Cell(_minute(job.created_at)),
        Cell("" if seconds is None else human_duration(seconds)),
        Cell(job.transaction_id or ""),
        Cell(job.id),
        Cell(job.file_name),
    )
