"""Which kind of file system a folder is on, as the kernel's table of mounts tells it."""

from __future__ import annotations

import os
import re
from pathlib import Path

from fetcher.frozen import frozen

MOUNTS = Path("/proc/self/mounts")
# File systems whose files another machine keeps: SQLite's log needs memory that all its
# users share, which none of them offers (sqlite.org/wal.html, "Disadvantages").
_NETWORK = frozenset(
    (
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre"),
        *("ncpfs", "davfs", "fuse.sshfs", "fuse.rclone", "fuse.s3fs", "fuse.glusterfs"),
        *("fuse.davfs", "fuse.gcsfuse", "fuse.smbnetfs", "fuse.curlftpfs", "fuse.mount-s3"),
    )
)
_ESCAPE = re.compile(r"\\([0-7]{3})")  # how proc(5) writes spaces and the like


@frozen
class Mount:
    """One mounted file system."""

    point: str
    kind: str

    @property
    def is_network(self) -> bool:
        """Return whether its files are on another machine."""
        return self.kind in _NETWORK


def mount_of(folder: Path, table: Path | None = None) -> Mount | None:
    """Return the file system that `folder` is on, None where the system does not tell.

    `table`: where the mounts stand, in place of the kernel's.
    """
    try:
        lines = (table or MOUNTS).read_text(errors="surrogateescape").splitlines()
    except OSError:
        return None
    where = os.path.realpath(folder)
    best: Mount | None = None
    for line in lines:
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        point = _ESCAPE.sub(lambda match: chr(int(match[1], 8)), fields[1])
        is_above = where == point or where.startswith(point.rstrip("/") + "/")
        # of two at the same point the later one hides the earlier
        if is_above and (best is None or len(point) >= len(best.point)):
            best = Mount(point, fields[2])
    return best
