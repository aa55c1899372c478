"""`fetcher export` gives other programs the manifest, whole and in their own forms."""

from __future__ import annotations

import csv
import json
import os
import shlex
import subprocess
import sys
import wave
from io import StringIO
from typing import TYPE_CHECKING, Any

import pytest
from manifests import SHA256, Shelf, job, rejected

from fetcher.models import JobId, Status, Variant

if TYPE_CHECKING:
    from pathlib import Path

# Contract 6.
LEAST_FIELDS = {
    "id",
    "file_name",
    "status",
    "state",
    "path",
    "bytes",
    "sha256",
    "created_at",
    "updated_at",
    "attempts",
    "last_error",
    "completed_at",
}
FORMS = ("json", "jsonl", "csv", "nemo", "audiofolder")


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "dest")


def exported(shelf: Shelf, *options: str) -> Any:
    assert (shelf.run("export", *options), shelf.err.getvalue()) == (0, "")
    return json.loads(shelf.out.getvalue())


def pairs(shelf: Shelf) -> None:
    """Put a pair, a clean file alone, and an unfinished job on the shelf."""
    pair, alone, waiting = (
        job(1, "a b.mp3", original_audio_url="https://files.example/o.mp3"),
        job(2, audio_duration_s=None),
        job(3, status=Status.PENDING),
    )
    shelf.add(waiting, alone, pair, originals=True)
    shelf.complete(pair, "a b/a b.wav")
    shelf.complete(pair, "a b/a b.original.mp3", variant=Variant.ORIGINAL)
    shelf.complete(alone, "audio/audio.wav")


# ---- JSON and CSV ------------------------------------------------------------------------


def test_json_is_an_array_of_every_file_with_the_promised_fields(shelf: Shelf) -> None:
    done, failed = job(1, "مقابلة\n.wav"), job(2)
    shelf.add(rejected(3, "too long"), failed, done)
    shelf.complete(done, "a.wav", bytes_stored=7)
    shelf.fail(failed, "404", attempts=6)
    first, second, third = exported(shelf)
    assert all(set(one) >= LEAST_FIELDS for one in (first, second, third))
    assert [one["state"] for one in (first, second, third)] == ["rejected", "failed", "complete"]
    assert (first["error"], first["transaction_id"]) == ("too long", "tx_3")
    assert (second["attempts"], second["last_error"]) == (6, "404")
    expected = {"file_name": "مقابلة\n.wav", "path": "a.wav", "bytes": 7, "sha256": SHA256}
    assert expected.items() <= third.items()
    times = [third[name] for name in ("created_at", "updated_at", "completed_at")]
    assert times == [
        "2025-06-01T12:01:00.000Z",
        "2025-06-01T12:01:30.000Z",
        "2025-06-01T12:00:00.000Z",
    ]


def test_originals_are_elements_of_their_own(shelf: Shelf) -> None:
    pairs(shelf)
    elements = [(one["variant"], one["path"]) for one in exported(shelf)][-2:]
    assert elements == [("denoised", "a b/a b.wav"), ("original", "a b/a b.original.mp3")]


def test_no_link_leaves_the_manifest(shelf: Shelf) -> None:
    shelf.add(job(1, original_audio_url="https://files.example/o?signature=secret"))
    for form in FORMS:
        assert shelf.run("export", "--format", form) == 0
        assert "secret" not in shelf.out.getvalue()


@pytest.mark.parametrize(("form", "text"), [("json", "[]\n"), ("jsonl", ""), ("nemo", "")])
def test_without_a_manifest_the_result_is_empty(shelf: Shelf, form: str, text: str) -> None:
    assert (shelf.run("export", "--format", form), shelf.out.getvalue()) == (0, text)
    assert not shelf.dest.exists()


def test_json_lines_are_what_the_array_holds(shelf: Shelf) -> None:
    shelf.add(job(1), job(2))
    array = exported(shelf)
    assert shelf.objects("export", "--format", "jsonl") == array
    assert shelf.objects("export", "--json") == array


def test_csv_holds_the_same_as_json(shelf: Shelf) -> None:
    done = job(1, 'a "quoted", name\r\nof two lines.wav')
    shelf.add(done, job(2))
    shelf.complete(done, "a.wav")
    array = exported(shelf)
    assert shelf.run("export", "--format", "csv") == 0
    rows = list(csv.DictReader(StringIO(shelf.out.getvalue(), newline="")))
    assert rows == [
        {name: "" if value is None else str(value) for name, value in one.items()} for one in array
    ]


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_csv_never_makes_a_spreadsheet_calculate(shelf: Shelf, name: str) -> None:
    shelf.add(job(1, name))
    assert shelf.run("export", "--format", "csv") == 0
    (row,) = csv.DictReader(StringIO(shelf.out.getvalue(), newline=""))
    assert row["file_name"] == f"'{name}"
    assert exported(shelf)[0]["file_name"] == name


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


_TABLES = {
    "csv": ("export", "--format", "csv"),
    "audiofolder": ("export", "--format", "audiofolder"),
    "list": ("list", "--csv"),
}


@pytest.mark.parametrize("command", _TABLES.values(), ids=_TABLES)
def test_csv_is_exact_for_programs_and_harmless_on_a_terminal(
    shelf: Shelf, command: tuple[str, ...]
) -> None:
    evil = 'a\x1b[31m"red\u202e\x9b,\nb\tc.wav'
    one = job(1, evil)
    shelf.add(one)
    shelf.complete(one, "a/a.wav")
    told = []
    for out in (StringIO(), Terminal()):
        assert shelf.run(*command, out=out) == 0
        (row,) = csv.DictReader(StringIO(out.getvalue(), newline=""))
        told.append(row["name" if "audiofolder" in command else "file_name"])
    assert told == [evil, 'a\ufffd[31m"red\ufffd, b c.wav']


def test_output_is_utf_8_whatever_the_locale(shelf: Shelf) -> None:
    shelf.add(job(1, "مقابلة 🎙.wav"))
    environ = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PATH": os.defpath}
    for form in ("json", "csv"):
        command = [sys.executable, "-m", "fetcher", "export", "--format", form]
        done = subprocess.run(
            [*command, "-d", str(shelf.dest)], env=environ, capture_output=True, check=True
        )
        assert "مقابلة 🎙.wav" in done.stdout.decode()


# ---- for speech work ---------------------------------------------------------------------


def test_nemo_lists_what_is_complete_and_pairs_it_with_the_original(shelf: Shelf) -> None:
    pairs(shelf)
    pair, alone = shelf.objects("export", "--format", "nemo")
    clean = str(shelf.dest / "a b/a b.wav")
    assert pair == {
        "audio_filepath": clean,
        "duration": 61.5,
        "text": "",
        "noisy_filepath": str(shelf.dest / "a b/a b.original.mp3"),
        "clean_filepath": clean,
    }
    assert set(alone) == {"audio_filepath", "duration", "text"}


def test_a_length_that_the_record_lacks_is_measured(shelf: Shelf) -> None:
    one = job(1, audio_duration_s=None)
    shelf.add(one)
    with wave.open(str(shelf.dest / "a.wav"), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(2 * 8000 * 2))
    shelf.complete(one, "a.wav")
    (said,) = shelf.objects("export", "--format", "nemo")
    assert said["duration"] == pytest.approx(2.0)


def test_kaldi_is_a_folder_whose_files_share_their_keys(shelf: Shelf, tmp_path: Path) -> None:
    pairs(shelf)
    to = tmp_path / "data" / "train"
    assert shelf.run("export", "--format", "kaldi", "--to", str(to)) == 0
    assert "wrote 2 recordings" in shelf.err.getvalue()
    files = {path.name: path.read_text().splitlines() for path in to.iterdir()}
    first, second = (f"{n:08d}-0000-4000-8000-000000000000" for n in (1, 2))
    original = shlex.quote(str(shelf.dest / "a b/a b.original.mp3"))
    assert files == {
        "wav.scp": [
            f"{first} {shelf.dest}/a b/a b.wav",
            f"{second} {shelf.dest}/audio/audio.wav",
        ],
        "utt2dur": [f"{first} 61.500"],
        "utt2spk": [f"{first} {first}", f"{second} {second}"],
        "spk2utt": [f"{first} {first}", f"{second} {second}"],
        "original.scp": [f"{first} ffmpeg -v 8 -i {original} -f wav -acodec pcm_s16le - |"],
    }


def test_kaldi_keys_are_sorted_as_kaldi_wants_them_and_hold_no_space(
    shelf: Shelf, tmp_path: Path
) -> None:
    jobs = [job(n, id=JobId(name)) for n, name in enumerate(["b", "a c", "é", "Z", "10", "9"])]
    shelf.add(*jobs)
    for n, one in enumerate(jobs):
        shelf.complete(one, f"{n}.wav")
    assert shelf.run("export", "--format", "kaldi", "--to", str(tmp_path / "k")) == 0
    lines = (tmp_path / "k" / "utt2spk").read_bytes().splitlines()
    assert (len(lines), lines) == (6, sorted(lines))
    assert all(len(line.split()) == 2 for line in lines)


def test_kaldi_asks_for_a_folder(shelf: Shelf) -> None:
    assert shelf.run("export", "--format", "kaldi") == 2
    assert "--to DIR" in shelf.err.getvalue()


def test_a_file_that_stands_there_is_not_replaced_and_none_is_left_behind(
    shelf: Shelf, tmp_path: Path
) -> None:
    pairs(shelf)
    to = tmp_path / "k"
    to.mkdir()
    (to / "utt2spk").write_text("somebody else's")
    assert shelf.run("export", "--format", "kaldi", "--to", str(to)) == 2
    assert "utt2spk is already there" in shelf.err.getvalue()
    assert [(path.name, path.read_text()) for path in to.iterdir()] == [
        ("utt2spk", "somebody else's")
    ]


def test_a_folder_that_cannot_be_made_is_told(shelf: Shelf, tmp_path: Path) -> None:
    shelf.add(job(1))
    (tmp_path / "file").write_text("")
    assert shelf.run("export", "--format", "kaldi", "--to", str(tmp_path / "file" / "k")) == 6


def test_the_paths_of_an_audiofolder_lead_from_its_metadata_to_the_files(shelf: Shelf) -> None:
    pairs(shelf)
    for folder, prefix in ((None, ""), (shelf.dest, ""), (shelf.dest.parent, "dest/")):
        to = [] if folder is None else ["--to", str(folder)]
        assert shelf.run("export", "--format", "audiofolder", *to) == 0
        text = (folder / "metadata.csv").read_text() if folder else shelf.out.getvalue()
        pair, alone = csv.DictReader(StringIO(text))
        assert pair["file_name"] == f"{prefix}a b/a b.wav"
        assert pair["original_file_name"] == f"{prefix}a b/a b.original.mp3"
        assert (pair["name"], pair["duration"]) == ("a b.mp3", "61.5")
        assert alone["original_file_name"] == ""


def test_an_audiofolder_without_originals_has_no_column_for_them(shelf: Shelf) -> None:
    one = job(1)
    shelf.add(one)
    shelf.complete(one, "a.wav")
    (title, _) = shelf.lines("export", "--format", "audiofolder")
    assert "original" not in title


def test_metadata_that_would_not_stand_above_the_audio_is_refused(
    shelf: Shelf, tmp_path: Path
) -> None:
    shelf.add(job(1))
    assert shelf.run("export", "--format", "audiofolder", "--to", str(tmp_path / "x")) == 2
    assert f"--to {shelf.dest}" in shelf.err.getvalue()


def test_a_folder_for_a_format_that_is_one_stream_is_refused(shelf: Shelf, tmp_path: Path) -> None:
    assert shelf.run("export", "--to", str(tmp_path)) == 2
    assert "> FILE" in shelf.err.getvalue()
