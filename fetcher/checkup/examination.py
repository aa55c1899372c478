"""All checks, one after the other; one that fails or breaks keeps no other from being tried."""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO, TypeVar

from fetcher.checkup.bookkeeping import examine_lock, examine_manifest
from fetcher.checkup.configuration import read_key
from fetcher.checkup.findings import Finding, problem
from fetcher.checkup.road import travel
from fetcher.checkup.storage import examine_storage
from fetcher.checkup.surroundings import open_files, terminal, versions
from fetcher.errors import FetcherError
from fetcher.frozen import frozen
from fetcher.runs.destination import Destination

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping
    from pathlib import Path

    from fetcher.checkup.configuration import Reading
    from fetcher.checkup.findings import Findings

T = TypeVar("T")
_LONGEST_STEP_S = 10.0  # --timeout is for transfers; a person waits for this


@frozen
class Circumstances:
    """What the checks meet of the process.

    `record` keeps the facts of a fault and returns the file that has them.
    """

    environ: Mapping[str, str]
    stdout: TextIO
    stderr: TextIO
    record: Callable[[Exception], Path | None]


def examine(reading: Reading, about: Circumstances) -> Findings:
    """Yield each finding as soon as it is there."""
    yield from _guarded("versions", versions(), about)
    yield from reading.findings
    found = reading.resolved
    key = yield from _guarded("key", read_key(found), about)
    if not reading.is_whole:
        key = None  # the address may be another one than was meant: it gets no key
    limit_s = min(found.value("timeout", float), _LONGEST_STEP_S)
    yield from _guarded("API", _network(found.value("api_url", str), key, limit_s), about)
    destination = Destination(found.dest, found.state_dir)
    storage = examine_storage(destination, found.value("min_free", int), limit_s)
    answers = yield from _guarded("destination", storage, about)
    if answers is not False:
        yield from _guarded("manifest", examine_manifest(destination.manifest), about)
        yield from _guarded("in use", examine_lock(destination), about)
    needs = open_files(found.value("concurrency", int), found.value("connections", int))
    yield from _guarded("open files", needs, about)
    yield from _guarded("terminal", terminal(about.stdout, about.stderr, about.environ), about)


def _network(api_url: str, key: str | None, limit_s: float) -> Findings:
    if (yield from travel(api_url, limit_s)):
        from fetcher.checkup.service import consult  # noqa: PLC0415 - aiohttp costs 250 ms

        yield from consult(api_url, key, limit_s)


def _guarded(
    check: str, findings: Generator[Finding, None, T], about: Circumstances
) -> Generator[Finding, None, T | None]:
    """Yield the findings of one check; whatever it raises becomes a finding too."""
    try:
        return (yield from findings)
    except FetcherError as error:
        yield problem(check, str(error), "put that right and look again", error.exit_code)
    except Exception as error:  # noqa: BLE001 - the edge of one check: the others go on
        where = about.record(error)
        cure = f"{where} says where; please report it" if where else "please report it"
        found = f"a fault in fetcher itself ({type(error).__name__})"
        yield problem(check, found, cure, FetcherError.exit_code)
    return None
