"""The simulator as file host, where nginx is not installed: a process of its own.

`python -m benchmark.simulated COUNT SIZE_BYTES RATE_BYTES_S` prints one line of JSON with the
API's URL, the addresses of the files and their SHA-256, and serves until it is ended.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys

from fetcher.simulator import Serving, Simulator


async def serve(count: int, size_bytes: int, rate_bytes_s: int) -> None:
    """Serve an account of `count` files; a rate of 0 is none."""
    async with Simulator() as sim:
        sim.serving = Serving(signed=False, rate_bytes_s=rate_bytes_s or None)
        account = sim.generate(count, size_bytes)
        jobs = [account.id(rank) for rank in range(count)]
        said = {
            "api_url": sim.api_url,
            "urls": [sim.url(job) for job in jobs],
            "digests": [hashlib.sha256(sim.content(job)).hexdigest() for job in jobs],
        }
        print(json.dumps(said), flush=True)
        await sim.run_forever()


if __name__ == "__main__":
    asyncio.run(serve(*map(int, sys.argv[1:])))
