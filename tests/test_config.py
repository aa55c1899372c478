"""The merge of flags, environment, file and defaults; the key; the library's `Settings`."""

from __future__ import annotations

import json
import os
import pickle
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import get_type_hints

import pytest
from pydantic import SecretStr

from fetcher import Settings
from fetcher.configuration.config import Resolved, load, resolve
from fetcher.configuration.key import KeyFile, checked_key
from fetcher.configuration.options import BY_FIELD, OPTIONS
from fetcher.configuration.settings import Given
from fetcher.errors import UsageError

NOW = datetime(2025, 6, 15, tzinfo=UTC)
KEY = "k3y-that-must-not-show"


class Place:
    """A current folder and a user's configuration folder to resolve settings in."""

    def __init__(self, tmp_path: Path) -> None:
        self.cwd = tmp_path / "cwd"
        self.user = tmp_path / "user"
        self.cwd.mkdir()
        self.user.mkdir()
        self.file = self.cwd / "fetcher.toml"

    def resolve(
        self,
        flags: dict[str, object] | None = None,
        environ: dict[str, str] | None = None,
        toml: str | None = None,
    ) -> Resolved:
        if toml is not None:
            self.file.write_text(toml, encoding="utf-8")
        return resolve(flags or {}, environ or {}, cwd=self.cwd, user_config_dir=self.user, now=NOW)

    def load(
        self,
        flags: dict[str, object] | None = None,
        environ: dict[str, str] | None = None,
        toml: str | None = None,
    ) -> Settings:
        return self.resolve(flags, environ, toml).settings()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


# ---- precedence --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flag", "environment", "file", "expected", "origin"),
    [
        (1, "2", 3, 1, "--retries"),
        (None, "2", 3, 2, "FETCHER_RETRIES"),
        (None, None, 3, 3, "fetcher.toml: retries"),
        (None, None, None, 5, "--retries"),
        (1, None, 3, 1, "--retries"),
        (0, "2", 3, 0, "--retries"),
    ],
)
def test_the_strongest_source_wins_and_is_named(
    place: Place,
    flag: int | None,
    environment: str | None,
    file: int | None,
    expected: int,
    origin: str,
) -> None:
    found = place.resolve(
        {} if flag is None else {"retries": flag},
        {} if environment is None else {"FETCHER_RETRIES": environment},
        None if file is None else f"retries = {file}",
    )

    assert found.value("retries", int) == expected
    assert found.origins["retries"].place.endswith(origin)
    assert found.origins["retries"].is_default is (origin == "--retries" and flag is None)


def test_every_option_can_be_set_by_the_environment(place: Place) -> None:
    settable = [option for option in OPTIONS if not option.flag_only]
    environ = {"FETCHER_MATCH": "a*, b*", "FETCHER_LIVE": "0", "FETCHER_SINCE": "7d"}

    found = place.resolve({}, environ)

    assert found.values["match"] == ("a*", "b*")
    assert found.values["live"] is False
    assert found.values["since"] == NOW - timedelta(days=7)
    assert {option.environment for option in settable} >= {"FETCHER_WAIT_LOCK", "FETCHER_JSON"}


def test_an_empty_variable_is_not_set(place: Place) -> None:
    found = place.resolve({}, {"FETCHER_RETRIES": "", "FETCHER_DEST": " "}, "retries = 3")

    assert found.values["retries"] == 3
    assert found.origins["dest"].is_default


def test_a_repeatable_option_is_replaced_not_added_to(place: Place) -> None:
    found = place.resolve({"match": ["x*"]}, {}, 'match = ["a*", "b*"]')

    assert found.values["match"] == ("x*",)


def test_hyphens_and_underscores_are_the_same_in_the_file(place: Place) -> None:
    found = place.resolve({}, {}, 'limit_rate = "2M"\nmin-free = 7\noriginals = true')

    assert found.values["limit_rate"] == 2 * 2**20
    assert found.values["min_free"] == 7
    assert found.values["originals"] is True


def test_a_toml_date_is_a_bound(place: Place) -> None:
    found = place.resolve({}, {}, "since = 2025-01-31\nuntil = 2025-02-01T12:00:00Z")

    assert found.values["since"] == datetime(2025, 1, 31, tzinfo=UTC)
    assert found.values["until"] == datetime(2025, 2, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("flags", "environ", "expected"),
    [
        ({"verbose": 1}, {"FETCHER_QUIET": "1"}, (False, 1)),
        ({"quiet": True}, {"FETCHER_VERBOSE": "2"}, (True, 0)),
    ],
)
def test_of_quiet_and_verbose_the_stronger_source_wins(
    place: Place, flags: dict[str, object], environ: dict[str, str], expected: tuple[bool, int]
) -> None:
    found = place.resolve(flags, environ)

    assert (found.values["quiet"], found.values["verbose"]) == expected


def test_quiet_and_verbose_from_one_source_are_refused(place: Place) -> None:
    with pytest.raises(UsageError, match="--quiet and --verbose"):
        place.resolve({"quiet": True, "verbose": 1})


def test_relative_paths_start_from_the_current_folder(place: Place) -> None:
    found = place.resolve({"dest": "out"}, {"FETCHER_LOG_FILE": "log"}, 'state-dir = "st"')

    assert found.dest == place.cwd / "out"
    assert found.state_dir == place.cwd / "st"
    assert found.values["log_file"] == place.cwd / "log"


def test_the_state_folder_is_in_the_destination_unless_it_is_set(place: Place) -> None:
    assert place.resolve({"dest": "/x/y"}).state_dir == Path("/x/y/.fetcher")


def test_values_of_the_wrong_type_cannot_be_taken_out(place: Place) -> None:
    found = place.resolve()

    assert found.optional("limit_rate", int) is None
    assert found.optional("retries", int) == 5
    with pytest.raises(TypeError, match="limit_rate"):
        found.value("limit_rate", int)


# ---- the file ----------------------------------------------------------------------------


def test_the_file_of_the_folder_hides_the_users(place: Place) -> None:
    (place.user / "fetcher.toml").write_text("retries = 9\ntimeout = 9", encoding="utf-8")
    assert place.resolve().values["retries"] == 9

    found = place.resolve({}, {}, "retries = 3")

    assert (found.values["retries"], found.values["timeout"]) == (3, 30.0)
    assert found.file == place.file


@pytest.mark.parametrize("how", ["flag", "environment"])
def test_a_named_file_hides_both(place: Place, how: str) -> None:
    place.file.write_text("retries = 3", encoding="utf-8")
    (place.cwd / "other.toml").write_text("timeout = 8", encoding="utf-8")

    found = (
        place.resolve({"config": "other.toml"})
        if how == "flag"
        else place.resolve({}, {"FETCHER_CONFIG": "other.toml"})
    )

    assert (found.values["retries"], found.values["timeout"]) == (5, 8.0)
    assert found.file == place.cwd / "other.toml"


def test_without_a_file_nothing_is_missed(place: Place) -> None:
    assert place.resolve().file is None


def test_a_byte_order_mark_is_no_key(place: Place) -> None:
    assert place.resolve({}, {}, "\ufeffretries = 3").values["retries"] == 3


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("concurency = 4", ["'concurency'", "did you mean concurrency?"]),
        ("Retries = 4", ["'Retries'"]),
        ("x = 1", ["unknown key 'x'"]),
        ("init = true", ["unknown key 'init'"]),
        ('config = "x"', ["unknown key 'config'"]),
        ("retries = -1", ["retries: '-1'"]),
        ("dest = 5", ["dest: '5'"]),
        ("[retries]\nx = 1", ["retries: "]),
        ("match = [1]", ["match: '1'"]),
        ("limit-rate = 1\nlimit_rate = 2", ["limit_rate", "twice"]),
        ("retries =\ntimeout = 1", ["no valid TOML", "line 1"]),
        ("retries = 1\nretries = 2", ["no valid TOML"]),
        ("profile = 3", ["[profile.NAME]"]),
        ('profile = {work = "x"}', ["[profile.NAME]"]),
        ("[profile.work]\nretris = 3", ["[profile.work]", "'retris'", "did you mean retries?"]),
        ("since = 2025-02-01\nuntil = 2025-01-01", ["since", "until", "later than"]),
        ('output = "{stm}.{id}"', ["fetcher.toml: output: ", "{stm}"]),
        ('api-url = "http://api.example"', ["api-url", "https://"]),
    ],
)
def test_a_wrong_file_is_refused_by_place(place: Place, toml: str, words: list[str]) -> None:
    with pytest.raises(UsageError) as refused:
        place.load({}, {}, toml)

    for word in (str(place.file), *words):
        assert word in str(refused.value)


@pytest.mark.parametrize("key", ["api-key", "api_key", "key", "MUNSIT_API_KEY"])
def test_the_key_in_the_file_is_refused_without_repeating_it(place: Place, key: str) -> None:
    with pytest.raises(UsageError, match="api-key-file") as refused:
        place.resolve({}, {}, f'{key} = "{KEY}"')

    assert KEY not in str(refused.value)


def test_a_file_that_is_no_text_is_refused(place: Place) -> None:
    place.file.write_bytes(b"\xff\xfe\x00")

    with pytest.raises(UsageError, match="no UTF-8"):
        place.resolve()


def test_a_folder_in_place_of_the_file_is_refused(place: Place) -> None:
    place.file.mkdir()

    with pytest.raises(UsageError, match="cannot be read"):
        place.resolve()


def test_a_named_file_that_is_missing_is_refused(place: Place) -> None:
    with pytest.raises(UsageError, match=r"nowhere\.toml"):
        place.resolve({"config": "nowhere.toml"})


def test_a_bad_value_in_the_environment_names_the_variable(place: Place) -> None:
    with pytest.raises(UsageError, match=r"FETCHER_RETRIES: 'x'"):
        place.resolve({}, {"FETCHER_RETRIES": "x"})


def test_an_unknown_variable_is_noticed(place: Place) -> None:
    environ = {"FETCHER_INTERVL": "5", "FETCHER_API_KEY": KEY, "FETCHER_FILE_NAME": "from a hook"}

    notices = "\n".join(place.resolve({}, environ).notices)

    assert "FETCHER_INTERVL" in notices
    assert "did you mean FETCHER_INTERVAL?" in notices
    assert "MUNSIT_API_KEY" in notices
    assert "FETCHER_FILE_NAME" not in notices
    assert KEY not in notices


# ---- profiles ----------------------------------------------------------------------------

PROFILES = """
retries = 1
timeout = 11
[profile.work]
retries = 2
[profile.home]
retries = 3
dest = 5
"""


@pytest.mark.parametrize("how", ["flag", "environment"])
def test_a_profile_stands_above_the_rest_of_the_file(place: Place, how: str) -> None:
    flags: dict[str, object] = {"profile": "work"} if how == "flag" else {}
    environ = {} if how == "flag" else {"FETCHER_PROFILE": "work"}

    found = place.resolve(flags, environ, PROFILES)

    assert (found.values["retries"], found.values["timeout"]) == (2, 11.0)
    assert "[profile.work]" in found.origins["retries"].place
    assert found.profile == "work"


def test_values_of_another_profile_are_not_read(place: Place) -> None:
    assert place.resolve({}, {}, PROFILES).values["retries"] == 1


def test_the_environment_stands_above_a_profile(place: Place) -> None:
    found = place.resolve({"profile": "work"}, {"FETCHER_RETRIES": "7"}, PROFILES)

    assert found.values["retries"] == 7


@pytest.mark.parametrize(
    ("name", "toml", "words"),
    [
        ("wrk", PROFILES, "did you mean work?"),
        ("zzz", PROFILES, "there are: work, home"),
        ("work", "retries = 1", "there are: none"),
        ("work", None, "there is no fetcher.toml"),
    ],
)
def test_a_profile_that_is_not_there_is_refused(
    place: Place, name: str, toml: str | None, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        place.resolve({"profile": name}, {}, toml)


# ---- the key -----------------------------------------------------------------------------


def key_place(place: Place, name: str) -> Path:
    path = place.cwd / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"{name}-key\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("sources", "expected", "origin"),
    [
        ("flag env file1 file2 toml cred", "flag-key", "--api-key-file"),
        ("env file1 file2 toml cred", "env-key", "MUNSIT_API_KEY"),
        ("file1 file2 toml cred", "file1-key", "MUNSIT_API_KEY_FILE"),
        ("file2 toml cred", "file2-key", "FETCHER_API_KEY_FILE"),
        ("toml cred", "toml-key", "fetcher.toml: api-key-file"),
        ("cred", "munsit-api-key-key", "CREDENTIALS_DIRECTORY"),
    ],
)
def test_the_strongest_source_of_the_key_wins(
    place: Place, sources: str, expected: str, origin: str
) -> None:
    for name in ("flag", "file1", "file2", "toml", "munsit-api-key"):
        key_place(place, name)
    environment = {
        "env": ("MUNSIT_API_KEY", "env-key"),
        "file1": ("MUNSIT_API_KEY_FILE", "file1"),
        "file2": ("FETCHER_API_KEY_FILE", "file2"),
        "cred": ("CREDENTIALS_DIRECTORY", str(place.cwd)),
    }
    environ = dict(environment[name] for name in sources.split() if name in environment)
    toml = 'api-key-file = "toml"' if "toml" in sources else None

    found = place.resolve({"api_key_file": "flag"} if "flag" in sources else {}, environ, toml)

    assert found.settings().read_key() == expected
    assert found.key_origin is not None
    assert found.key_origin.place.endswith(origin)


def test_without_a_key_settings_load_and_reading_it_says_what_to_do(place: Place) -> None:
    settings = place.load({}, {"MUNSIT_API_KEY": " ", "CREDENTIALS_DIRECTORY": str(place.cwd)})

    with pytest.raises(UsageError, match=r"MUNSIT_API_KEY.*--api-key-file"):
        settings.read_key()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  \n",
        f"{KEY} {KEY}",
        f"{KEY}\n{KEY}\n",
        f"{KEY}\x07",
        f"{KEY}\u00e9",
        f'"{KEY}"',
        f"MUNSIT_API_KEY={KEY}",
        f"export MUNSIT_API_KEY={KEY}",
        KEY * 1000,
    ],
)
def test_what_is_no_key_is_refused_without_repeating_it(text: str, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text(text, encoding="utf-8")

    with pytest.raises(UsageError) as refused:
        KeyFile(path).read()

    assert str(path) in str(refused.value)
    assert KEY not in str(refused.value)


def test_white_space_and_a_byte_order_mark_around_the_key_are_no_part_of_it() -> None:
    assert checked_key(f"\ufeff  {KEY}\r\n", "x") == KEY


@pytest.mark.parametrize("what", ["missing", "folder", "binary"])
def test_a_key_file_that_cannot_be_read_is_refused(tmp_path: Path, what: str) -> None:
    path = tmp_path / "key"
    if what == "folder":
        path.mkdir()
    elif what == "binary":
        path.write_bytes(b"\xff\x00\xfe")

    with pytest.raises(UsageError, match="key file"):
        KeyFile(path).read()


def test_a_rotated_key_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("old", encoding="utf-8")
    settings = Settings(api_key_file=path)
    assert settings.read_key() == "old"

    path.write_text("newer", encoding="utf-8")

    assert settings.read_key() == "newer"


def test_a_key_file_that_is_gone_for_a_moment_leaves_the_last_key(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("old", encoding="utf-8")
    file = KeyFile(path)
    assert file.read() == "old"

    path.write_text("", encoding="utf-8")
    assert file.read() == "old"
    path.unlink()
    assert file.read() == "old"
    path.write_text("new", encoding="utf-8")
    assert file.read() == "new"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_key_from_a_pipe_is_read_once_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_text, args=(f"{KEY}\n",))
    writer.start()
    file = KeyFile(path)

    assert [file.read(), file.read()] == [KEY, KEY]
    writer.join()


def test_the_settings_file_may_be_a_pipe(place: Place) -> None:
    path = place.cwd / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_text, args=("concurrency = 7\n",))
    writer.start()

    assert place.load({"config": "pipe"}).concurrency == 7
    writer.join()


def test_the_key_never_shows(place: Place) -> None:
    settings, found = load(
        {}, {"MUNSIT_API_KEY": KEY}, cwd=place.cwd, user_config_dir=place.user, now=NOW
    )

    shown = [repr(settings), str(settings), settings.model_dump_json(), str(settings.model_dump())]
    shown += [repr(found), str(found), str(found.values), str(found.origins)]

    assert settings.read_key() == KEY
    assert [text for text in shown if KEY in text] == []


# ---- the library's face ------------------------------------------------------------------


def test_settings_take_python_values_and_what_would_be_typed() -> None:
    settings = Settings(
        dest="x", api_key=KEY, limit_rate="500K", since="2025-01-31", match="a*", timeout="1m"
    )

    assert settings.dest == Path.cwd() / "x"
    assert settings.state_dir == Path.cwd() / "x" / ".fetcher"
    assert settings.limit_rate == 500 * 1024
    assert settings.since == datetime(2025, 1, 31, tzinfo=UTC)
    assert settings.match == ("a*",)
    assert settings.timeout == 60.0
    assert settings == Settings(
        dest=Path("x"),
        api_key=KEY,
        limit_rate=512_000,
        since=datetime(2025, 1, 31, tzinfo=UTC),
        match=["a*"],
        timeout=60,
    )


def test_settings_default_to_the_options_defaults(place: Place) -> None:
    expected = {
        option.field: option.default
        for option in OPTIONS
        if option.field in Settings.model_fields and option.kind.completes == ""
    }

    dumped = Settings().model_dump()

    assert {name: dumped[name] for name in expected} == expected


def test_settings_and_given_have_the_same_names() -> None:
    assert set(get_type_hints(Given)) == set(Settings.model_fields)
    assert set(Settings.model_fields) - {"api_key"} <= set(BY_FIELD)


def test_settings_are_frozen() -> None:
    with pytest.raises(AttributeError, match="retries"):
        Settings().retries = 3  # type: ignore[misc]  # the case


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"concurency": 3}, "did you mean concurrency?"),
        ({"retries": -1}, "retries: '-1'"),
        ({"output": "{stm}"}, "{stm}"),
        ({"since": "2025-02-01", "until": "2025-01-01"}, "since"),
        ({"dest": "/x", "state_dir": "/x"}, "state_dir"),
        ({"quiet": True, "verbose": 1}, "quiet and verbose"),
    ],
)
def test_settings_refuse_as_the_command_line_does(given: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError) as refused:
        Settings(**given)  # type: ignore[arg-type]  # the case

    assert words in str(refused.value)


def test_settings_can_be_written_as_json_and_read_back() -> None:
    settings = Settings(dest="/x", limit_rate="2M", match=["a*"], since="2025-01-31")
    dumped = json.loads(settings.model_dump_json())

    assert Settings.model_validate(dumped) == settings


def test_a_key_may_come_as_a_pydantic_secret_and_must_be_text() -> None:
    assert Settings(api_key=SecretStr(KEY)).read_key() == KEY  # type: ignore[arg-type]  # the case
    with pytest.raises(UsageError, match="api_key"):
        Settings(api_key=5)  # type: ignore[arg-type]  # the case


def test_settings_survive_a_copy_to_another_process() -> None:
    settings = Settings(dest="/x", api_key=KEY)

    assert pickle.loads(pickle.dumps(settings)).read_key() == KEY
