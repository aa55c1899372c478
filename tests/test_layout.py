"""Where files go: templates that are refused, and names that are valid whatever comes."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from unicodedata import is_normalized
from uuid import UUID

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pathvalidate import validate_filename

from fetcher.core.layout import DEFAULT_TEMPLATE, PLACEHOLDERS, Template, companion, path_key
from fetcher.core.names import component
from fetcher.errors import UsageError
from fetcher.models import Job, JobId, Status, Variant

UUID_ID = "0f8fad5b-d9cb-469f-a165-70867728950e"
JOB = Job(
    JobId(UUID_ID),
    Status.SUCCESS,
    file_name="talk.mp4",
    created_at=datetime(2024, 5, 1, 10, 20, 30, tzinfo=UTC),
    updated_at=datetime(2024, 12, 31, 23, 59, 59, tzinfo=UTC),
    source_type="video",
    audio_format="mp4",
    user_id="u-1",
)
FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
HEBREW_AND_ARABIC = "شلوم שלום"
NAUGHTY = [
    line
    for line in (Path(__file__).parent / "data" / "naughty_strings.txt")
    .read_text(encoding="utf-8")
    .split("\n")
    if line and not line.startswith("#\t") and line != "#"
]
# Text that is likely to break a rule, with surrogates, beside any text at all.
NASTY = st.lists(
    st.sampled_from(
        [
            *("/", "\\", ".", "..", " ", "~", "-", ":", "*", "\x00", "\x1b[2J", "\n", "\x9f"),
            *("CON", "com1", "LPT¹", "nul", ".fetcher", "fetche~1", ".wav", ".mp3", "untitled"),
            *("\u202e", "\u2066", "\u200f", "\u200c", "\u200d", "\ufeff", "\u2028", "\u00a0"),
            *("\ud800", "\uffff", "e", "\u0301", "\u0323", "\u1100", "\u1161", "\u0958", "ẞ", "İ"),
            *(
                "صوت",
                "日本",
                FAMILY,
                "z" * 90,
                "ع" * 90,
                "a\u0301" * 60,
                "\u0345",
                "a" + "\u0300" * 99,
            ),
        ]
    ),
    max_size=12,
).map("".join)
ANY_TEXT = st.text(st.characters()) | NASTY
ANY_ID = (
    st.uuids().map(str) | st.text(st.characters(), min_size=1, max_size=200) | NASTY.filter(bool)
)
JOBS = st.builds(
    Job,
    id=ANY_ID.map(lambda text: JobId(text[:200])),
    status=st.just(Status.SUCCESS),
    file_name=ANY_TEXT,
    created_at=st.none() | st.datetimes(timezones=st.just(UTC)),
    source_type=ANY_TEXT,
    audio_format=ANY_TEXT,
    user_id=ANY_TEXT,
)
TEMPLATES = st.sampled_from(
    [
        DEFAULT_TEMPLATE,
        "{id}{ext}",
        "{user_id}/{file_name}/{id}",
        "{source_type}{audio_format}-{stem:.40}/{created:%Y/%B}/{file_name}.{id}{ext}",
        ".{stem}/{short_id}/{id}-{short_id} {file_name}{ext}",
        "{id}{id}{short_id}{stem}",
        "CON/{id}/{stem}",
        "{id}/{ext}",
    ]
).map(Template.parse)
patient = settings(deadline=None)  # the first long name imports wcwidth


def named(file_name: str, audio_format: str = "", job_id: str = UUID_ID) -> Job:
    return JOB._replace(id=JobId(job_id), file_name=file_name, audio_format=audio_format)


def render(template: str, job: Job, ext: str = ".wav", *, whole_id: bool = False) -> str:
    return Template.parse(template).render(job, ext, whole_id=whole_id)


def check_path(path: str, *, last_limit_bytes: int = 240) -> None:
    """Assert that every component is valid on Linux, macOS and Windows, and bounded."""
    *folders, file = path.split("/")
    for name in (*folders, file):
        validate_filename(name, platform="universal", max_len=255)
        assert is_normalized("NFC", name)
        assert len(name.encode()) <= 255
        assert not set(name) & set('<>:"/\\|?*\u200e\u200f\u061c\u202e\u2066\ufeff')
        assert path_key(name) != ".fetcher"
    assert len(file.encode()) <= last_limit_bytes


# ---- templates ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{id", "{ without its partner at character 1"),
        ("a{id}}", "} without its partner at character 6"),
        ("{id}{", "{ without its partner at character 5"),
        ("{idd}{ext}", "{idd}: did you mean {id}?"),
        ("{ID}", "did you mean {id}?"),
        ("{ id }", "did you mean {id}?"),
        ("{short-id}", "did you mean {short_id}?"),
        ("{filename}.{id}", "did you mean {file_name}?"),
        ("{id.__class__}", "unknown placeholder {id.__class__}"),
        ("{id[0]}", "unknown placeholder {id[0]}"),
        ("{id!r}", "unknown placeholder {id!r}"),
        ("{0}{id}", "there are {file_name} {stem}"),
        ("{}{id}", "unknown placeholder {}"),
        ("{id:.4}", "{id} takes none"),
        ("{ext:>8}{id}", "{ext} takes none"),
        ("{stem:>40}{id}", "{stem:.40}"),
        ("{stem:.0}{id}", "{stem:.40}"),
        ("{created:yyyy}{id}", "%Y-%m-%d"),
        ("{created:%Q}{id}", "date format %Q"),
        ("{created:%-d}{id}", "date format %-"),
        ("{created:%Y%}{id}", "date format %"),
    ],
)
def test_wrong_word_is_named_with_the_right_one(template: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        Template.parse(template)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "template",
    ["{stem}{ext}", "{file_name}", "%(title)s.%(ext)s", "{{id}}", "{created:%Y}/{user_id}"],
)
def test_template_without_an_id_is_refused(template: str) -> None:
    with pytest.raises(UsageError, match=r"\{short_id\} or \{id\}"):
        Template.parse(template)


@pytest.mark.parametrize(
    "template",
    [
        *("", "/{id}", "/tmp/{id}", "~/{id}", "~root/{id}", "C:/{id}", "c:{id}", "\\{id}"),
        *("a\\{id}", "../{id}", "a/../{id}", "{id}/..", "./{id}", "{id}/.", "a//{id}", "{id}/"),
        *("{id}/ ", " /{id}", "{id}/ .", ".../{id}", "{created:%Y//%m}/{id}", "{id}/{created:%Y/}"),
        *(".fetcher/{id}", "{id}/.fetcher", ".FETCHER/{id}", ".fetcher. /{id}", "fetche~1/{id}"),
        *(".fet\u200bcher/{id}", ".fet\u200ccher/{id}", "x" * 101 + "{id}", "ع" * 51 + "{id}"),
    ],
)
def test_template_that_leads_astray_is_refused(template: str) -> None:
    with pytest.raises(UsageError, match="output template"):
        Template.parse(template)


def test_message_about_a_template_holds_no_control_character() -> None:
    with pytest.raises(UsageError) as caught:
        Template.parse("\x1b[2J\u202e{\x07}")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (DEFAULT_TEMPLATE, "talk/talk.0f8fad5b.m4a"),
        ("{id}{ext}", f"{UUID_ID}.m4a"),
        ("{file_name}.{id}", f"talk.mp4.{UUID_ID}"),
        ("{source_type}/{audio_format}/{user_id}/{id}", f"video/mp4/u-1/{UUID_ID}"),
        ("{created:%Y-%m-%d}/{short_id}{ext}", "2024-05-01/0f8fad5b.m4a"),
        ("{created:%Y/%m}/{short_id}{ext}", "2024/05/0f8fad5b.m4a"),
        ("{updated:%d.%m.%y %H:%M}/{short_id}", "31.12.24 23_59/0f8fad5b"),
        ("{updated:%D 100%%}/{short_id}", "12_31_24 100%/0f8fad5b"),
        ("{created}.{short_id}", "2024-05-01T10-20-30Z.0f8fad5b"),
        ("{stem:.2}{ext} {short_id}", "ta.m4a 0f8fad5b"),
        ("{{{short_id}}} [{stem}]{ext}", "{0f8fad5b} [talk].m4a"),
        (".hidden/{short_id}", ".hidden/0f8fad5b"),
        ("ab: c/{short_id}?\n", "ab_ c/0f8fad5b_"),
        ("e\u0301/{short_id}", "\u00e9/0f8fad5b"),
        ("NUL/{short_id}", "_NUL/0f8fad5b"),
        ("{stem:.1}\u0327/{short_id}", "\u0163/0f8fad5b"),
    ],
)
def test_placeholders_are_filled_in(template: str, expected: str) -> None:
    assert render(template, JOB, ".m4a") == expected


def test_every_placeholder_may_be_used() -> None:
    template = "{id}/" + "-".join(f"{{{name}}}" for name in PLACEHOLDERS)
    check_path(render(template, JOB))


def test_missing_facts_have_words() -> None:
    bare = Job(JobId(UUID_ID), Status.SUCCESS)
    template = (
        "{created:%Y}/{updated}/{source_type}/{audio_format}/{user_id}/{file_name}.{short_id}"
    )
    expected = "undated/undated/unknown/unknown/unknown/untitled.0f8fad5b"
    assert render(template, bare, "") == expected


# ---- stems -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file_name", "audio_format", "stem"),
    [
        ("audio.wav", "wav", "audio"),
        ("Audio.WAV", "wav", "Audio"),
        ("talk.mp4", "", "talk"),
        ("a.tar.gz", "", "a.tar"),
        ("Mr. Smith 1.5", "", "Mr. Smith 1.5"),
        ("Mr. Smith 1.5.wav", "wav", "Mr. Smith 1.5"),
        ("note.123", "123", "note"),
        ("note.verylongone", "", "note.verylongone"),
        ("note.صوت", "", "note.صوت"),
        ("note.صوت", "صوت", "note"),
        ("no extension", "wav", "no extension"),
        ("ends.", "", "ends"),
        ("ends. . .wav", "", "ends"),
        ("talk .wav \n", "", "talk"),
        (".wav", "", "untitled"),
        (".WAV", "wav", "untitled"),
        (".notes", "", "_notes"),
        ("", "", "untitled"),
        (" \t ", "", "untitled"),
        ("...", "", "untitled"),
        ("\u200c\u200d", "", "untitled"),
        ("\u202e\u200b", "", "untitled"),
        ("a/b.wav", "", "a_b"),
        ("..\\..\\a.wav", "", "__.._a"),
        ("../../etc/passwd", "", "__.._etc_passwd"),
        ("..", "", "untitled"),
        ("-rf *", "", "_rf _"),
        ("~root", "", "_root"),
        ("two\nlines\tand\u2028more", "", "two lines and more"),
        ("a\x00b\x1b[31m", "", "a_b_[31m"),
        ('<>:"/\\|?*', "", "_________"),
        ("\u202egpj.exe\u202c", "", "gpj"),
        ("lone\ud800", "", "lone_"),
        ("CON", "", "_CON"),
        ("con.txt", "", "_con"),
        ("nul.tar.gz", "", "_nul.tar"),
        ("COM¹.wav", "", "_COM¹"),
        ("lpt9 .x y", "", "_lpt9 .x y"),
        ("CONTACT", "", "CONTACT"),
        (".fetcher", "", "_fetcher"),
        ("FETCHE~1", "", "_FETCHE~1"),
        ("e\u0301", "", "\u00e9"),
        ("\u0301x", "", "_\u0301x"),
        ("مقابلة مع الدكتور.mp3", "mp3", "مقابلة مع الدكتور"),
        (f"{HEBREW_AND_ARABIC}.mp3", "mp3", HEBREW_AND_ARABIC),
        ("می\u200cخواهم.wav", "wav", "می\u200cخواهم"),
        (f"{FAMILY}.wav", "wav", FAMILY),
    ],
)
def test_folder_is_named_after_the_file(file_name: str, audio_format: str, stem: str) -> None:
    path = render("{stem}/{short_id}", named(file_name, audio_format))
    assert path == f"{stem}/0f8fad5b"


def test_value_never_makes_a_folder_of_its_own() -> None:
    job = JOB._replace(file_name="a/b/../c", user_id="/etc/passwd", source_type="../..")
    path = render("{file_name}/{user_id}/{source_type}/{id}", job)
    assert path == f"a_b_.._c/_etc_passwd/__/{UUID_ID}"


# ---- length ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("letter", "folder_letters", "file_letters"),
    [
        pytest.param("a", 255, 240 - 13, id="one-byte"),
        pytest.param("ع", 127, (240 - 13) // 2, id="two-bytes"),
        pytest.param("日", 85, (240 - 13) // 3, id="three-bytes"),
        pytest.param(FAMILY, 255 // 18, (240 - 13) // 18, id="clusters"),
    ],
)
def test_long_name_loses_text_and_keeps_id_and_extension(
    letter: str, folder_letters: int, file_letters: int
) -> None:
    path = render(DEFAULT_TEMPLATE, named(letter * 10_000 + ".wav"))
    assert path == f"{letter * folder_letters}/{letter * file_letters}.0f8fad5b.wav"


def test_long_file_name_keeps_its_own_extension() -> None:
    path = render("{id}/{file_name}", named("a" * 999 + ".mp3"))
    assert path == f"{UUID_ID}/{'a' * 236}.mp3"


def test_name_that_joining_makes_longer_still_fits() -> None:
    path = render("{stem}.{short_id}{ext}", named("CON." + "a" * 999))
    assert path == f"_CON.{'a' * (240 - 5 - 13)}.0f8fad5b.wav"


def test_short_texts_stay_whole_beside_a_long_one() -> None:
    path = render("{user_id}-{stem}.{id}{ext}", named("a" * 999))
    assert path == f"u-1-{'a' * (240 - 4 - 41)}.{UUID_ID}.wav"


def test_letter_under_endless_marks_is_cut_within() -> None:
    path = render(DEFAULT_TEMPLATE, named("o" + "\u0323\u0330" * 5000))
    check_path(path)
    assert path.endswith(".0f8fad5b.wav")


def test_what_lies_deep_in_an_endless_name_makes_no_difference() -> None:
    """Putting 60,000 marks into their order took seconds for each file."""
    marks = "\u0300\u0316" * 30_000
    names = [f"a{marks}{middle}{marks}.wav" for middle in ("", "b", "." * 99)]
    assert len({render(DEFAULT_TEMPLATE, named(name)) for name in names}) == 1


def test_ids_that_cannot_all_fit_still_tell_records_apart() -> None:
    template = "{stem}{id}{id}"
    paths = {render(template, named("CON.x y", job_id="a" * 199 + last)) for last in "xyz"}
    assert len(paths) == 3
    for path in paths:
        check_path(path)


@patient
@given(ANY_TEXT)
def test_companions_of_every_file_fit(file_name: str) -> None:
    template = Template.parse(DEFAULT_TEMPLATE)
    path = template.render(named(file_name * 9), ".wav", variant=Variant.ORIGINAL)
    check_path(companion(path, ".json"), last_limit_bytes=255)


# ---- ids and variants --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("job_id", "short", "whole"),
    [
        (UUID_ID, "0f8fad5b", UUID_ID),
        ("job-000001", "job-0000", "job-000001"),
        ("JOB-000001", "JOB-0000", "JOB-000001~6db0600f3de2fafd"),
        ("a" * 200, "a" * 8, "a" * 200),
        ("abcdefgh/../x", "abcdefgh", "abcdefgh_.._x~f94652cab479b38e"),
        ("a.b", "a.b~2e7336dc8eba87ef", "a.b~2e7336dc8eba87ef"),
    ],
)
def test_id_that_is_no_name_ends_in_a_digest(job_id: str, short: str, whole: str) -> None:
    job = named("talk", job_id=job_id)
    assert render("x {short_id}", job) == f"x {short}"
    assert render("x {short_id}", job, whole_id=True) == f"x {whole}"
    assert render("x {id}", job) == f"x {whole}"


@pytest.mark.parametrize("job_id", ["7", "abcdefgh"])
def test_an_id_that_is_no_longer_than_a_short_one_can_be_told_from_one(job_id: str) -> None:
    job = named("talk", job_id=job_id)
    assert render("{id}", job) == render("{short_id}", job) == job_id
    assert render("{short_id}", job, whole_id=True).startswith(f"{job_id}~")


@pytest.mark.parametrize("template", ["{id}{ext}", "{id}/x{ext}", DEFAULT_TEMPLATE])
def test_ids_that_differ_in_case_alone_have_paths_that_differ_in_more(template: str) -> None:
    paths = [
        render(template, named("talk", job_id=job_id), whole_id=True)
        for job_id in ("abc-def", "ABC-DEF", "Abc-def")
    ]
    assert len({path_key(path) for path in paths}) == 3


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (DEFAULT_TEMPLATE, "talk/talk.0f8fad5b.original.mp4"),
        ("{stem}{ext}/{short_id}", "talk.mp4/0f8fad5b.original"),
        ("{short_id}.WAV", "0f8fad5b.original.WAV"),
        ("{short_id}/{file_name}", "0f8fad5b/talk.original.mp4"),
        ("{short_id}{ext} x", "0f8fad5b.mp4 x.original"),
    ],
)
def test_original_stands_beside_the_result(template: str, expected: str) -> None:
    path = Template.parse(template).render(JOB, ".mp4", variant=Variant.ORIGINAL)
    assert path == expected


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (DEFAULT_TEMPLATE, "talk/talk.0f8fad5b.original"),
        ("{short_id}.wav", "0f8fad5b.original.wav"),
    ],
)
def test_original_without_an_extension_is_marked_all_the_same(template: str, expected: str) -> None:
    assert Template.parse(template).render(JOB, "", variant=Variant.ORIGINAL) == expected


def test_extension_is_cleaned_too() -> None:
    assert render("{short_id}{ext}", JOB, "./../x\x00") == "0f8fad5b._.._x_"


def test_companion_goes_behind_the_whole_name() -> None:
    assert companion("a/b.wav", ".json") == "a/b.wav.json"


# ---- keys --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("A/b.WAV", "a/B.wav"),
        ("é", "e\u0301"),
        ("É", "e\u0301"),
        ("STRASSE", "straße"),
        ("Σας", "σασ"),
        ("K", "\u212a"),
        ("می\u200cخواهم", "میخواهم"),
        ("a\ufeff", "a"),
        ("\u1e9b\u0323", "\u1e69"),
    ],
)
def test_paths_that_some_file_system_confuses_share_a_key(one: str, other: str) -> None:
    assert path_key(one) == path_key(other)


@pytest.mark.parametrize(("one", "other"), [("a", "b"), ("a/b", "a_b"), ("ي", "ى"), ("e", "é")])
def test_paths_that_differ_have_keys_that_differ(one: str, other: str) -> None:
    assert path_key(one) != path_key(other)


@given(ANY_TEXT)
def test_key_of_a_key_is_itself(path: str) -> None:
    assert path_key(path_key(path)) == path_key(path)


# ---- whatever comes ----------------------------------------------------------------------


def test_naughty_strings_are_files_that_can_be_made(tmp_path: Path) -> None:
    template = Template.parse(DEFAULT_TEMPLATE)
    keys = set()
    for number, line in enumerate(NAUGHTY):
        job = named(line, job_id=str(UUID(int=(number << 96) + 1)))
        path = template.render(job, ".wav")
        check_path(path)
        keys.add(path_key(path))
        place = tmp_path / path
        assert place.resolve().is_relative_to(tmp_path.resolve())
        place.parent.mkdir(exist_ok=True)
        place.touch(exist_ok=False)
    assert len(keys) == len(NAUGHTY) > 400


@patient
@given(TEMPLATES, JOBS, st.sampled_from(["", ".wav", ".audio"]), st.booleans())
def test_any_record_gets_valid_names(
    template: Template, job: Job, ext: str, whole_id: bool
) -> None:
    path = template.render(job, ext, whole_id=whole_id)
    check_path(path)
    assert path.count("/") == len(template.components) - 1
    assert template.render(job, ext, whole_id=whole_id) == path
    original = template.render(job, ext, whole_id=whole_id, variant=Variant.ORIGINAL)
    check_path(original, last_limit_bytes=249)
    assert path_key(original) != path_key(path)


@patient
@given(JOBS, JOBS)
def test_records_with_different_ids_never_meet(one: Job, other: Job) -> None:
    assume(one.id.lower() != other.id.lower())
    template = Template.parse("{stem}.{id}{ext}")
    assert path_key(template.render(one, ".wav")) != path_key(template.render(other, ".wav"))


def test_an_extension_alone_stays_an_extension() -> None:
    assert component(".mp3") == "_.mp3"
    assert component("..mp3") == "_.mp3"
    assert component(".hidden") == "_hidden"


@pytest.mark.parametrize("front", ["", "\u200d", ". \u200c", "\u00a0"])
def test_a_name_that_is_one_long_cluster_is_cut_within_it(front: str) -> None:
    family = "\u200d".join(["\U0001f468"] * 60)
    path = render(DEFAULT_TEMPLATE, named(front + family, job_id="e3e70682-c209-4cac"))
    folder, _, name = path.partition("/")
    assert "\U0001f468" in folder
    assert "\U0001f468" in name
    assert name.endswith(".e3e70682.wav")


@patient
@given(ANY_TEXT, st.uuids())
def test_id_and_extension_survive_any_file_name(file_name: str, job_id: UUID) -> None:
    path = render(DEFAULT_TEMPLATE, named(file_name * 20, job_id=str(job_id)))
    assert path.endswith(f".{str(job_id)[:8]}.wav")
