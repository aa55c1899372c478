"""What the tests of whole runs share: a run with its invariants, a tree, a host that lies."""

from __future__ import annotations

import asyncio
import contextlib
import random
import struct
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fetcher.configuration.settings import Settings
from fetcher.engine import Fetcher
from fetcher.events import (
    DownloadCancelled,
    DownloadCompleted,
    DownloadFailed,
    DownloadFiltered,
    DownloadRetrying,
    DownloadStarted,
    Event,
    FileEvent,
    RunCompleted,
)

if TYPE_CHECKING:
    from asyncio import StreamWriter
    from collections.abc import Callable, Sequence

    from raw_server import Request

    from fetcher.simulator import Simulator

E = TypeVar("E", bound=Event)
KEY = "k3y-that-nobody-may-see"
CUT = 10_000  # bytes of a body that come before the connection ends, unless told
_ENDS = (DownloadCompleted, DownloadFailed, DownloadFiltered, DownloadCancelled)


# ---- a run -------------------------------------------------------------------------------


def settings(api_url: str, dest: Path, **options: Any) -> Settings:
    """Return settings for a quick run: waits of milliseconds, nothing from the environment."""
    usual: dict[str, Any] = {
        "retry_delay": 0.01,
        "retries": 2,
        "timeout": 10,
        "min_free": 0,
        "concurrency": 4,
    }
    return Settings(api_key=KEY, api_url=api_url, dest=dest, **(usual | options))


@dataclass(slots=True)
class Ran:
    """A run that has ended: its events and the final one."""

    events: list[Event]
    final: RunCompleted

    @property
    def exit_code(self) -> int:
        """The status that the command would end with."""
        return self.final.exit_code

    def of(self, kind: type[E]) -> list[E]:
        """Return the events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def reasons(self) -> list[str]:
        """Why files were given up."""
        return [event.reason for event in self.of(DownloadFailed)]

    @property
    def retried(self) -> list[str]:
        """Why attempts failed that were followed by another one."""
        return [event.reason for event in self.of(DownloadRetrying)]


async def run(api_url: str, dest: Path, **options: Any) -> Ran:
    """Run a backfill and check what is true of every run."""
    events: list[Event] = []
    final = await Fetcher(settings(api_url, dest, **options)).run_backfill(events.append)
    check_account(final)
    check_pairs(events)
    assert events[-1] is final
    if final.exit_code == 0:
        assert unfinished(dest) == []
    return Ran(events, final)


def check_account(final: RunCompleted) -> None:
    """Assert that the classes of records add up to the records."""
    classes = ("downloaded", "adopted", "already", "failed", "pending", "rejected", "filtered")
    counts = {name: getattr(final, name) for name in classes}
    assert min(counts.values()) >= 0, counts
    assert sum(counts.values()) == final.records, counts


def check_pairs(events: Sequence[Event], *, all_ended: bool = True) -> None:
    """Assert that every start of a download has exactly one end, and that it comes later.

    Without `all_ended` an end may be missing, but none may come twice.
    """
    open_: Counter[tuple[str, str]] = Counter()
    started: Counter[tuple[str, str]] = Counter()
    ended: Counter[tuple[str, str]] = Counter()
    for event in events:
        if not isinstance(event, FileEvent):
            continue
        key = (event.id, event.variant)
        if isinstance(event, DownloadStarted):
            open_[key] += 1
            started[key] += 1
        elif isinstance(event, _ENDS):
            open_[key] = 0
            ended[key] += 1
        assert open_[key] <= 1, f"{key} was started twice"
    assert all(ended[key] <= count for key, count in started.items()), (started, ended)
    assert not (all_ended and +open_), f"started and never ended: {dict(+open_)}"


# ---- what is on disk ---------------------------------------------------------------------


def tree(folder: Path) -> dict[str, bytes | None]:
    """Return what stands below `folder` but not in its `.fetcher`: files' bytes, None: folders."""
    if not folder.exists():
        return {}
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
        if path.relative_to(folder).parts[0] != ".fetcher"
    }


def files(folder: Path) -> dict[str, bytes]:
    """Return the visible files below DIR."""
    return {path: data for path, data in tree(folder).items() if data is not None}


def names(folder: Path) -> list[str]:
    """Return what stands in a folder, hidden or not."""
    return sorted(path.name for path in folder.iterdir())


def everything(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Return mode, time of change and content of all below a folder, hidden files included."""
    found = {}
    for path in sorted([folder, *folder.rglob("*")]):
        stat = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        found[str(path)] = (stat.st_mode, stat.st_mtime_ns, content)
    return found


def unfinished(dest: Path) -> list[str]:
    """Return the names of what lies in the folder of unfinished files."""
    folder = dest / ".fetcher" / "partial"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def allocated_bytes(folder: Path) -> int:
    """Return what unfinished files take on the disk; nothing of one that is renamed meanwhile."""
    total = 0
    for path in folder.glob("*.part"):
        with contextlib.suppress(FileNotFoundError):
            total += path.lstat().st_blocks * 512
    return total


def short_path(name: str, job_id: str, ext: str = ".wav") -> str:
    """Return where the default template puts a job's file."""
    stem = name.rpartition(".")[0] or name
    return f"{stem}/{stem}.{job_id[:8]}{ext}"


def check_mirror(sim: Simulator, dest: Path) -> None:
    """Assert that DIR holds the clean file of every finished job and nothing else."""
    expected = Counter(sim.content(job) for job in sim.ids if sim.job(job).status == "success")
    assert Counter(files(dest).values()) == expected


# ---- a host of raw bytes -----------------------------------------------------------------


def song(size_bytes: int, seed: int = 1) -> bytes:
    """Return a WAV of noise that is exactly so long and says so."""
    samples = random.Random(seed).randbytes(size_bytes - 44)
    return wav_header(len(samples)) + samples


def wav_header(data_bytes: int) -> bytes:
    """Return the header of a 16-bit mono WAV that announces so many bytes of samples."""
    return struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        *(b"RIFF", min(36 + data_bytes, 0xFFFFFFFF), b"WAVE", b"fmt ", 16, 1, 1),
        *(16_000, 32_000, 2, 16, b"data", data_bytes),
    )


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer as it goes over the wire; `sent`: so many bytes of the body, then the end."""

    status: str = "200 OK"
    fields: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    version: str = "HTTP/1.1"
    sent: int | None = None
    close: bool = False

    def having(self, **fields: str | None) -> Reply:
        """Return the answer with other header fields (`content_range=...`); None removes one."""
        changed = {name.replace("_", "-").title(): value for name, value in fields.items()}
        merged = self.fields | changed
        return replace(self, fields={k: v for k, v in merged.items() if v is not None})

    async def write(self, writer: StreamWriter) -> None:
        """Send it."""
        lines = [f"{self.version} {self.status}"]
        lines += [f"{name}: {value}" for name, value in self.fields.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode() + self.body[: self.sent])
        await writer.drain()
        if self.close or self.sent is not None:
            writer.close()


def honest(body: bytes, **fields: str | None) -> Callable[[Request], Reply]:
    """Answer as a good host: ranges, a strong ETag (`etag=None`: none), a length."""
    usual: dict[str, str | None] = {"content_type": "audio/wav", "etag": '"v1"'}

    def script(request: Request) -> Reply:
        whole = Reply(body=body).having(**(usual | fields), content_length=str(len(body)))
        wanted = request.headers.get("range")
        condition = request.headers.get("if-range")
        if wanted is None or condition not in {None, *whole.fields.values()}:
            return whole
        start = int(wanted.removeprefix("bytes=").partition("-")[0])
        if start >= len(body):
            said = whole.having(content_range=f"bytes */{len(body)}", content_length="0")
            return replace(said, status="416 Range Not Satisfiable", body=b"")
        rest = body[start:]
        said = whole.having(
            content_range=f"bytes {start}-{len(body) - 1}/{len(body)}",
            content_length=str(len(rest)),
        )
        return replace(said, status="206 Partial Content", body=rest)

    return script


def cut(script: Callable[[Request], Reply], sent: int = CUT) -> Callable[[Request], Reply]:
    """Answer as `script` does, and close after so many bytes of the body."""
    return lambda request: replace(script(request), sent=sent)


def chunked(reply: Reply, *, whole: bool = True) -> Reply:
    """Return the answer in chunks of 1,000 bytes; without `whole` the last chunk never comes."""
    pieces = [reply.body[at : at + 1000] for at in range(0, len(reply.body), 1000)]
    body = b"".join(f"{len(piece):x}\r\n".encode() + piece + b"\r\n" for piece in pieces)
    framed = reply.having(content_length=None, transfer_encoding="chunked")
    return replace(framed, body=body + b"0\r\n\r\n" if whole else body, close=not whole)


@dataclass
class Host:
    """Answers the n-th request by the n-th script, and by the last one from then on."""

    scripts: Sequence[Callable[[Request], Reply]]
    asked: list[Request] = field(default_factory=list)

    async def __call__(self, request: Request, writer: StreamWriter) -> None:
        """Answer one request."""
        script = self.scripts[min(len(self.asked), len(self.scripts) - 1)]
        self.asked.append(request)
        await script(request).write(writer)

    @property
    def ranges(self) -> list[str | None]:
        """The Range of every request."""
        return [request.headers.get("range") for request in self.asked]


async def eventually(fact: Callable[[], bool], *, within_s: float = 10.0) -> None:
    """Return once `fact` is true; raises TimeoutError after `within_s`."""
    async with asyncio.timeout(within_s):
        while not fact():  # noqa: ASYNC110 - what is waited for is foreign to the loop
            await asyncio.sleep(0.005)


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; one that ended and waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
