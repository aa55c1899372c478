"""The measuring and killing scripts judge rightly: a broken promise is seen as one."""

from __future__ import annotations

import hashlib
import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = str(Path(__file__).parent.parent / "scripts")
RIGHT = {"a1": {hashlib.sha256(b"whole").hexdigest()}}


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import modules of the scripts, which are no installed packages."""
    monkeypatch.syspath_prepend(SCRIPTS)
    return import_module


# ---- chaos -------------------------------------------------------------------------------


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def test_whole_file_of_a_job_is_in_place(load: Any, tmp_path: Path) -> None:
    folder = load("havoc.folder").Folder(tmp_path)
    write(tmp_path / "x/a1.wav", b"whole")
    assert (folder.look(RIGHT), folder.wrong) == ({"a1"}, [])


def test_state_folder_is_not_what_a_reader_sees(load: Any, tmp_path: Path) -> None:
    folder = load("havoc.folder").Folder(tmp_path)
    write(tmp_path / ".fetcher/partial/a1", b"who")
    assert (folder.look(RIGHT), folder.wrong, folder.parts()) == (set(), [], ["a1"])


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ({"a1.wav": b"who"}, "not the bytes"),
        ({"a1.wav": b"whole", "x/a1.wav": b"whole"}, "a second file"),
        ({"b2.wav": b"whole"}, "belongs to no job"),
        ({"a1.wav": b""}, "not the bytes"),
    ],
    ids=["cut", "duplicate", "stranger", "empty"],
)
def test_broken_promise_is_told(
    load: Any, tmp_path: Path, files: dict[str, bytes], complaint: str
) -> None:
    folder = load("havoc.folder").Folder(tmp_path)
    for name, data in files.items():
        write(tmp_path / name, data)
    folder.look(RIGHT)
    assert [complaint in text for text in folder.wrong] == [True]


def test_file_that_is_changed_later_is_judged_again(load: Any, tmp_path: Path) -> None:
    folder = load("havoc.folder").Folder(tmp_path)
    write(tmp_path / "a1.wav", b"whole")
    folder.look(RIGHT)
    write(tmp_path / "a1.wav", b"wholes")
    folder.look(RIGHT)
    assert len(folder.wrong) == 1


# ---- bench -------------------------------------------------------------------------------


def test_listing_is_newest_first_and_ends(load: Any) -> None:
    listing = load("benchmark.listing")
    spec = listing.Spec(5, 4000, "http://h", pending=(3,))
    assert listing.Spec.read(spec.text()) == spec

    def page(query: str) -> list[tuple[str | None, str]]:
        records = json.loads(listing.page(spec, f"/api/v1/denoise{query}"))
        return [(record["audio_url"], record["status"]) for record in records]

    newest = [("http://h/000004.wav", "success"), (None, "pending")]
    assert page("?offset=0&limit=2") == newest
    assert page("?offset=4&limit=2") == [("http://h/000000.wav", "success")]
    assert page("?offset=5&limit=2") == []
    assert len(page("")) == 5
    assert listing.page(spec, "/api/v1/denoise/x/progress") is None


def test_ratio_is_the_median_of_the_rounds(load: Any) -> None:
    targets, measure = load("benchmark.targets"), load("benchmark.measure")
    sample = load("benchmark.compare").Sample
    workload = load("benchmark.workloads").WORKLOADS[0]

    def took(*seconds: float) -> list[Any]:
        return [sample(measure.Cost(0, s, s, s, 0)) for s in seconds]

    # A round in which everything was slow counts as one of three, not by its seconds.
    samples = {"fetcher": took(1, 20, 3), "curl": took(2, 10, 2)}
    assert targets.ratio(samples, "wall", workload, "curl") == 1.5


def test_only_what_was_measured_is_judged(load: Any) -> None:
    targets, measure = load("benchmark.targets"), load("benchmark.measure")
    cost = measure.Cost(0, 1.0, 1.0, 1.0, 60_000_000)
    samples = {"fetcher": [load("benchmark.compare").Sample(cost)]}
    verdicts = targets.judge({"far": samples})
    assert [(v.measured, v.limit, v.reached) for v in verdicts] == [(60.0, 95, True)]


def test_run_tells_status_and_cost(load: Any, tmp_path: Path) -> None:
    measure = load("benchmark.measure")
    argv = [sys.executable, "-c", "import sys; sum(range(10**6)); print('said'); sys.exit(3)"]
    cost = measure.run(measure.Command(argv), log=tmp_path / "log")
    assert (cost.status, (tmp_path / "log").read_text()) == (3, "said\n")
    assert 0 < cost.cpu_s <= cost.wall_s + 0.1


def test_run_is_killed_when_asked(load: Any, tmp_path: Path) -> None:
    measure = load("benchmark.measure")
    ready = tmp_path / "ready"
    argv = [sys.executable, "-c", f"import time; open({str(ready)!r}, 'w'); time.sleep(60)"]
    cost = measure.run(measure.Command(argv), log=tmp_path / "log", stop_when=ready.exists)
    assert cost.status == -9


def test_audio_of_the_bench_is_audio_and_never_the_same(load: Any, tmp_path: Path) -> None:
    import wave

    origin = load("benchmark.origin")
    origin.make_audio(tmp_path / "audio", 2, 100_044)
    one, two = sorted((tmp_path / "audio").iterdir())
    with wave.open(str(one)) as audio:
        assert (audio.getnframes(), audio.getframerate()) == (25_000, 48_000)
    assert one.stat().st_size == two.stat().st_size == 100_044
    assert one.read_bytes() != two.read_bytes()
