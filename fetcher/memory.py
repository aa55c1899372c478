"""Memory that a disk can take bytes from without a copy in between.

Direct writes (open(2), O_DIRECT) want address, offset and length to be multiples of the
block size of the disk: 512 or 4,096 bytes. Whole pages satisfy both. The pages are shared
ones, since private ones must not be written from while a process forks (open(2), NOTES).
"""

from __future__ import annotations

import ctypes
import mmap

ALIGNMENT_BYTES = 4096


def aligned(count_bytes: int) -> memoryview:
    """Return new memory that begins where a page does."""
    return memoryview(mmap.mmap(-1, count_bytes))


def is_aligned(view: memoryview) -> bool:
    """Return whether the memory begins where a page may."""
    if view.readonly or not view.nbytes:
        return False
    return ctypes.addressof(ctypes.c_char.from_buffer(view)) % ALIGNMENT_BYTES == 0
