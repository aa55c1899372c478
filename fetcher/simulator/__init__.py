"""The API and its file host as one small server on loopback, with faults that can be scripted.

`fetcher simulate`, `fetcher demo` and the tests all use this one. It knows nothing of the
code under test: it speaks HTTP as the API's reference describes it, logs and prints nothing.
"""

from __future__ import annotations

from fetcher.simulator.demo import populate_demo
from fetcher.simulator.faults import Fault, FaultBook
from fetcher.simulator.history import OMIT, SimJob
from fetcher.simulator.log import SimRequest
from fetcher.simulator.server import Simulator
from fetcher.simulator.serving import Serving

__all__ = [
    "OMIT",
    "Fault",
    "FaultBook",
    "Serving",
    "SimJob",
    "SimRequest",
    "Simulator",
    "populate_demo",
]
