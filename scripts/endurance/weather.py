"""What goes wrong around the watcher: one spell after the other, drawn from a seed.

Owns how each kind of trouble is made and unmade; knows nothing of the watcher.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

from fetcher.simulator import Fault

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from fetcher.simulator import Simulator

_SSE = {"Content-Type": "text/event-stream"}


class Weather:
    """The trouble of one account. `met` counts the spells of each kind."""

    def __init__(self, sim: Simulator, rng: Random) -> None:
        self.met: Counter[str] = Counter()
        self._sim = sim
        self._rng = rng
        self._spells: dict[str, Callable[[], None]] = {
            "API closed": partial(self._api, down=True),
            "API 503": partial(self._api, down=503),
            "host closed": partial(self._host, down=True),
            "host 500": partial(self._host, down=500),
            "links expired": sim.expire_links,
            "streams 404": partial(self._faults, Fault("progress", times=None, status=404)),
            "streams silent": partial(
                self._faults, Fault("progress", times=None, stall_after_bytes=0)
            ),
            "streams of garbage": partial(
                self._faults, Fault("progress", times=None, body=b"data: {]\n\n", headers=_SSE)
            ),
            "history empty": partial(self._faults, Fault("list", times=None, body="[]")),
            "history HTML": partial(self._faults, Fault("list", times=None, html=True)),
            "history cut": partial(self._faults, Fault("list", times=None, cut_after_bytes=900)),
            "pages capped": self._cap,
            "drizzle": partial(self._faults, *self._drizzle()),
        }

    @property
    def kinds(self) -> list[str]:
        """Return the names of all kinds of trouble."""
        return list(self._spells)

    def change(self) -> None:
        """Clear up, and let the next spell begin."""
        self.begin(self._rng.choice(self.kinds))

    def begin(self, kind: str) -> None:
        """Clear up, and let a spell of that kind begin."""
        self.clear()
        self.met[kind] += 1
        self._spells[kind]()

    def clear(self) -> None:
        """End whatever goes wrong."""
        self._sim.faults.clear()
        self._sim.api_down = self._sim.host_down = False
        self._sim.page_cap = None

    def _api(self, *, down: bool | int) -> None:
        self._sim.api_down = down

    def _host(self, *, down: bool | int) -> None:
        self._sim.host_down = down

    def _cap(self) -> None:
        self._sim.page_cap = self._rng.choice((3, 17, 40))

    def _faults(self, *faults: Fault) -> None:
        self._sim.faults.add(*faults)

    def _drizzle(self) -> list[Fault]:
        rare = partial(Fault, times=None, when=lambda _: self._rng.random() < 0.05)
        return [
            rare(on="audio", cut_after_bytes=700),
            rare(on="audio", status=503, headers={"Retry-After": "0"}),
            rare(on="audio", html=True),
            rare(on="list", status=502),
            rare(on="list", disconnect=True),
            rare(on="progress", cut_after_bytes=30),
        ]
