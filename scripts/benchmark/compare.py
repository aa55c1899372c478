"""One workload, every tool in turn, several rounds.

Owns the order of things: round by round and tool by tool, so that whatever else the machine
does meets all of them alike; each run into a new folder on a file system that is at rest.
What was fetched is emptied and not removed before the end: ext4 without a journal looks at
every file that was removed in the last minutes whenever it makes a new one (2,000 files:
0.6 ms each).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark import origin, tools
from benchmark.listing import Spec, file_name
from benchmark.measure import Cost, FigureError, run, synchronise
from benchmark.servers import Relay, listing_of, relay_to, simulated

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from benchmark.workloads import Workload


# Tools that name files themselves; the others need a folder that the simulator has not.
_ANY_ADDRESS = frozenset((tools.FETCHER, "curl", "aria2c"))


@dataclass(frozen=True, slots=True)
class Folders:
    """Where things go: the files that are served, settings and logs, and what is fetched."""

    files: Path
    scratch: Path
    dest: Path


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of one tool. `sent_again_bytes`: what the host sent beyond the content."""

    cost: Cost
    sent_again_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Bench:
    """A workload that is set up: the servers run, the files are there.

    `half_api_url` lists the older half. `host` is None where the simulator serves.
    """

    workload: Workload
    folders: Folders
    files: Sequence[tools.Remote]
    digests: Collection[str]
    api_url: str
    half_api_url: str = ""
    host: origin.Origin | None = None
    relay: Relay | None = None


Samples = dict[str, list[Sample]]


def measure(workload: Workload, names: Sequence[str], rounds: int, folders: Folders) -> Samples:
    """Run every tool of `names` that the workload takes; return its samples, one a round."""
    folders.scratch.mkdir(parents=True, exist_ok=True)
    able = names if origin.is_installed() else [name for name in names if name in _ANY_ADDRESS]
    taking = [name for name in able if name in (tools.FETCHER, *workload.peers)]
    samples: Samples = {name: [] for name in taking}
    set_up = _with_nginx if origin.is_installed() else _with_simulator
    with set_up(workload, folders) as bench:
        for _ in range(rounds):
            for name in taking:
                samples[name].append(_one(bench, name))
    return samples


@contextmanager
def _with_nginx(workload: Workload, folders: Folders) -> Iterator[Bench]:
    audio = folders.files / workload.name
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, audio, ignore_errors=True)
        origin.make_audio(audio, workload.count, workload.size_bytes)
        host = stack.enter_context(origin.running(folders.scratch, folders.files))
        relay = None
        if workload.away_s or workload.kind == "killed":
            door = host.ports[workload.door]
            relay = stack.enter_context(relay_to(door, workload.away_s, folders.scratch))
        base_url = host.url(workload.door, workload.name, relay.port if relay else None)
        whole = Spec(workload.count, workload.size_bytes, base_url)
        half = replace(whole, records=workload.count // 2)
        names = [file_name(number) for number in range(workload.count)]
        yield Bench(
            workload,
            folders,
            files=[tools.Remote(f"{base_url}/{name}", name) for name in names],
            digests={_digest(audio / name) for name in names},
            api_url=stack.enter_context(listing_of(whole)),
            half_api_url=stack.enter_context(listing_of(half)),
            host=host,
            relay=relay,
        )


@contextmanager
def _with_simulator(workload: Workload, folders: Folders) -> Iterator[Bench]:
    rate = origin.RATES_BYTES_S[workload.door]
    with simulated(workload.count, workload.size_bytes, rate) as account:
        files = [tools.Remote(url, f"{n}.wav") for n, url in enumerate(account.urls)]
        yield Bench(workload, folders, files, set(account.digests), account.api_url)


def _one(bench: Bench, name: str) -> Sample:
    """Run one tool into a new folder, prove its files, and empty them."""
    bench.folders.dest.mkdir(parents=True, exist_ok=True)
    dest = Path(tempfile.mkdtemp(dir=bench.folders.dest))
    synchronise(dest)
    work = _work(bench, dest)
    log = bench.folders.scratch / f"{bench.workload.name}.{name}.log"
    try:
        match bench.workload.kind:
            case "whole":
                sample = Sample(run(tools.TOOLS[name](work), log=log, dest=dest))
            case "half":
                sample = _half(bench, name, work, log)
            case "killed":
                sample = _killed(bench, name, work, log)
        _prove(bench, name, dest, sample.cost, log)
    finally:
        _empty(dest)
    return sample


def _empty(folder: Path) -> None:
    """Give the space of all files below back; see the module for why they stay."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            os.truncate(path, 0)


def _work(bench: Bench, dest: Path) -> tools.Work:
    workload = bench.workload
    return tools.Work(
        files=bench.files,
        api_url=bench.api_url,
        dest=dest,
        jobs=workload.jobs,
        scratch=bench.folders.scratch,
        connections=workload.connections,
        authority=bench.host.authority if bench.host and workload.door == "tls" else None,
    )


def _half(bench: Bench, name: str, work: tools.Work, log: Path) -> Sample:
    """Bring half of the files home, then measure the run that brings the rest."""
    host, half = bench.host, bench.workload.count // 2
    assert host is not None
    first = replace(work, files=work.files[:half], api_url=bench.half_api_url)
    run(tools.TOOLS[name](first), log=log, dest=work.dest)
    before_bytes = host.sent_bytes()
    cost = run(tools.TOOLS[name](replace(work, again=True)), log=log, dest=work.dest)
    missing_bytes = (bench.workload.count - half) * bench.workload.size_bytes
    return Sample(cost, host.sent_bytes() - before_bytes - missing_bytes)


def _killed(bench: Bench, name: str, work: tools.Work, log: Path) -> Sample:
    """Kill the run at half of the bytes, then measure the same command again."""
    relay, total_bytes = bench.relay, bench.workload.total_bytes
    assert relay is not None
    before_bytes = relay.passed_bytes()
    run(
        tools.TOOLS[name](work),
        log=log,
        stop_when=lambda: relay.passed_bytes() - before_bytes >= total_bytes // 2,
    )
    cost = run(tools.TOOLS[name](replace(work, again=True)), log=log, dest=work.dest)
    return Sample(cost, relay.passed_bytes() - before_bytes - total_bytes)


def _prove(bench: Bench, name: str, dest: Path, cost: Cost, log: Path) -> None:
    """Raise FigureError where the tool failed or its files are not those of the host."""
    if cost.status != 0:
        said = log.read_text(errors="replace").strip()[-500:]
        raise FigureError(f"{name} ended with {cost.status}: {said}")
    found = [
        _digest(path)
        for path in dest.rglob("*.wav")
        if ".fetcher" not in path.parts and path.is_file()
    ]
    if len(found) != len(bench.digests) or set(found) != bench.digests:
        raise FigureError(f"{name} did not bring the right files home")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
