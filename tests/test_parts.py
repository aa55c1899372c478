"""Unfinished files: what is trusted after a crash is what a journal proves, and no more."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fetcher.core.proof import Digest, Digester
from fetcher.errors import FetcherError, PlaceError, StorageError
from fetcher.files.direct import Detour
from fetcher.files.journal import Proven, Version
from fetcher.files.parts import SYNC_BYTES, Part, Parts, Where, part_key
from fetcher.models import JobId, Partial, Validator, Variant

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KEY = "0f8fad5b-d9cb-469f-a165-70867728950e.denoised"
BODY = bytes(range(256)) * 40  # 10,240 bytes
MD5 = Digest("md5", hashlib.md5(BODY, usedforsecurity=False).digest(), "content-md5")
VERSION = Version(Validator('"v1"', "Mon, 05 Feb 2024 10:00:00 GMT"), len(BODY), (MD5,))


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    return Parts(tmp_path)


def leave(parts: Parts, *pieces: bytes, version: Version = VERSION, key: str = KEY) -> None:
    """Write these pieces and end, as a run that was killed."""
    part = parts.begin(key, version)
    for piece in pieces:
        part.append(piece)
    part.close()


def thousand(count: int) -> list[bytes]:
    return [BODY[at : at + 1000] for at in range(0, 1000 * count, 1000)]


def recovered(parts: Parts, key: str = KEY) -> int:
    """Return how many bytes are trusted; what is trusted must be the body's beginning."""
    part = parts.recover(key)
    if part is None:
        return 0
    part.close()
    assert part.path.read_bytes() == BODY[: part.bytes_written]
    assert part.digester.sha256_hex() == hashlib.sha256(BODY[: part.bytes_written]).hexdigest()
    return part.bytes_written


def journal(parts: Parts, key: str = KEY) -> Path:
    return parts.folder / f"{key}.journal"


# ---- keys --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "job_id",
    [
        *(
            "../../etc/passwd",
            "a/b",
            "A" * 8,
            "x" * 65,
            "x" * 200,
            "صوت",
            " ",
            "-rf",
            "a.b",
            "a\\b",
        ),
        *("CON", "a*b", "[a]", "~" + "0" * 64),
    ],
)
def test_any_id_has_one_plain_name(job_id: str) -> None:
    key = part_key(JobId(job_id), Variant.DENOISED)
    assert "/" not in key
    assert key.isascii()
    assert len(key) <= 100
    assert key == key.lower()


@pytest.mark.parametrize("device", ["con", "prn", "aux", "nul", "com1", "lpt9"])
def test_no_name_is_one_that_windows_takes_for_a_device(device: str) -> None:
    name = part_key(JobId(device), Variant.DENOISED)
    assert name.partition(".")[0] != device
    assert part_key(JobId(f"{device}x"), Variant.DENOISED).startswith(device)


@settings(deadline=None)
@given(st.sets(st.text(min_size=1, max_size=70), min_size=2, max_size=2))
def test_two_jobs_never_share_a_name(ids: set[str]) -> None:
    assert len({part_key(JobId(one), Variant.DENOISED).lower() for one in ids}) == 2


def test_a_job_named_like_the_digest_of_another_has_a_name_of_its_own() -> None:
    odd = JobId("ODD ID")
    digest = JobId(hashlib.sha256(odd.encode()).hexdigest())
    assert part_key(odd, Variant.DENOISED) != part_key(digest, Variant.DENOISED)


def test_the_two_files_of_a_job_have_names_of_their_own() -> None:
    assert len({part_key(JobId("a"), variant) for variant in Variant}) == 2


# ---- going on ----------------------------------------------------------------------------


def test_a_part_goes_on_where_it_ended(parts: Parts) -> None:
    leave(parts, *thousand(4))
    part = parts.recover(KEY)
    assert part is not None
    assert part.partial() == Partial(4000, len(BODY), VERSION.validator)
    part.append(BODY[4000:])
    assert part.digester.mismatch((MD5,)) is None
    part.close()
    assert recovered(parts) == len(BODY)


def test_what_is_learned_of_a_part_is_in_its_journal_beside_what_that_proves(parts: Parts) -> None:
    part = parts.begin(KEY, replace(VERSION, bytes_total=None))
    part.restate(replace(VERSION, bytes_total=1))
    for piece in thousand(4):
        part.append(piece)
    part.restate(VERSION)
    part.append(BODY[4000:5000])
    part.close()
    assert parts.claim(KEY, 5000) == Partial(5000, len(BODY), VERSION.validator)
    os.truncate(parts.path(KEY), 2500)  # as a power cut that comes before the fsync
    assert recovered(parts) == 2000


def test_a_journal_that_somebody_took_away_is_begun_anew(parts: Parts) -> None:
    part = parts.begin(KEY, replace(VERSION, bytes_total=None))
    part.append(BODY[:1000])
    journal(parts).unlink()
    part.restate(VERSION)
    part.close()
    assert recovered(parts) == 1000


def test_a_claim_is_what_the_journal_says(parts: Parts) -> None:
    leave(parts, *thousand(4))
    said = Partial(4000, len(BODY), VERSION.validator)
    assert parts.claim(KEY, 4000) == said
    parts.path(KEY).write_bytes(bytes(4000))  # nothing of it is right
    assert parts.claim(KEY, 4000) == said


def test_nothing_is_claimed_of_what_is_too_much_too_little_or_in_pieces(parts: Parts) -> None:
    assert parts.claim(KEY, 1 << 30) is None
    leave(parts, *thousand(4))
    assert parts.claim(KEY, 3999) is None
    parts.begin_stretch(KEY, 6000, VERSION).append(BODY[6000:7000])
    assert parts.claim(KEY, 1 << 30) is None
    parts.forget_stretch(KEY, 6000)
    assert parts.claim(KEY, 1 << 30) is not None
    parts.path(KEY).write_bytes(BODY[:3999])
    assert parts.claim(KEY, 1 << 30) is None
    journal(parts).write_bytes(b"rubbish")
    assert parts.claim(KEY, 1 << 30) is None


def test_the_version_survives(parts: Parts) -> None:
    leave(parts, BODY)
    part = parts.recover(KEY)
    assert part is not None
    part.close()
    assert part.version == VERSION


def test_a_version_that_says_nothing_survives(parts: Parts) -> None:
    nothing = Version(Validator(), None)
    leave(parts, BODY, version=nothing)
    part = parts.recover(KEY)
    assert part is not None
    part.close()
    assert part.version == nothing


def test_beginning_anew_drops_what_was_there(parts: Parts) -> None:
    leave(parts, BODY)
    leave(parts, BODY[:1000], version=Version(Validator('"v2"'), 5000))
    part = parts.recover(KEY)
    assert part is not None
    part.close()
    assert (part.bytes_written, part.version.bytes_total) == (1000, 5000)
    assert part.path.stat().st_size == 1000


def test_digests_that_are_asked_for_late_are_of_what_is_on_disk(parts: Parts) -> None:
    part = parts.begin(KEY, Version(Validator(), None))
    part.append(BODY)
    digester = part.digest_again(["md5", "sha-512"])
    part.close()
    assert digester.mismatch((MD5,)) is None
    assert digester.sha256_hex() == hashlib.sha256(BODY).hexdigest()


def test_a_checkpoint_is_due_once_enough_has_come(parts: Parts) -> None:
    part = parts.begin(KEY, VERSION)
    megabyte = bytes(1 << 20)
    due = [part.append(megabyte) for _ in range(SYNC_BYTES >> 20)]
    assert due == [*[False] * (len(due) - 1), True]
    with ThreadPoolExecutor(1) as threads:
        part.checkpoint(threads)
        assert part.append(megabyte) is False
    part.close()


# ---- after a crash -----------------------------------------------------------------------


def damaged(data: Callable[[bytes], bytes]) -> Callable[[Parts], None]:
    def work(parts: Parts) -> None:
        path = parts.path(KEY)
        path.write_bytes(data(path.read_bytes()))

    return work


def rewritten(change: Callable[[bytes], bytes]) -> Callable[[Parts], None]:
    def work(parts: Parts) -> None:
        path = journal(parts)
        path.write_bytes(change(path.read_bytes()))

    return work


def header(**fields: object) -> Callable[[Parts], None]:
    """Change fields of the journal's first line."""

    def change(data: bytes) -> bytes:
        first, _, rest = data.partition(b"\n")
        return json.dumps(json.loads(first) | fields).encode() + b"\n" + rest

    return rewritten(change)


def lines(data: bytes) -> list[bytes]:
    return data.split(b"\n")


CRASHES = [
    pytest.param(damaged(lambda data: data), 8000, id="nothing lost"),
    pytest.param(damaged(lambda data: data[:7999]), 7000, id="one byte lost"),
    pytest.param(damaged(lambda data: data[:3500]), 3000, id="tail lost"),
    pytest.param(damaged(lambda data: data[:5500] + bytes(2500)), 5000, id="tail zeroed"),
    pytest.param(damaged(lambda data: data[:2000] + bytes(6000)), 2000, id="zeroed at a line"),
    pytest.param(damaged(lambda data: data[:999]), 0, id="all but a piece lost"),
    pytest.param(damaged(lambda _: b""), 0, id="all lost"),
    pytest.param(damaged(lambda data: bytes(len(data))), 0, id="all zeroed"),
    pytest.param(damaged(lambda data: b"X" + data[1:]), 0, id="the first byte changed"),
    pytest.param(damaged(lambda data: data[:-1] + b"X"), 7000, id="the last byte changed"),
    pytest.param(damaged(lambda data: data + BODY[8000:9500]), 8000, id="longer than proven"),
    pytest.param(damaged(lambda data: data + bytes(10**6)), 8000, id="zeros behind"),
    pytest.param(rewritten(lambda data: data[:-1]), 8000, id="journal: no last newline"),
    pytest.param(rewritten(lambda data: data[:-2]), 7000, id="journal: torn digest"),
    pytest.param(rewritten(lambda data: data[: -64 - 3]), 7000, id="journal: torn number"),
    pytest.param(rewritten(lambda data: data + b"9000"), 8000, id="journal: half a line more"),
    pytest.param(rewritten(lambda data: data + bytes(4096)), 8000, id="journal: zeros behind"),
    pytest.param(rewritten(lambda data: data + b"\xff\n" * 9), 8000, id="journal: noise behind"),
    pytest.param(
        rewritten(lambda data: data + b"9" * 5000 + b" " + b"a" * 64), 8000, id="journal: huge"
    ),
    pytest.param(
        rewritten(lambda data: data + b"9999999 " + b"a" * 64 + b"\n"), 8000, id="journal: ahead"
    ),
    pytest.param(
        rewritten(lambda data: data + lines(data)[3] + b"\n"), 8000, id="journal: goes backwards"
    ),
    pytest.param(
        rewritten(lambda data: b"\n".join([*lines(data)[:3], b"?", *lines(data)[3:]])),
        2000,
        id="journal: a bad line within",
    ),
    pytest.param(
        rewritten(lambda data: b"\n".join([lines(data)[0], *lines(data)[4:]])),
        8000,
        id="journal: lines missing",
    ),
    pytest.param(rewritten(lambda data: lines(data)[0] + b"\n"), 0, id="journal: no lines"),
    pytest.param(rewritten(lambda data: data.partition(b"\n")[2]), 0, id="journal: no header"),
    pytest.param(rewritten(lambda _: b""), 0, id="journal: empty"),
    pytest.param(rewritten(lambda data: data[:20]), 0, id="journal: torn header"),
    pytest.param(rewritten(lambda data: bytes(len(data))), 0, id="journal: zeros"),
    pytest.param(rewritten(lambda data: b"\xff\xfe" + data), 0, id="journal: noise"),
    pytest.param(rewritten(lambda _: b"[]\n"), 0, id="journal: a list"),
    pytest.param(rewritten(lambda _: b"7\n"), 0, id="journal: a number"),
    pytest.param(rewritten(lambda _: b"{}\n"), 0, id="journal: nothing in it"),
    pytest.param(rewritten(lambda _: b"[" * 100_000), 0, id="journal: deep"),
    pytest.param(header(format=2), 0, id="header: a newer format"),
    pytest.param(header(format=None), 0, id="header: no format"),
    pytest.param(header(etag=7), 0, id="header: an ETag of numbers"),
    pytest.param(header(last_modified=[]), 0, id="header: a date of lists"),
    pytest.param(header(bytes_total="many"), 0, id="header: a length of letters"),
    pytest.param(header(bytes_total=float("inf")), 0, id="header: an infinite length"),
    pytest.param(header(bytes_total=1.5), 0, id="header: half a byte"),
    pytest.param(header(digests=None), 0, id="header: no digests"),
    pytest.param(header(digests=[["sha-3", "AAAA", "x"]]), 0, id="header: an unknown digest"),
    pytest.param(header(digests=[["md5"]]), 0, id="header: half a digest"),
]


@pytest.mark.parametrize(("crash", "trusted"), CRASHES)
def test_what_a_crash_left_is_trusted_as_far_as_it_is_proven(
    parts: Parts, crash: Callable[[Parts], None], trusted: int
) -> None:
    leave(parts, *thousand(8))
    crash(parts)
    assert recovered(parts) == trusted


@pytest.mark.parametrize("gone", ["part", "journal", "both"])
def test_without_one_of_its_files_nothing_is_trusted(parts: Parts, gone: str) -> None:
    leave(parts, *thousand(8))
    if gone in {"part", "both"}:
        parts.path(KEY).unlink()
    if gone in {"journal", "both"}:
        journal(parts).unlink()
    assert recovered(parts) == 0
    leave(parts, BODY)
    assert recovered(parts) == len(BODY)


def test_a_journal_of_another_body_proves_nothing(parts: Parts) -> None:
    leave(parts, *thousand(8))
    leave(parts, BODY[1:], key="other")
    journal(parts).write_bytes(journal(parts, "other").read_bytes())
    assert recovered(parts) == 0


@settings(
    deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    sizes=st.lists(st.integers(0, 1500), max_size=8),
    data_cut=st.none() | st.integers(0, 9000),
    journal_cut=st.none() | st.integers(0, 1200),
    noise=st.binary(max_size=40),
    at=st.integers(0, 9000),
)
def test_whatever_is_trusted_is_right(
    parts: Parts,
    sizes: list[int],
    data_cut: int | None,
    journal_cut: int | None,
    noise: bytes,
    at: int,
) -> None:
    part = parts.begin(KEY, VERSION)
    for size in sizes:
        part.append(BODY[part.bytes_written : part.bytes_written + size])
    part.close()
    data = bytearray(part.path.read_bytes()[:data_cut])
    if at < len(data):
        data[at : at + len(noise)] = noise
    part.path.write_bytes(data)
    if sum(sizes):
        journal(parts).write_bytes(journal(parts).read_bytes()[:journal_cut])
    trusted = recovered(parts)
    assert trusted <= sum(sizes)
    if data_cut is None and journal_cut is None and not noise:
        assert trusted == sum(sizes)


def test_nothing_appended_hides_nothing(parts: Parts) -> None:
    leave(parts, b"", BODY[:1000], b"", BODY[1000:2000], b"")
    assert recovered(parts) == 2000


def test_recovery_may_be_cut_off_again_and_again(parts: Parts) -> None:
    leave(parts, *thousand(3))
    for count in range(3, 9):
        part = parts.recover(KEY)
        assert part is not None
        part.append(BODY[part.bytes_written : 1000 * (count + 1)])
        part.close()
        with part.path.open("ab") as file:
            file.write(b"what no journal knows of")
    assert recovered(parts) == 9000


def test_a_tail_that_is_lost_after_a_second_crash_costs_that_tail_only(parts: Parts) -> None:
    """What the first run left was never made durable as a whole; the second one died at once."""
    leave(parts, *thousand(8))
    assert recovered(parts) == 8000
    damaged(lambda data: data[:3500])(parts)
    assert recovered(parts) == 3000


def test_what_an_earlier_run_left_counts_as_not_durable(parts: Parts) -> None:
    leave(parts, *thousand(8))
    part = parts.recover(KEY)
    assert part is not None
    unsynced = [part.unsynced_bytes]
    part.sync()
    unsynced.append(part.unsynced_bytes)
    part.close()
    assert unsynced == [8000, 0]


@pytest.mark.parametrize("kind", ["link", "dangling link", "folder"])
def test_what_stands_in_the_way_of_a_part_is_not_written_through(
    parts: Parts, tmp_path: Path, kind: str
) -> None:
    foreign = tmp_path / "foreign"
    if kind == "folder":
        parts.path(KEY).mkdir()
    else:
        if kind == "link":
            foreign.write_bytes(BODY)
        parts.path(KEY).symlink_to(foreign)
    assert parts.recover(KEY) is None
    with pytest.raises(FetcherError):
        parts.begin(KEY, VERSION)
    assert not foreign.exists() or foreign.read_bytes() == BODY


# ---- a disk that fills -------------------------------------------------------------------

FILL = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_parts import BODY, KEY, VERSION
from fetcher.errors import StorageError
from fetcher.files.direct import Detour
from fetcher.files.parts import Parts
resource.setrlimit(resource.RLIMIT_FSIZE, (5500, 5500))
part = Parts(Path(sys.argv[1])).begin(KEY, VERSION)
try:
    for at in range(0, len(BODY), 1000):
        part.append(BODY[at : at + 1000])
except StorageError as error:
    print(part.bytes_written, error.exit_code)
"""


def test_a_disk_that_fills_keeps_what_was_written_before(parts: Parts, tmp_path: Path) -> None:
    tests = os.path.dirname(__file__)  # noqa: PTH120 - for the other process' sys.path
    ended = subprocess.run(
        [sys.executable, "-c", FILL, str(tmp_path), tests], capture_output=True, check=True
    )
    assert ended.stdout.split() == [b"5500", b"6"]
    assert recovered(parts) == 5500


def test_a_folder_that_is_gone_is_the_storages_trouble(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        Parts(tmp_path / "gone").begin(KEY, VERSION)
    assert Parts(tmp_path / "gone").recover(KEY) is None
    assert Parts(tmp_path / "gone").size(KEY) == 0


# ---- the end of a part -------------------------------------------------------------------


def test_a_finished_part_is_whole_and_bears_its_time(parts: Parts) -> None:
    part = parts.begin(KEY, VERSION)
    part.append(BODY)
    part.finish(1_700_000_000_123_456_000)
    assert part.path.read_bytes() == BODY
    assert part.path.stat().st_mtime_ns == 1_700_000_000_123_456_000
    part.forget()
    assert os.listdir(parts.folder) == [part.path.name]  # noqa: PTH208 - names are compared
    part.forget()


def test_closing_twice_is_harmless(parts: Parts) -> None:
    part = parts.begin(KEY, VERSION)
    part.close()
    part.close()


@pytest.mark.parametrize("times", [1, 2])
def test_discarding_leaves_nothing_of_that_file_and_all_of_the_others(
    parts: Parts, times: int
) -> None:
    leave(parts, BODY)
    leave(parts, BODY, key="other")
    parts.begin_stretch(KEY, 4000, VERSION).close()
    for _ in range(times):
        parts.discard(KEY)
    assert {path.name for path in parts.folder.iterdir()} == {"other.part", "other.journal"}


def test_purging_keeps_what_is_named_and_whatever_is_no_file(parts: Parts, tmp_path: Path) -> None:
    leave(parts, BODY)
    leave(parts, BODY, key="other")
    (tmp_path / "stray").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    parts.purge(keep=["other"])
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"other.part", "other.journal", "folder"}
    parts.purge()
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_purging_never_follows_a_link_in_the_place_of_the_folder(tmp_path: Path) -> None:
    victim, link = tmp_path / "victim", tmp_path / "partial"
    victim.mkdir()
    (victim / "precious.txt").write_text("mine")
    link.symlink_to(victim)
    with pytest.raises(StorageError):
        Parts(link).purge()
    assert (victim / "precious.txt").read_text() == "mine"


def test_a_journal_is_not_written_through_a_link(parts: Parts, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    journal(parts).with_name(f"{KEY}.journal.new").symlink_to(victim)
    leave(parts, *thousand(3))
    assert victim.read_bytes() == b"mine"
    assert recovered(parts) == 3000


# ---- stretches ---------------------------------------------------------------------------


def put_stretch(parts: Parts, start: int, size: int, key: str = KEY) -> None:
    part = parts.begin_stretch(key, start, VERSION)
    part.append(BODY[start : start + size])
    part.close()


def found_stretches(parts: Parts, key: str = KEY) -> list[tuple[int, int, Version]]:
    found = parts.recover_stretches(key)
    for _, part in found:
        part.close()
    return [(start, part.bytes_written, part.version) for start, part in found]


def test_stretches_are_recovered_each_as_far_as_it_is_proven(parts: Parts) -> None:
    leave(parts, *thousand(2))
    put_stretch(parts, 4000, 1500)
    put_stretch(parts, 8000, 500)
    with parts.path(KEY).open("r+b") as data:
        data.seek(8000)
        data.write(bytes(500))
    for name in ("odd", "-1", "9" * 30):
        (parts.folder / f"{KEY}@{name}.journal").write_bytes(journal(parts).read_bytes())
    expected = Version(VERSION.validator, len(BODY), ())
    assert found_stretches(parts) == [(4000, 1500, expected)]
    part = parts.recover(KEY)
    assert part is not None
    part.close()
    assert part.bytes_written == 2000
    assert found_stretches(parts) == [(4000, 1500, expected)]  # the part did not cut them off


def test_a_stretch_whose_tail_is_lost_after_a_second_crash_keeps_the_rest(parts: Parts) -> None:
    part = parts.begin_stretch(KEY, 4000, VERSION)
    for at in range(4000, 8000, 1000):
        part.append(BODY[at : at + 1000])
    part.close()
    assert [size for _, size, _ in found_stretches(parts)] == [4000]
    damaged(lambda data: data[:6500])(parts)
    assert [size for _, size, _ in found_stretches(parts)] == [2000]


def test_stretches_are_counted_in_once_the_part_has_reached_them(parts: Parts) -> None:
    part = parts.begin(KEY, VERSION)
    part.append(BODY[:4000])
    put_stretch(parts, 4000, 1500)
    assert part.count_in(5500, 1000)
    assert not part.count_in(5500, 1000)
    assert not part.count_in(5500, 1000)
    part.sync()
    parts.forget_stretch(KEY, 4000)
    part.append(BODY[5500:])
    assert part.digester.mismatch((MD5,)) is None
    part.close()
    assert recovered(parts) == len(BODY)
    assert found_stretches(parts) == []


def test_holes_between_stretches_are_no_bytes_that_are_here(parts: Parts) -> None:
    parts.begin(KEY, VERSION).close()
    part = parts.begin_stretch(KEY, 100 << 20, VERSION)
    part.append(BODY)
    part.sync()
    part.close()
    assert len(BODY) <= parts.size(KEY) < 1 << 20


def test_stretches_of_a_job_are_not_those_of_another_with_a_similar_name(parts: Parts) -> None:
    put_stretch(parts, 10, 1, key="ab.denoised")
    assert parts.recover_stretches("b.denoised") == []
    assert parts.recover_stretches("[ab].denoised") == []
    parts.discard("b.denoised")
    assert len(found_stretches(parts, "ab.denoised")) == 1


def test_a_part_is_not_followed_through_a_link_that_appears_meanwhile(
    parts: Parts, tmp_path: Path
) -> None:
    leave(parts, *thousand(8))
    moved = tmp_path / "moved"
    parts.path(KEY).rename(moved)
    parts.path(KEY).symlink_to(moved)
    with pytest.raises(PlaceError):
        Part(Where(parts.path(KEY), journal(parts)), VERSION, Proven(0, Digester()), Detour())
    assert moved.stat().st_size == 8000
