"""`fetcher demo`: the main job from start to end on this machine, and the tree it ends with."""

from __future__ import annotations

import io
import json
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from support import files, unfinished

from fetcher.commands import Environment, demo
from fetcher.configuration.config import resolve
from fetcher.configuration.tables import Screen
from fetcher.errors import UsageError
from fetcher.manifest.schema import FILE_NAME
from fetcher.tree import draw

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

QUICK = demo.Tempo(first_finish_s=6.0, rate_bytes_s=None, speed=30.0)
IN_TWO_ACTS = demo.Tempo(first_finish_s=30.0, rate_bytes_s=None, speed=20.0)
ESCAPES = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f]")


@dataclass
class Played:
    exit_code: int
    stdout: str
    stderr: str

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stdout.splitlines()]


def play(
    cwd: Path,
    environ: Mapping[str, str] | None = None,
    *,
    tempo: demo.Tempo = QUICK,
    **flags: Any,
) -> Played:
    """Play the demo as fast as it goes."""
    stdout, stderr = io.StringIO(), io.StringIO()
    env = Environment(stdout, stderr, environ or {}, cwd, cwd / "no-settings")
    found = resolve(flags, env.environ, cwd=cwd, user_config_dir=env.user_config_dir)
    return Played(demo.play(found, env, tempo), stdout.getvalue(), stderr.getvalue())


def test_the_demo_brings_every_finished_job_home(tmp_path: Path) -> None:
    played = play(tmp_path, tempo=IN_TWO_ACTS)
    assert played.exit_code == 0
    home = files(tmp_path / "fetcher-demo")
    assert len(home) == 24
    assert all(data[:4] == b"RIFF" for data in home.values())
    assert unfinished(tmp_path / "fetcher-demo") == []
    for path in home:
        assert path.rpartition("/")[2][:50] in played.stdout
    assert "25 records = 19 downloaded + 5 waiting + 1 failed by the service" in played.stderr
    assert "25 records = 5 downloaded + 19 already here" in played.stderr
    assert "MUNSIT_API_KEY" in played.stdout
    assert not ESCAPES.search(played.stdout + played.stderr)


def test_a_second_demo_fetches_nothing_twice(tmp_path: Path) -> None:
    first, again = play(tmp_path, json_output=True), play(tmp_path, json_output=True)
    assert (first.exit_code, again.exit_code) == (0, 0)
    finals = [event for event in first.events if event["event"] == "run.completed"]
    assert sum(final["downloaded"] for final in finals) == 24
    assert len(files(tmp_path / "fetcher-demo")) == 24
    assert [event["event"] for event in again.events] == ["poll.completed", "run.completed"]
    assert again.events[-1]["already"] == 24
    assert "fetcher-demo" in again.stderr  # the tree: stdout is for the events


def test_a_quiet_demo_says_nothing_and_goes_where_it_is_told(tmp_path: Path) -> None:
    played = play(tmp_path, quiet=True, dest=tmp_path / "elsewhere")
    assert (played.exit_code, played.stdout, played.stderr) == (0, "", "")
    assert len(files(tmp_path / "elsewhere")) == 24
    assert not (tmp_path / "fetcher-demo").exists()


def test_settings_for_the_real_account_play_no_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "intranet.example")
    monkeypatch.delenv("no_proxy", raising=False)
    (tmp_path / "fetcher.toml").write_text(
        'dest = "real"\napi-url = "https://api.example/v1"\nexec = "touch ran"\nmatch = "none*"\n'
    )
    environ = {"FETCHER_DEST": "real", "MUNSIT_API_KEY": "real", "FETCHER_ORIGINALS": "1"}
    assert play(tmp_path, environ).exit_code == 0
    assert len(files(tmp_path / "fetcher-demo")) == 24
    assert not (tmp_path / "real").exists()
    assert "no_proxy" not in os.environ


def test_options_that_are_typed_count(tmp_path: Path) -> None:
    assert play(tmp_path, output="{short_id}{ext}", match=("audio*",)).exit_code == 0
    assert {len(path) for path in files(tmp_path / "fetcher-demo")} == {len("12345678.wav")}
    assert len(files(tmp_path / "fetcher-demo")) == 9


def test_downloads_of_an_account_are_left_alone(tmp_path: Path) -> None:
    play(tmp_path, match=("none*",))
    _make_foreign(tmp_path / "fetcher-demo/.fetcher" / FILE_NAME)
    before = files(tmp_path / "fetcher-demo")
    with pytest.raises(UsageError, match="of its own"):
        play(tmp_path)
    assert files(tmp_path / "fetcher-demo") == before


def _make_foreign(manifest: Path) -> None:
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(manifest)) as db:
        db.execute("UPDATE entry SET id = 'real-' || id")
        db.commit()


def test_a_dry_run_is_refused_as_a_demo_writes(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="dry run"):
        play(tmp_path, dry_run=True)
    assert list(tmp_path.iterdir()) == []


# ---- the tree ----------------------------------------------------------------------------


def test_the_tree_is_drawn_by_name(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b/two.wav").write_bytes(b"x" * 1500)
    (tmp_path / "b/one.wav").write_bytes(b"")
    (tmp_path / "a.wav").write_bytes(b"x")
    (tmp_path / ".fetcher").mkdir()
    (tmp_path / ".fetcher/manifest").write_bytes(b"x")
    assert list(draw(tmp_path, Screen())) == [
        "├── a.wav  1 B",
        "└── b/",
        "    ├── one.wav  0 B",
        "    └── two.wav  1.5 kB",
    ]


def test_the_tree_is_bounded(tmp_path: Path) -> None:
    for n in range(9):
        (tmp_path / f"{n}").touch()
    lines = list(draw(tmp_path, Screen(), most_lines=3))
    assert lines == ["├── 0  0 B", "├── 1  0 B", "├── 2  0 B", "… and 6 more lines"]


def test_the_tree_is_plain_where_the_terminal_is(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/مقابلة").touch()
    (tmp_path / "b").touch()
    lines = list(draw(tmp_path, Screen(encoding="ascii")))
    assert lines == ["|-- a/", "|   `-- ??????  0 B", "`-- b  0 B"]


def test_the_tree_shows_links_and_does_not_follow_them(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path)
    [line] = draw(tmp_path, Screen())
    assert line.startswith("└── loop  ")


def test_names_in_the_tree_cannot_drive_a_terminal(tmp_path: Path) -> None:
    (tmp_path / "a\x1b[31m\nb\u202ec").touch()
    (tmp_path / ("x" * 200)).touch()
    lines = list(draw(tmp_path, Screen(columns=80)))
    assert len(lines) == 2
    assert not ESCAPES.search("".join(lines))
    assert max(len(line) for line in lines) < 80


def test_a_folder_that_is_gone_is_an_empty_tree(tmp_path: Path) -> None:
    assert list(draw(tmp_path / "none", Screen())) == []
