"""Announced digests are found, attributed to the right bytes, and held against what came."""

from __future__ import annotations

import hashlib
from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fetcher.core.proof import Announced, Digest, Digester, algorithms, announced, refuse, settle
from fetcher.models import Head

BODY = b"123456789"
PART = BODY[4:]
CRC32C = bytes.fromhex("e3069283")  # of BODY: the check value of RFC 3720 appendix B.4's CRC
SHA256 = hashlib.sha256(BODY).digest()
SHA512 = hashlib.sha512(BODY).digest()
MD5 = hashlib.md5(BODY).digest()
PART_MD5 = hashlib.md5(PART).digest()
PART_SHA256 = hashlib.sha256(PART).digest()


def b64(value: bytes) -> str:
    return b64encode(value).decode()


def head(**fields: str) -> Head:
    return Head(200, {name.replace("_", "-"): text for name, text in fields.items()})


def values(digests: tuple[Digest, ...]) -> list[tuple[str, bytes]]:
    return [(digest.algorithm, digest.value) for digest in digests]


@pytest.mark.parametrize(
    ("field", "text", "expected"),
    [
        ("content-md5", b64(MD5), [("md5", MD5)]),
        ("repr-digest", f"sha-256=:{b64(SHA256)}:", [("sha-256", SHA256)]),
        ("repr-digest", f" sha-512 = :{b64(SHA512)}:;q=1", [("sha-512", SHA512)]),
        (
            "repr-digest",
            f"sha-256=:{b64(SHA256)}:, md5=:{b64(MD5)}:",
            [("sha-256", SHA256), ("md5", MD5)],
        ),
        ("repr-digest", f"unixsum=:AAA=:, md5=:{b64(MD5)}:", [("md5", MD5)]),
        ("content-digest", f"sha-256=:{b64(SHA256)}:", [("sha-256", SHA256)]),
        (
            "x-goog-hash",
            f"crc32c={b64(CRC32C)},md5={b64(MD5)}",
            [("crc32c", CRC32C), ("md5", MD5)],
        ),
        (
            "x-goog-hash",
            f"crc32c={b64(CRC32C)}, md5={b64(MD5)}",
            [("crc32c", CRC32C), ("md5", MD5)],
        ),
        (
            "digest",
            f"SHA-256={b64(SHA256)},MD5={b64(MD5)}",
            [("sha-256", SHA256), ("md5", MD5)],
        ),
    ],
)
def test_digests_of_a_whole_file_are_read(
    field: str, text: str, expected: list[tuple[str, bytes]]
) -> None:
    said = announced(Head(200, {field: text}), whole=True)
    assert (values(said.whole), said.part, said.either) == (expected, (), ())


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("content-md5", ""),
        ("content-md5", "not base64!"),
        ("content-md5", MD5.hex()),
        ("content-md5", f"{b64(MD5)}, {b64(MD5)}"),
        ("repr-digest", b64(SHA256)),
        ("repr-digest", f"sha-256={b64(SHA256)}"),
        ("repr-digest", f"sha-256=:{b64(SHA256[:-1])}:"),
        ("repr-digest", f"sha-256=:{b64(SHA256).rstrip('=')}:"),
        ("repr-digest", "sha-256=::"),
        ("repr-digest", "sha-256=:سلام:"),
        ("repr-digest", f"sha-1=:{b64(bytes(20))}:"),
        ("repr-digest", ",,=,:;"),
        ("x-goog-hash", "crc32c=AAAA"),
        ("x-goog-hash", f"sha1={b64(bytes(20))}"),
    ],
)
def test_unknown_and_malformed_digests_are_ignored(field: str, text: str) -> None:
    assert announced(Head(200, {field: text}), whole=True) == Announced()


def test_a_part_carries_digests_of_itself_and_of_the_file() -> None:
    said = announced(
        head(
            repr_digest=f"sha-256=:{b64(SHA256)}:",
            content_digest=f"sha-256=:{b64(PART_SHA256)}:",
            content_md5=b64(PART_MD5),
            x_goog_hash=f"crc32c={b64(CRC32C)}",
        ),
        whole=False,
    )
    assert values(said.whole) == [("sha-256", SHA256), ("crc32c", CRC32C)]
    assert values(said.part) == [("sha-256", PART_SHA256)]
    assert values(said.either) == [("md5", PART_MD5)]


@pytest.mark.parametrize("coding", ["gzip", "br", "gzip, identity", "unheard-of"])
def test_an_encoded_body_has_no_digest_that_could_be_checked(coding: str) -> None:
    said = announced(
        head(
            content_encoding=coding,
            repr_digest=f"sha-256=:{b64(SHA256)}:",
            content_digest=f"sha-256=:{b64(SHA256)}:",
            content_md5=b64(MD5),
            x_goog_hash=f"md5={b64(MD5)}",
        ),
        whole=True,
    )
    assert said == Announced()


@pytest.mark.parametrize(("stored", "expected"), [("gzip", 0), ("identity", 1), ("IDENTITY", 1)])
def test_googles_hash_of_a_compressed_object_is_not_the_bodys(stored: str, expected: int) -> None:
    fields = {"x_goog_hash": f"md5={b64(MD5)}", "x_goog_stored_content_encoding": stored}
    assert len(announced(head(**fields), whole=True).whole) == expected


@pytest.mark.parametrize(
    ("algorithm", "value"),
    [("sha-256", SHA256), ("sha-512", SHA512), ("md5", MD5), ("crc32c", CRC32C)],
)
def test_every_algorithm_tells_right_from_wrong(algorithm: str, value: bytes) -> None:
    digester = Digester([algorithm])
    digester.update(BODY[:3])
    digester.update(memoryview(BODY)[3:5])
    digester.update(bytearray(BODY[5:]))
    wrong = bytes([value[0] ^ 1]) + value[1:]
    assert digester.mismatch([Digest(algorithm, value, "x")]) is None
    assert digester.mismatch([Digest(algorithm, wrong, "x")]) is not None


def test_one_wrong_digest_among_right_ones_is_a_mismatch() -> None:
    digester = Digester(["md5"])
    digester.update(BODY)
    digests = [Digest("sha-256", SHA256, "a"), Digest("md5", PART_MD5, "b")]
    assert digester.mismatch(digests) == "the md5 that b announced does not match"


def test_sha256_is_always_there_and_can_be_read_on_the_way() -> None:
    digester = Digester()
    digester.update(BODY[:4])
    assert digester.sha256_hex() == hashlib.sha256(BODY[:4]).hexdigest()
    digester.update(PART)
    assert digester.sha256_hex() == SHA256.hex()


def test_digests_that_are_not_computed_are_named_and_passed_over() -> None:
    digester = Digester()
    digests = (Digest("md5", MD5, "x"), Digest("sha-256", hashlib.sha256().digest(), "y"))
    assert digester.lacks(digests) == {"md5"}
    assert digester.mismatch(digests) is None


def test_an_algorithm_that_is_not_known_cannot_be_asked_for() -> None:
    with pytest.raises(ValueError, match="sha-1"):
        Digester(["sha-1"])


def part_of(said: Announced) -> Digester:
    digester = Digester(algorithms(said.part + said.either))
    digester.update(PART)
    return digester


def test_a_part_with_its_own_content_digest_is_proven() -> None:
    said = announced(head(content_digest=f"sha-256=:{b64(PART_SHA256)}:"), whole=False)
    assert settle(said, part_of(said)) == (None, ())


def test_a_part_with_a_wrong_content_digest_is_damaged() -> None:
    said = announced(head(content_digest=f"sha-256=:{b64(SHA256)}:"), whole=False)
    reason, _ = settle(said, part_of(said))
    assert reason is not None


def test_content_md5_of_a_part_is_settled_by_the_part() -> None:
    said = announced(head(content_md5=b64(PART_MD5)), whole=False)
    assert settle(said, part_of(said)) == (None, ())


def test_content_md5_that_is_not_the_parts_must_be_the_files() -> None:
    said = announced(head(content_md5=b64(MD5)), whole=False)
    reason, left = settle(said, part_of(said))
    assert (reason, values(left)) == (None, [("md5", MD5)])


def test_digests_of_the_file_are_left_for_the_file() -> None:
    said = announced(head(repr_digest=f"md5=:{b64(MD5)}:"), whole=False)
    reason, left = settle(said, part_of(said))
    assert (reason, values(left)) == (None, [("md5", MD5)])


@given(st.text(), st.booleans())
def test_no_text_makes_reading_digests_fail(text: str, whole: bool) -> None:
    names = ("repr-digest", "content-digest", "content-md5", "x-goog-hash", "digest")
    said = announced(Head(200, dict.fromkeys(names, text)), whole=whole)
    Digester(algorithms(said.whole + said.part + said.either)).update(b"")


@given(st.lists(st.binary(max_size=50)))
def test_digests_do_not_depend_on_how_the_bytes_are_cut(chunks: list[bytes]) -> None:
    digester, whole = Digester(["crc32c", "sha-512"]), b"".join(chunks)
    at_once = Digester(["crc32c", "sha-512"])
    for piece in chunks:
        digester.update(piece)
    at_once.update(whole)
    assert digester.sha256_hex() == at_once.sha256_hex()
    assert digester.mismatch([Digest("sha-512", hashlib.sha512(whole).digest(), "x")]) is None


# ---- the joined judge --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "content_type"),
    [
        pytest.param(b"", "audio/wav", id="empty"),
        pytest.param(b"<html>", "audio/wav", id="page"),
        pytest.param(b"RIFF\x64\0\0\0WAVE" + bytes(50), "audio/wav", id="cut WAV"),
    ],
)
def test_what_is_no_whole_audio_is_refused(data: bytes, content_type: str) -> None:
    assert refuse(data, content_type=content_type, length_bytes=len(data)) is not None


def test_whole_audio_is_not_refused() -> None:
    data = b"RIFF\x2a\0\0\0WAVE" + bytes(38)
    assert refuse(data, content_type="text/plain", length_bytes=len(data)) is None
