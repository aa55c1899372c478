"""The end of a download: what is held of a file against all that was announced of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fetcher.core.proof import Digester, algorithms, refuse, settle
from fetcher.core.sniff import wav_shortfall
from fetcher.errors import ContentError, ShortBodyError
from fetcher.threads import run

if TYPE_CHECKING:
    from fetcher.core.proof import Announced, Digest
    from fetcher.files.parts import Part
    from fetcher.transfers.underway import Underway


class DamagedError(ContentError):
    """What is here of the file is proven wrong: it must be dropped."""


async def prove_part(file: Underway) -> None:
    """Prove a part that is as long as the file; raises DamagedError."""
    if file.part is None:
        raise ContentError("there is nothing to prove")
    await file.peek()
    file.announce_start(file.part.version.bytes_total)
    await prove_held(file)


def prove_small(file: Underway, said: Announced) -> None:
    """Prove a file that is whole in memory; raises DamagedError.

    Hashes it only where digests were announced: the event loop has better things to do, and
    sealing hashes it on a thread.
    """
    content = file.content or b""
    damage = _damage(file, len(content))
    if said.whole and damage is None:
        digester = Digester(algorithms(said.whole))
        digester.update(content)
        damage = digester.mismatch(said.whole)
        file.sha256 = digester.sha256_hex()
    if damage is not None:
        file.content = None
        raise DamagedError(damage)


async def prove_held(file: Underway) -> None:
    """Prove a file whose part is as long as was announced; raises DamagedError.

    Where only the end of the connection said that this is all, a WAV that is longer by its
    own header was cut: ShortBodyError.
    """
    part = file.part
    if part is None:
        raise ContentError("there is nothing to prove")
    digests = part.version.digests + await _settle_spans(file, part)
    digester = part.digester
    if digester.lacks(digests):
        digester = await run(file.kit.threads, part.digest_again, algorithms(digests))
    damage = digester.mismatch(digests) or _damage(file, part.bytes_written)
    if damage is not None:
        cut = wav_shortfall(file.first_bytes, part.bytes_written)
        if part.version.bytes_total is None and damage == cut:
            raise ShortBodyError(damage)  # only the end of the connection said that this is all
        raise DamagedError(damage)
    file.sha256 = digester.sha256_hex()


async def _settle_spans(file: Underway, part: Part) -> tuple[Digest, ...]:
    """Return what the whole file has yet to match, so that each span that is left is right.

    Raises DamagedError.
    """
    left: tuple[Digest, ...] = ()
    for span in file.spans:
        digester = await run(
            file.kit.threads, part.digest_again, span.algorithms, start=span.start, end=span.end
        )
        damage, of_whole = settle(span.said, digester)
        if damage is not None:
            raise DamagedError(damage)
        left += of_whole
    return left


def _damage(file: Underway, length_bytes: int) -> str | None:
    return refuse(file.first_bytes, content_type=file.content_type, length_bytes=length_bytes)
