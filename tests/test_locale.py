"""A locale that is not UTF-8: names on disk are right all the same, and nothing breaks."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from fetcher.simulator import Simulator


async def test_arabic_names_are_written_in_a_locale_that_cannot_say_them(
    tmp_path: Path, sim: Simulator
) -> None:
    job = sim.add_job("تسجيل.wav")
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "fetcher", "backfill", "--api-url", sim.api_url, "-d", str(tmp_path / "here")),
        env={**os.environ, **ascii_only, "MUNSIT_API_KEY": "k"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await process.communicate()
    assert process.returncode == 0, said
    assert (tmp_path / "here" / "تسجيل" / f"تسجيل.{job[:8]}.wav").is_file()
    assert said.isascii()
