"""Commands of the user's, started when a file has finished (`--exec`) and at a run's end.

Owns what they are told, how many run at a time and how long they may take. The key is
never in their environment. A command that fails is reported and changes nothing else; how
one process is run is the business of `process`.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Self

from fetcher.configuration.targets import EXEC_PLACEHOLDERS, RUN_FACTS, split_command
from fetcher.configuration.values import show_time
from fetcher.core.extensions import KNOWN_EXTENSIONS
from fetcher.core.names import short_id, stem
from fetcher.events import ExecFailed, Notice
from fetcher.frozen import frozen
from fetcher.runs.leave import LAST_COMMAND_BY_S
from fetcher.runs.process import Bounds, Command, Ended, carry_out

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from fetcher.configuration.settings import Settings
    from fetcher.events import RunCompleted, Sink
    from fetcher.runs.desk import Done
    from fetcher.runs.leave import Leave

_PLACEHOLDER = re.compile(r"(?<!\$)\{(" + "|".join(EXEC_PLACEHOLDERS) + r")\}")
# Variables that hold the key or say where it is, and the one that is taken for it.
_OF_THE_KEY = frozenset(
    {
        "MUNSIT_API_KEY",
        "MUNSIT_API_KEY_FILE",
        "FETCHER_API_KEY",
        "FETCHER_API_KEY_FILE",
        "CREDENTIALS_DIRECTORY",
    }
)
# A shorter key is looked for as a whole value only: within others it would be chance.
_LEAST_KEY_CHARACTERS = 8


@frozen
class Limits:
    """How much of the machine commands may take.

    `at_once`: how many run at a time; `waiting`: how many files wait for theirs before
    downloads wait too. Seconds: `each_s` for one command; after a stop, `grace_s` for all
    that there are, then `last_s` for `--exec-after`, as far as the leave goes.
    """

    at_once: int = 4
    waiting: int = 1000
    each_s: float = 600.0
    grace_s: float = 2.0
    last_s: float = 1.0


class Hooks:
    """The commands of one run, and a context manager around it.

    `leave` is what a stop leaves to them. Without `--exec` and `--exec-after` nothing is
    done and nothing is held.
    """

    def __init__(
        self,
        settings: Settings,
        sink: Sink,
        *,
        leave: Leave,
        environ: Mapping[str, str] | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._words = split_command(settings.exec) if settings.exec else []
        self._last_words = split_command(settings.exec_after) if settings.exec_after else []
        self._settings = settings
        self._sink = sink
        self._leave = leave
        self._environ = os.environ if environ is None else environ
        self._limits = limits or Limits()
        self._tell = self._log if _is_shared(settings) else None
        self._queue: asyncio.Queue[Done] = asyncio.Queue(self._limits.waiting)
        self._cut = asyncio.Event()
        self._is_stopping = False
        self._base: dict[bytes, bytes] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        """Be ready for files. Raises UsageError where there is no key to keep secret."""
        if self._words or self._last_words:
            safe = without_key(self._environ, self._settings.read_key())
            self._base = {os.fsencode(name): os.fsencode(value) for name, value in safe.items()}
            self._tasks = [asyncio.create_task(self._keep_time())]
        if self._words:
            self._tasks += [asyncio.create_task(self._work()) for _ in range(self._limits.at_once)]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """End whatever still runs."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def finished(self, done: Done) -> None:
        """Let `--exec` run for a recorded file; waits only where too many wait already."""
        if self._words:
            await self._queue.put(done)

    async def settle(self, final: RunCompleted, *, has_downloaded: bool) -> None:
        """Wait for the commands of all files; then let `--exec-after` run if one is due.

        It is due when the run downloaded something, be it an original of a job whose clean
        file was here already. After a stop they have seconds.
        """
        await self._queue.join()
        if self._last_words and has_downloaded:
            await self._run_last(final)

    async def _keep_time(self) -> None:
        """Let commands end by themselves for a little while after a stop."""
        await self._leave.begun()
        self._is_stopping = True
        await asyncio.sleep(self._limits.grace_s)
        self._cut.set()

    async def _work(self) -> None:
        while True:
            done = await self._queue.get()
            try:
                await self._run_for(done)
            finally:
                self._queue.task_done()

    async def _run_for(self, done: Done) -> None:
        ended = await self._run_within(lambda: self._for_file(done), self._cut)
        if ended.code != 0:
            job = done.entry.job
            self._sink(
                ExecFailed(id=job.id, file_name=job.file_name, code=ended.code, reason=ended.reason)
            )

    async def _run_last(self, final: RunCompleted) -> None:
        cut = self._last_cut() if self._is_stopping else self._cut
        ended = await self._run_within(lambda: self._for_run(final), cut)
        if ended.code != 0:
            how = ended.reason or f"it ended with {ended.code}"
            self._sink(Notice("WARNING", f"the command of --exec-after failed: {how}"))

    def _last_cut(self) -> asyncio.Event:
        """Return what ends a last command that begins after a stop."""
        cut = asyncio.Event()
        left_s = min(self._limits.last_s, self._leave.left_s(LAST_COMMAND_BY_S))
        if left_s:
            asyncio.get_running_loop().call_later(left_s, cut.set)
        else:
            cut.set()
        return cut

    async def _run_within(self, command: Callable[[], Command], cut: asyncio.Event) -> Ended:
        if cut.is_set():
            return Ended(None, "it was not started, as the run was stopped")
        try:
            return await carry_out(command(), Bounds(self._limits.each_s, cut), tell=self._tell)
        except UnicodeEncodeError:  # a word or a path that this locale cannot write
            return Ended(None, "it could not be started: its words do not fit this locale")
        except Exception as error:  # noqa: BLE001 - a task's edge: the files behind it wait
            return Ended(None, f"it could not be run: {error!r}")

    def _for_file(self, done: Done) -> Command:
        facts = facts_of(done, self._settings.dest)
        return self._command([_filled(word, facts) for word in self._words], facts)

    def _for_run(self, final: RunCompleted) -> Command:
        facts = {name: _encoded(getattr(final, name)) for name in RUN_FACTS}
        facts["dest"] = os.fsencode(self._settings.dest)
        return self._command([os.fsencode(word) for word in self._last_words], facts)

    def _command(self, words: list[bytes], facts: Mapping[str, bytes]) -> Command:
        variables = {f"FETCHER_{name.upper()}".encode(): value for name, value in facts.items()}
        return Command(words, self._base | variables)

    def _log(self, line: str) -> None:
        self._sink(Notice("INFO", line))


def _is_shared(settings: Settings) -> bool:
    """Return whether stderr has an order of its own that raw output would spoil.

    Bars on a terminal, and log lines that are JSON.
    """
    if settings.quiet:
        return False
    try:
        is_terminal = sys.__stderr__ is not None and sys.__stderr__.isatty()
    except ValueError:  # closed
        return False
    return is_terminal or settings.log_format == "json"


# ---- what a command is told --------------------------------------------------------------


def without_key(environ: Mapping[str, str], key: str) -> dict[str, str]:
    """Return the environment without the key: neither its variables nor its value anywhere."""
    keys = {key, environ.get("MUNSIT_API_KEY", "").strip()} - {""}
    long = [one for one in keys if len(one) >= _LEAST_KEY_CHARACTERS]
    return {
        name: value
        for name, value in environ.items()
        if name not in _OF_THE_KEY
        and value.strip() not in keys
        and not any(one in value for one in long)
    }


def facts_of(done: Done, root: Path) -> dict[str, bytes]:
    """Return what each of EXEC_PLACEHOLDERS stands for, as the system takes it.

    What a record lacks is empty. `root` is DIR, absolute.
    """
    job, entry = done.entry.job, done.entry
    suffix = PurePosixPath(done.path).suffix
    texts: dict[str, object] = {
        "id": job.id,
        "short_id": short_id(job.id),
        "file_name": job.file_name,
        "stem": stem(job.file_name, job.audio_format),
        "ext": suffix if suffix.lower() in KNOWN_EXTENSIONS else "",
        "variant": entry.variant,
        "bytes": done.bytes_stored,
        "sha256": done.sha256,
        "source_type": job.source_type,
        "audio_format": job.audio_format,
        "audio_duration": job.audio_duration_s,
        "audio_size": job.audio_size_bytes,
        "user_id": job.user_id,
        "transaction_id": job.transaction_id,
        "created_at": show_time(job.created_at),
        "updated_at": show_time(job.updated_at),
    }
    return {name: _encoded(value) for name, value in texts.items()} | {
        "path": os.fsencode(root / done.path),
        "relative_path": os.fsencode(done.path),
        "dest": os.fsencode(root),
    }


def _encoded(value: object) -> bytes:
    """Return a fact as bytes: a NUL would end it, and a lone surrogate is no UTF-8."""
    text = "" if value is None else str(value)
    return text.replace("\0", "\ufffd").encode("utf-8", "replace")


def _filled(word: str, facts: Mapping[str, bytes]) -> bytes:
    """Return a word with its placeholders replaced, once: what they bring in is only text."""
    pieces = _PLACEHOLDER.split(word)
    texts = [facts[piece] if at % 2 else os.fsencode(piece) for at, piece in enumerate(pieces)]
    return b"".join(texts)
