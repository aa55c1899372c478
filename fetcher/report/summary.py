"""The account at the end of a run, in words that add up, with what to type next.

`Collector` keeps what the summary needs while events pass; `render` makes the text.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field

from fetcher.events import (
    DownloadAdopted,
    DownloadCompleted,
    DownloadFailed,
    DownloadFiltered,
    DownloadStarted,
    Event,
    ExecFailed,
    FileEvent,
    FileSuspect,
    RunCompleted,
    RunStarted,
    Totals,
    fold,
)
from fetcher.frozen import frozen
from fetcher.report.units import human_bytes, human_count, human_duration, human_rate
from fetcher.report.words import Quote, account, named, plain

KEPT_FAILURES = 1000  # in memory; the manifest knows them all
SHOWN_FAILURES = 10  # on the screen
DEFAULT_DEST = "downloads"  # contract 2; the command that is offered leaves it out


@frozen
class Failure:
    """A file that was given up in this run."""

    id: str
    file_name: str
    reason: str


@frozen
class Tally:
    """What a summary is made of. `account` is None until the run has ended."""

    mode: str = ""
    dest: str = ""
    account: RunCompleted | None = None
    failures: tuple[Failure, ...] = ()
    suspects: int = 0
    exec_failures: int = 0


@dataclass(slots=True)
class Collector:
    """A sink that keeps what `render` needs, in bounded memory."""

    totals: Totals = field(default_factory=Totals)
    _run: RunStarted | None = None
    _failures: dict[tuple[str, str], Failure] = field(default_factory=dict)
    _suspects: int = 0
    _exec_failures: int = 0

    def __call__(self, event: Event) -> None:
        """Take one event into account."""
        self.totals = fold(self.totals, event)
        match event:
            case FileEvent():
                self._file(event)
            case FileSuspect():
                self._suspects += 1
            case ExecFailed():
                self._exec_failures += 1
            case RunStarted():
                self._run = event
            case _:
                pass

    def tally(self) -> Tally:
        """Return what has been kept so far."""
        return Tally(
            mode=self._run.mode if self._run else "",
            dest=self._run.dest if self._run else "",
            account=self.totals.account,
            failures=tuple(self._failures.values()),
            suspects=self._suspects,
            exec_failures=self._exec_failures,
        )

    def _file(self, event: FileEvent) -> None:
        key = (event.id, event.variant)
        match event:
            case DownloadFailed():
                if len(self._failures) < KEPT_FAILURES:
                    self._failures[key] = Failure(event.id, event.file_name, event.reason)
            case DownloadStarted() | DownloadCompleted() | DownloadAdopted() | DownloadFiltered():
                self._failures.pop(key, None)
            case _:
                pass


def render(
    tally: Tally, *, again: str | None = None, quiet: bool = False, quote: Quote = plain
) -> str:
    """Return the summary of a run, lines ended; empty when there is nothing to say.

    `again`: the command line that tries failed files again, where the caller knows a
    better one than this module. `quiet`: nothing when all went well.
    """
    run = tally.account
    if run is None or (quiet and run.exit_code == 0 and not _troubles(tally, run)):
        return ""
    lines = [account(run), _amount(tally, run, quote), *_troubles(tally, run)]
    if run.failed or tally.failures:
        lines += _failures(tally, max(run.failed, len(tally.failures)), quote)
        lines.append(f"To try again: {again or _again(tally)}")
    if run.exit_code not in {0, 1}:
        lines.append("Ended early: the next run goes on where this one stopped.")
    return "".join(f"{line}\n" for line in lines)


def _amount(tally: Tally, run: RunCompleted, quote: Quote) -> str:
    where = f" into {quote(tally.dest)}" if tally.dest else ""
    is_timed = run.seconds > 0 and run.bytes_fetched > 0
    rate = f" ({human_rate(run.bytes_fetched / run.seconds)})" if is_timed else ""
    return f"{human_bytes(run.bytes_fetched)} fetched in {human_duration(run.seconds)}{rate}{where}"


def _troubles(tally: Tally, run: RunCompleted) -> list[str]:
    """Return the lines about what is no failure (contract 1) and still wants a look."""
    counts = [
        (run.invalid, "malformed record", "malformed records", "reported above"),
        (tally.suspects, "file", "files", "suspect: the length of the audio is not the record's"),
        (tally.exec_failures, "command", "commands", "of --exec failed"),
    ]
    return [
        f"{human_count(count)} {one if count == 1 else many} {what}"
        for count, one, many, what in counts
        if count
    ]


def _failures(tally: Tally, total: int, quote: Quote) -> list[str]:
    """Return the failures by reason, the commonest first, at most SHOWN_FAILURES of them."""
    groups: dict[str, list[Failure]] = {}
    for failure in tally.failures:
        groups.setdefault(failure.reason, []).append(failure)
    lines = [f"Could not be fetched: {human_count(total)}"]
    room = SHOWN_FAILURES
    for reason, group in sorted(groups.items(), key=lambda item: -len(item[1])):
        if room <= 0:
            break
        times = f" ({human_count(len(group))} files)" if len(group) > 1 else ""
        lines.append(f"  {quote(reason)}{times}")
        lines += [f"    {named(one.id, one.file_name, quote)}" for one in group[:room]]
        room -= len(group)
    hidden = total - min(len(tally.failures), SHOWN_FAILURES)
    if hidden > 0:
        where = _where(tally)
        lines.append(f"  and {human_count(hidden)} more: fetcher list --state failed{where}")
    return lines


def _again(tally: Tally) -> str:
    """Return the command that tries failed files again (contract 1: `retry`)."""
    where = _where(tally)
    if tally.mode == "watch":
        return f"fetcher retry{where}  (for a watch that is running; a fresh one does it by itself)"
    return f"fetcher backfill{where}  (with the options of this run)"


def _where(tally: Tally) -> str:
    """Return the option that names the destination, nothing for the default one."""
    return "" if tally.dest in {"", DEFAULT_DEST} else f" -d {shlex.quote(plain(tally.dest))}"
