"""Fixtures that several test files share: the simulator, and aioresponses for the JSON API."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from aioresponses import aioresponses

    from fetcher.simulator import Simulator


# A busy machine takes its time: a slow example is no failure, and a failure prints its seed.
settings.register_profile("steady", deadline=None, print_blob=True)
settings.load_profile("steady")


@pytest.fixture
async def sim() -> AsyncIterator[Simulator]:
    """Run a simulator with an empty account."""
    from fetcher.simulator import Simulator

    async with Simulator() as simulator:
        yield simulator


@pytest.fixture
def mocked_api() -> Iterator[aioresponses]:
    """Give an `aioresponses` whose answers aiohttp 3.14 accepts.

    aiohttp 3.14 asks a response for its `stream_writer`, which aioresponses 0.7.9 does not
    give (its issue 289). Real connections to loopback pass through.
    """
    from aiohttp import ClientResponse
    from aioresponses import aioresponses

    class Response(ClientResponse):
        def __init__(self, *args: Any, **options: Any) -> None:
            options.setdefault("stream_writer", SimpleNamespace(output_size=0))
            super().__init__(*args, **options)

    class Bridged(aioresponses):
        def add(self, *args: Any, **options: Any) -> None:
            options["response_class"] = options.get("response_class") or Response
            super().add(*args, **options)

    with Bridged(passthrough=["http://127.0.0.1"]) as mocked:
        yield mocked
