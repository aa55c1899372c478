"""Faults, scripted: which request goes wrong, and how.

Owns the vocabulary, the matching and the counting; `sender`, `host` and `api` carry them out.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fetcher.simulator.log import SimRequest

Kind = Literal["list", "progress", "audio", "original", "submit", "other"]


@dataclass(frozen=True, slots=True, eq=False)
class Fault:
    """What goes wrong with the requests it matches.

    Matching: `on` a kind of request (`any`: all of them), `job` its id, `when` any further
    test; the first `after` matches are spared, then `times` are hit (None: all).

    Before the answer: `delay_s` waits, `disconnect` closes without one.
    In its place: `status` (with `body`, or a plausible error), `html` (a page with 200),
    `body` with 200. `headers` are added to whatever is answered; None removes one.
    Of the audio: `ignore_range` answers 200; `change_file` makes it another file from here
    on; `content_range` and `content_length` replace what these headers say; `digest`
    (`wrong`) sends digests that do not match, of the kinds the host serves or a Repr-Digest.
    Of any body: `cut_after_bytes` closes the connection there (`reset`: with RST, which may
    cost bytes in flight), `stall_after_bytes` goes silent and keeps it open, `rate_bytes_s`
    slows it, `hang_up` closes after a whole answer without having announced it.
    """

    on: Kind | Literal["any"] = "any"
    job: str | None = None
    times: int | None = 1
    after: int = 0
    when: Callable[[SimRequest], bool] | None = None
    delay_s: float = 0.0
    disconnect: bool = False
    status: int | None = None
    headers: Mapping[str, str | None] = field(default_factory=dict)
    body: bytes | str | None = None
    html: bool = False
    ignore_range: bool = False
    change_file: bool = False
    content_range: str | None = None
    content_length: int | None = None
    digest: Literal["wrong"] | None = None
    cut_after_bytes: int | None = None
    reset: bool = False
    stall_after_bytes: int | None = None
    rate_bytes_s: float | None = None
    hang_up: bool = False

    def matches(self, request: SimRequest) -> bool:
        """Say whether this request is one that the fault is about, counts aside."""
        return (
            self.on in ("any", request.kind)
            and self.job in (None, request.job)
            and (self.when is None or self.when(request))
        )


NO_FAULT = Fault()
_MATCHING = frozenset(("on", "job", "times", "after", "when"))
_EFFECTS = tuple(f.name for f in fields(Fault) if f.name not in _MATCHING)


def merged(faults: list[Fault]) -> Fault:
    """Return one fault with the effects of all; where two differ, the earlier one counts."""
    if len(faults) <= 1:
        return faults[0] if faults else NO_FAULT
    result = faults[0]
    for other in faults[1:]:
        missing = {
            name: getattr(other, name)
            for name in _EFFECTS
            if getattr(result, name) == getattr(NO_FAULT, name)
        }
        result = replace(result, **missing)
    return result


class FaultBook:
    """The faults in force, each with how often it was met and fired."""

    def __init__(self) -> None:
        self._met: dict[Fault, int] = {}
        self._fired: dict[Fault, int] = {}

    def add(self, *faults: Fault) -> None:
        """Put faults in force, in this order."""
        for fault in faults:
            self._met[fault] = self._fired[fault] = 0

    def remove(self, fault: Fault) -> None:
        """Take one fault out of force; no effect where it is not."""
        self._met.pop(fault, None)

    def clear(self) -> None:
        """Take all faults out of force."""
        self._met.clear()

    def fired(self, fault: Fault) -> int:
        """Return how many requests this fault has hit."""
        return self._fired.get(fault, 0)

    def take(self, request: SimRequest) -> Fault:
        """Return what goes wrong with `request`, and count it; `NO_FAULT` if nothing does."""
        hits = []
        for fault in self._met:
            if not fault.matches(request):
                continue
            self._met[fault] += 1
            spared = self._met[fault] <= fault.after
            if spared or (fault.times is not None and self._fired[fault] >= fault.times):
                continue
            self._fired[fault] += 1
            hits.append(fault)
        return merged(hits)
