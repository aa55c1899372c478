"""An account worth looking at: what `fetcher demo` and `fetcher simulate` begin with.

Owns the choice of jobs; everything about them is real audio, made by the program.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fetcher.simulator.server import Simulator

_RATE_BYTES_S = 60_000.0  # a file of 1 to 3 s of audio then takes about a second: bars are seen
_DAY_S = 86_400.0

# File name, seconds of audio; oldest first.
_FINISHED = (
    ("audio.wav", 1.2),
    ("تسجيل المقابلة الأولى.wav", 2.6),
    ("audio.wav", 1.0),
    ("interview-with-dr-haddad.mp3", 2.2),
    ("محاضرة في تاريخ الأندلس.mp4", 3.0),
    ("audio.wav", 1.6),
    ("Podcast 12 – final (2).m4a", 2.4),
    ("رسالة صوتية.ogg", 1.1),
    ("audio.wav", 1.4),
    ("field/recording: day 1?.wav", 1.8),
    ("قصيدة.wav", 2.0),
    ("audio.wav", 1.3),
    ("meeting 2025-10-02.mov", 2.8),
    ("نشرة الأخبار ٢٠٢٥.wav", 2.1),
    ("audio.wav", 1.7),
    ("درس ١٢ – النحو والصرف.webm", 2.3),
    ("voice memo 🎙.wav", 1.5),
    ("اجتماع فريق العمل بشأن خطة الربع القادم وتوزيع المهام " * 4 + ".wav", 2.5),
    ("audio.wav", 1.9),
)
# File name, seconds of audio, seconds until the service is done with it.
_PENDING = (
    ("audio.wav", 1.4, 0.0),
    ("مكالمة خدمة العملاء.wav", 2.2, 1.5),
    ("webinar.mp4", 2.7, 3.0),
    ("خطبة.wav", 1.8, 4.5),
    ("audio.wav", 1.2, 6.0),
)


def populate_demo(
    sim: Simulator, *, first_finish_s: float = 2.0, rate_bytes_s: float | None = _RATE_BYTES_S
) -> list[str]:
    """Fill the account with 25 jobs of the last days; return their ids, oldest first.

    19 are finished, one was failed by the service, five are pending and finish one after the
    other, the first in `first_finish_s` seconds and the last 6 s later. `rate_bytes_s` caps
    each connection to the file host, None leaves it uncapped.
    """
    sim.serving = replace(sim.serving, rate_bytes_s=rate_bytes_s)
    now = sim.clock.now()
    step_s = 6 * _DAY_S / len(_FINISHED)
    ids = []
    for rank, (name, duration_s) in enumerate(_FINISHED):
        at = now - 7 * _DAY_S + rank * step_s
        ids.append(sim.add_job(name, created_at=at, duration_s=duration_s))
    failed = sim.add_job(
        "broken upload.wav",
        created_at=now - 3_600,
        duration_s=1.0,
        status="failed",
        error="The audio stream is empty or could not be decoded",
    )
    pending = [
        sim.add_job(
            name,
            created_at=now - 60 + rank,
            duration_s=duration_s,
            finishes_after_s=first_finish_s + later_s,
        )
        for rank, (name, duration_s, later_s) in enumerate(_PENDING)
    ]
    return [*ids, failed, *pending]
