"""The manifest and the lock: is all that was recorded readable, and who is at work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fetcher.checkup.findings import good, problem
from fetcher.errors import StorageError
from fetcher.files.locks import present_holder
from fetcher.manifest import schema
from fetcher.manifest.reader import Reader
from fetcher.models import State, Variant
from fetcher.report.units import human_bytes, human_count
from fetcher.runs.destination import is_barred

if TYPE_CHECKING:
    from pathlib import Path

    from fetcher.checkup.findings import Findings
    from fetcher.runs.destination import Destination

_STORAGE = StorageError.exit_code
# Where the messages about a manifest turn from what is wrong to what to do.
_TURN = "was left as it is. "
_GRANT = "give this user the right to read and write it"


def examine_manifest(path: Path) -> Findings:
    """Yield whether the manifest is whole; reads all of it, however large."""
    try:
        if not schema.exists(path):
            yield good("manifest", "there is none yet; the first run makes it")
            return
        verdict = schema.check_whole(path)
        if verdict is not None:
            raise schema.damaged(path, verdict)
        if is_barred(path):
            yield problem("manifest", f"{path} may not be written", _GRANT, _STORAGE)
            return
        yield good("manifest", _described(path))
    except StorageError as error:
        what, turn, cure = str(error).partition(_TURN)
        cure = cure or _GRANT
        yield problem("manifest", f"{what}{turn}".strip(), cure, error.exit_code)


def _described(path: Path) -> str:
    with Reader(path) as reader:
        for _ in reader.entries():  # raises where one has a value that no row can have
            pass
        tallies = reader.tallies()
    jobs = sum(one.files for one in tallies if one.variant is Variant.DENOISED)
    files = sum(one.files for one in tallies if one.state is State.COMPLETE)
    size = human_bytes(path.stat().st_size)
    return (
        f"whole: {human_count(jobs)} {'job' if jobs == 1 else 'jobs'}, {human_count(files)} "
        f"complete {'file' if files == 1 else 'files'}; {size}, format {schema.VERSION}"
    )


def examine_lock(destination: Destination) -> Findings:
    """Yield who works on the destination now, which is no fault, and whether one could."""
    for lock in filter(is_barred, destination.locks):
        yield problem("in use", f"the lock {lock} may not be written", _GRANT, _STORAGE)
    who = present_holder(destination.own_state) or present_holder(destination.state)
    if who is None:
        yield good("in use", "by no other fetcher")
        return
    command, pid, host, since = (who.get(key, "?") for key in ("command", "pid", "host", "since"))
    yield good("in use", f"by fetcher {command}, process {pid} on {host}, since {since}")
