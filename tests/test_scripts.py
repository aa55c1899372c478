"""What the scripts promise: the environment is made when needed, service files are in order."""

from __future__ import annotations

import os
import plistlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fetcher.configuration.options import BY_NAME

SCRIPTS = Path(__file__).parent.parent / "scripts"
SERVICES = (
    *sorted(SCRIPTS.glob("systemd/*")),
    SCRIPTS / "crontab.example",
    SCRIPTS / "launchd/fetcher.watch.plist",
)
SHELL_SCRIPTS = [
    path
    for path in (*sorted(SCRIPTS.iterdir()), SCRIPTS.parent / ".ci/run")
    if path.is_file() and path.read_bytes().startswith((b"#!/usr/bin/env bash", b"# Sourced"))
]

# An interpreter that makes an environment with itself in it and writes down each call.
FAKE_PYTHON = """#!/bin/bash
echo "$*" >>"$CALLS"
case "$*" in
  *" --clear "*) mkdir -p "${!#}/bin" && cp "$0" "${!#}/bin/python" ;;
  *" install "*) exit "${INSTALL_STATUS:-0}" ;;
esac
"""


class Checkout:
    """A copy of what `scripts/environment` needs, on a machine with a fake Python."""

    def __init__(self, folder: Path) -> None:
        self.project = folder / "project"
        self.calls = folder / "calls"
        (self.project / "scripts").mkdir(parents=True)
        shutil.copy(SCRIPTS / "environment", self.project / "scripts")
        (self.project / "pyproject.toml").write_text("[project]\n")
        self.bin = folder / "bin"
        self.bin.mkdir()
        fake = self.bin / "python3.11"
        fake.write_text(FAKE_PYTHON)
        fake.chmod(0o755)

    def make(self, extra: str, **environ: str) -> subprocess.CompletedProcess[str]:
        self.calls.write_text("")
        return subprocess.run(
            ["bash", "-c", 'set -eu; . scripts/environment; environment "$0"', extra],
            cwd=self.project,
            env={"PATH": f"{self.bin}:{os.defpath}", "CALLS": str(self.calls), **environ},
            capture_output=True,
            text=True,
            check=False,
        )

    def said(self, word: str) -> int:
        return sum(word in line for line in self.calls.read_text().splitlines())


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_environment_is_made_once(checkout: Checkout) -> None:
    assert checkout.make("run").returncode == 0
    assert (checkout.said("-m venv"), checkout.said("install")) == (1, 1)
    assert checkout.make("run").returncode == 0
    assert checkout.calls.read_text() == ""


def test_changed_pyproject_installs_again_into_the_same_environment(checkout: Checkout) -> None:
    checkout.make("run")
    (checkout.project / "pyproject.toml").write_text("[project]\nname='x'\n")
    assert checkout.make("run").returncode == 0
    assert (checkout.said("-m venv"), checkout.said("install")) == (0, 1)


def test_moved_folder_gets_a_new_environment(checkout: Checkout) -> None:
    checkout.make("run")
    checkout.project = checkout.project.rename(checkout.project.with_name("moved"))
    assert checkout.make("run").returncode == 0
    assert (checkout.said("-m venv"), checkout.said("install")) == (1, 1)


def test_environment_for_tests_serves_for_running_too(checkout: Checkout) -> None:
    assert checkout.make("dev").returncode == 0
    assert checkout.said("[dev]") == 1
    checkout.make("run")
    assert checkout.calls.read_text() == ""


def test_environment_for_running_is_extended_for_tests(checkout: Checkout) -> None:
    checkout.make("run")
    assert checkout.make("dev").returncode == 0
    assert (checkout.said("-m venv"), checkout.said("[dev]")) == (0, 1)


def test_failed_installation_is_told_and_tried_again(checkout: Checkout) -> None:
    failed = checkout.make("run", INSTALL_STATUS="1")
    assert failed.returncode == 1
    assert "installing into" in failed.stderr
    assert checkout.make("run").returncode == 0
    assert checkout.said("install") == 1


def test_old_python_is_refused_by_name(checkout: Checkout) -> None:
    for name in ("python3.11", "python3", "python3.12", "python3.13", "python3.14", "python"):
        fake = checkout.bin / name
        fake.write_text(
            '#!/bin/sh\n[ "$1" != --version ] || { echo Python 3.9.2; exit 0; }\nexit 1\n'
        )
        fake.chmod(0o755)
    refused = checkout.make("run")
    assert refused.returncode == 1
    assert "needs Python 3.11 or newer" in refused.stderr
    assert "Python 3.9.2" in refused.stderr


@pytest.mark.parametrize("script", SHELL_SCRIPTS, ids=lambda path: str(path.name))
def test_shell_scripts_parse(script: Path) -> None:
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: str(path.name))
def test_services_use_options_that_exist(path: Path) -> None:
    text = path.read_text()
    flags = re.findall(r"(?<!<!)--([a-z][a-z-]+)", _commands(text))
    variables = [name.lower().replace("_", "-") for name in re.findall(r"FETCHER_([A-Z_]+)=", text)]
    assert [name for name in (*flags, *variables) if name not in BY_NAME] == []


def _commands(text: str) -> str:
    """Return the lines that call fetcher, and in a property list the strings."""
    wanted = re.compile(r"bin/fetcher |<string>")
    return "\n".join(x for x in text.splitlines() if wanted.search(x) and not x.startswith("#"))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    units = []
    for source in SCRIPTS.glob("systemd/*"):
        unit = tmp_path / source.name
        unit.write_text(source.read_text().replace("/opt/fetcher/bin/fetcher", sys.executable))
        units.append(unit)
    command = ["systemd-analyze", "verify", "--man=no", *map(str, units)]
    verified = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (verified.returncode, verified.stderr) == (0, "")


def test_launchd_file_starts_the_watcher_and_names_no_key() -> None:
    agent = plistlib.loads((SCRIPTS / "launchd/fetcher.watch.plist").read_bytes())
    assert agent["ProgramArguments"][1] == "watch"
    assert list(agent["EnvironmentVariables"]) == ["MUNSIT_API_KEY_FILE"]
