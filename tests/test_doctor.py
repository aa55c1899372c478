"""`fetcher doctor`: what it finds, what it says to do, and what its exit status tells."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import socket
import sqlite3
import ssl
import sys
import time
from collections import namedtuple
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from io import StringIO, TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from raw_server import RawServer, always, answer
from support import run as backfill

from fetcher.checkup.findings import good, problem, verdict, warning
from fetcher.checkup.mounts import Mount, mount_of
from fetcher.checkup.patience import within
from fetcher.cli import run
from fetcher.commands import Environment
from fetcher.core.filters import Rules
from fetcher.files.locks import held
from fetcher.manifest.listing import Intake
from fetcher.manifest.store import Store
from fetcher.models import Job, JobId, Status
from fetcher.simulator import Fault, Simulator

if TYPE_CHECKING:
    from collections.abc import Callable

KEY = "k3y-that-must-not-show"
TLS = Path(__file__).parent / "data/tls"


class Patient:
    """An environment to look at, and what was said of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.dest = folder / "dest"
        self.environ = {"MUNSIT_API_KEY": KEY}
        self.out, self.err = StringIO(), StringIO()
        self.status = -1

    def see(self, *argv: str, out: Any = None) -> None:
        """Run the command in this thread."""
        (self.folder / "user").mkdir(exist_ok=True)
        self.out, self.err = out or StringIO(), StringIO()
        env = Environment(self.out, self.err, self.environ, self.folder, self.folder / "user")
        base = ["doctor", "-d", str(self.dest), "--min-free", "0"]
        self.status = run([*base, *argv], env)
        assert KEY not in self.err.getvalue()
        assert "Traceback" not in self.err.getvalue()

    async def ask(self, *argv: str) -> dict[str, list[dict[str, Any]]]:
        """Run the command beside this loop; return its findings by check."""
        await asyncio.to_thread(self.see, "--json", *argv)
        return self.findings

    def look(self, *argv: str) -> dict[str, list[dict[str, Any]]]:
        """Run the command where no API answers; return its findings by check."""
        self.see("--json", "--api-url", f"http://127.0.0.1:{closed_port()}", *argv)
        return self.findings

    @property
    def findings(self) -> dict[str, list[dict[str, Any]]]:
        text = self.out.getvalue()
        assert KEY not in text
        found: dict[str, list[dict[str, Any]]] = {}
        for line in text.splitlines():
            said = json.loads(line)
            assert said["event"] == "doctor.finding"
            assert bool(said["cure"]) == (said["level"] != "ok")
            assert bool(said["exit_code"]) == (said["level"] == "problem")
            found.setdefault(said["check"], []).append(said)
        return found


@pytest.fixture
def patient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Patient:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))  # where faults are recorded
    return Patient(tmp_path)


def closed_port() -> int:
    """Return a port on which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# ---- the verdict -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("codes", "expected"),
    [([], 0), ([6, 4, 3, 2], 2), ([6, 4, 3], 3), ([6, 4], 4), ([70, 6], 6), ([70], 70)],
)
def test_the_first_in_order_of_the_problems_is_the_status(codes: list[int], expected: int) -> None:
    findings = [problem("x", "y", "z", code) for code in codes]

    assert verdict([good("a", "b"), warning("a", "b", "c"), *findings]) == expected


# ---- all is well -------------------------------------------------------------------------


async def test_a_good_state_is_0_and_leaves_nothing_behind(
    sim: Simulator, patient: Patient
) -> None:
    sim.add_job()
    before = tree(patient.folder)

    found = await patient.ask("--api-url", sim.api_url)

    assert (patient.status, patient.err.getvalue()) == (0, "")
    assert {level for check in found.values() for one in check for level in [one["level"]]} <= {
        "ok",
        "warning",
    }
    assert list(found)[:7] == [
        *("versions", "settings", "key", "name", "connection", "API", "clock"),
    ]
    assert {"destination", "space", "manifest", "in use", "open files", "terminal"} <= set(found)
    assert tree(patient.folder) == [*before, "user"]


async def test_the_versions_of_what_matters_are_named(sim: Simulator, patient: Patient) -> None:
    found = await patient.ask("--api-url", sim.api_url)

    said = found["versions"][0]["found"]
    names = ("fetcher ", "Python ", "aiohttp 3.", "OpenSSL ", "SQLite 3.")
    assert [name for name in names if name not in said] == []


async def test_the_api_is_asked_once_for_one_record(sim: Simulator, patient: Patient) -> None:
    sim.add_jobs(3)

    await patient.ask("--api-url", sim.api_url)

    [request] = sim.log.all()
    assert request.target.endswith("/denoise?offset=0&limit=1")
    assert request.headers["x-api-key"] == KEY


async def test_an_existing_destination_is_not_changed(sim: Simulator, patient: Patient) -> None:
    sim.add_jobs(2)
    await backfill(sim.api_url, patient.dest)
    before = tree(patient.dest)

    found = await patient.ask("--api-url", sim.api_url)

    assert patient.status == 0
    assert "2 jobs, 2 complete files" in found["manifest"][0]["found"]
    assert tree(patient.dest) == before


async def test_text_is_aligned_and_ends_with_a_summary(sim: Simulator, patient: Patient) -> None:
    patient.environ = {}

    await asyncio.to_thread(patient.see, "--api-url", sim.api_url)

    lines = patient.out.getvalue().splitlines()
    assert patient.status == 2
    assert lines[0].startswith("ok       versions      fetcher ")
    at = next(n for n, line in enumerate(lines) if line.startswith("problem  key           no API"))
    assert lines[at + 1].startswith(f"{'':23}-> set MUNSIT_API_KEY")
    assert lines[-1] == "1 problem: what to do stands behind each ->"
    assert "\x1b" not in patient.out.getvalue()


async def test_quiet_says_only_what_is_wrong(sim: Simulator, patient: Patient) -> None:
    patient.environ = {}

    await asyncio.to_thread(patient.see, "-q", "--api-url", sim.api_url)

    assert [line[:8].strip() for line in patient.out.getvalue().splitlines()] == ["problem", ""]


# ---- settings and key --------------------------------------------------------------------


async def test_a_wrong_key_in_the_file_is_2_and_everything_else_is_looked_at(
    sim: Simulator, patient: Patient
) -> None:
    (patient.folder / "fetcher.toml").write_text("retris = 3\n")

    found = await patient.ask("--api-url", sim.api_url)

    assert patient.status == 2
    assert "unknown key 'retris'; did you mean retries?" in found["settings"][0]["found"]
    assert {"key", "API", "destination", "manifest"} <= set(found)


async def test_the_key_goes_nowhere_while_the_settings_are_wrong(
    sim: Simulator, patient: Patient
) -> None:
    """The address may be another one than was meant."""
    (patient.folder / "fetcher.toml").write_text("retris = 3\n")

    found = await patient.ask("--api-url", sim.api_url)

    assert [request.headers.get("x-api-key") for request in sim.log.all()] == [None]
    assert "401 to a request without a key" in found["API"][0]["found"]


def test_each_source_with_an_error_is_told_of(patient: Patient) -> None:
    (patient.folder / "fetcher.toml").write_text("retris = 3\n")
    patient.environ["FETCHER_RETRIES"] = "many"

    found = patient.look()

    assert patient.status == 2
    reasons = [one["found"] for one in found["settings"]]
    assert len(reasons) == 2
    assert "FETCHER_RETRIES: 'many'" in reasons[0]
    assert "retris" in reasons[1]


@pytest.mark.parametrize("content", [b"\xff", b"= =", b"[profile]\nx = 1"])
def test_a_file_that_is_no_settings_file_is_2(patient: Patient, content: bytes) -> None:
    (patient.folder / "fetcher.toml").write_bytes(content)

    patient.look()

    assert patient.status == 2


def test_a_missing_settings_file_and_a_missing_profile_are_2(patient: Patient) -> None:
    found = patient.look("--config", "gone.toml")
    assert (patient.status, "gone.toml" in found["settings"][0]["found"]) == (2, True)

    found = patient.look("--profile", "work")
    assert (patient.status, "work" in found["settings"][0]["found"]) == (2, True)


def test_a_template_that_cannot_be_is_2(patient: Patient) -> None:
    (patient.folder / "fetcher.toml").write_text('output = "{stem}"\n')

    found = patient.look()

    assert patient.status == 2
    assert "cannot tell records apart" in found["settings"][0]["found"]


async def test_what_looks_like_a_slip_is_a_warning_and_0(sim: Simulator, patient: Patient) -> None:
    patient.environ["FETCHER_RETRYS"] = "3"

    found = await patient.ask("--api-url", sim.api_url)

    assert patient.status == 0
    assert [one["level"] for one in found["settings"]] == ["ok", "warning"]
    assert "did you mean FETCHER_RETRIES?" in found["settings"][1]["found"]


def test_no_key_is_2_before_an_api_that_is_down(patient: Patient) -> None:
    patient.environ = {}

    found = patient.look()

    assert patient.status == 2
    assert found["key"][0]["found"] == "no API key"
    assert found["connection"][0]["exit_code"] == 4


@pytest.mark.parametrize("content", [None, "", "MUNSIT_API_KEY=x", "two words", "\xff"])
def test_a_key_file_without_a_key_is_2(patient: Patient, content: str | None) -> None:
    file = patient.folder / "key"
    if content is not None:
        file.write_text(content, encoding="latin-1")
    patient.environ = {"MUNSIT_API_KEY_FILE": str(file)}

    found = patient.look()

    assert patient.status == 2
    assert str(file) in found["key"][0]["found"]


@pytest.mark.parametrize(("mode", "level"), [(0o600, "ok"), (0o644, "warning"), (0o640, "warning")])
async def test_a_key_file_that_others_can_read_is_a_warning(
    sim: Simulator, patient: Patient, mode: int, level: str
) -> None:
    file = patient.folder / "key"
    file.write_text(KEY)
    file.chmod(mode)
    patient.environ = {"MUNSIT_API_KEY_FILE": str(file)}

    found = await patient.ask("--api-url", sim.api_url)

    assert (patient.status, found["key"][0]["level"]) == (0, level)
    assert found["key"][0]["cure"] == (f"chmod 600 {file}" if level == "warning" else None)


# ---- the API -----------------------------------------------------------------------------


async def test_a_refused_key_is_3(patient: Patient) -> None:
    async with Simulator(key="another") as sim:
        found = await patient.ask("--api-url", sim.api_url)

    assert patient.status == 3
    assert "401" in found["API"][0]["found"]


def test_a_closed_port_is_4(patient: Patient) -> None:
    found = patient.look()

    assert patient.status == 4
    assert "Connection refused" in found["connection"][0]["found"]
    assert "API" not in found


def test_a_name_that_does_not_exist_is_4(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **options: Any) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)

    patient.see("--json", "--api-url", "https://nowhere.invalid/api")

    assert patient.status == 4
    assert "nowhere.invalid is not found" in patient.findings["name"][0]["found"]
    assert "connection" not in patient.findings


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault(on="list", html=True), "a web page"),
        (Fault(on="list", body="[{"), ""),
        (Fault(on="list", status=500), "500"),
        (Fault(on="list", status=429), "429"),
        (Fault(on="list", status=404), "404"),
        (Fault(on="list", disconnect=True, times=None), "closed the connection"),
        (Fault(on="list", status=302, headers={"Location": "https://other.example/x"}), "other"),
        (Fault(on="list", cut_after_bytes=5), ""),
    ],
    ids=["html", "half", "500", "429", "404", "hangs up", "redirect", "cut"],
)
async def test_an_answer_that_is_no_history_is_4(
    sim: Simulator, patient: Patient, fault: Fault, words: str
) -> None:
    sim.add_job()
    sim.faults.add(fault)

    found = await patient.ask("--api-url", sim.api_url)

    assert patient.status == 4
    assert found["API"][0]["level"] == "problem"
    assert words in found["API"][0]["found"]


async def test_silence_is_bounded_by_timeout(sim: Simulator, patient: Patient) -> None:
    sim.faults.add(Fault(on="list", delay_s=60))
    began_s = time.monotonic()

    found = await patient.ask("--api-url", sim.api_url, "--timeout", "0.3")

    assert patient.status == 4
    assert "within 0.3 s" in found["API"][0]["found"]
    assert time.monotonic() - began_s < 10


async def test_an_answer_that_trickles_is_bounded_as_a_whole(
    sim: Simulator, patient: Patient
) -> None:
    sim.add_job()
    sim.faults.add(Fault(on="list", rate_bytes_s=20))

    await patient.ask("--api-url", sim.api_url, "--timeout", "0.5")

    assert patient.status == 4


@pytest.mark.parametrize(
    ("ahead_s", "level", "status"),
    [
        (0, "ok", 0),
        (45, "ok", 0),
        (-300, "warning", 0),
        (300, "warning", 0),
        (-2 * 86_400, "problem", 4),
        (2 * 86_400, "problem", 4),
    ],
)
async def test_the_clock_is_compared_with_the_api_s(
    sim: Simulator, patient: Patient, ahead_s: int, level: str, status: int
) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=ahead_s), usegmt=True)
    sim.faults.add(Fault(on="list", headers={"Date": date}))

    found = await patient.ask("--api-url", sim.api_url)

    assert (patient.status, found["clock"][0]["level"]) == (status, level)
    if level != "ok":
        assert ("behind" if ahead_s > 0 else "ahead of") in found["clock"][0]["found"]


async def test_a_proxy_in_use_is_named_without_its_password(
    sim: Simulator, patient: Patient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The simulator takes the absolute form of a request too, so it can play the proxy."""
    host = sim.api_url.removeprefix("http://").partition("/")[0]
    monkeypatch.setenv("http_proxy", f"http://user:s3cret@{host}")
    monkeypatch.setenv("no_proxy", "")

    found = await patient.ask("--api-url", "http://localhost:1/api/v1")

    assert f"through http://{host}" in found["proxy"][0]["found"]
    assert "s3cret" not in patient.out.getvalue()
    assert found["connection"][0]["level"] == "ok"


async def test_a_proxy_elsewhere_is_not_used_for_an_api_of_plain_http(
    sim: Simulator, patient: Patient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("no_proxy", "")

    found = await patient.ask("--api-url", sim.api_url)

    assert patient.status == 0
    assert "proxy" not in found


def test_a_proxy_that_is_no_address_is_4(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "socks5://host:1")
    monkeypatch.setenv("no_proxy", "")

    found = patient.look()

    assert patient.status == 4
    assert "HTTP_PROXY is neither http nor https" in found["proxy"][0]["found"]


@pytest.fixture
async def tls_server() -> Any:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / "server.pem")
    page = answer(b"[]", headers=("Content-Type: application/json",))
    async with RawServer(always(page), context=context) as server:
        yield server


async def test_an_untrusted_certificate_is_4(patient: Patient, tls_server: RawServer) -> None:
    found = await patient.ask("--api-url", tls_server.origin)

    assert patient.status == 4
    assert "not trusted" in found["TLS"][0]["found"]
    assert "SSL_CERT_FILE" in found["TLS"][0]["cure"]
    assert tls_server.requests == []


async def test_a_certificate_of_the_named_authority_is_trusted(
    patient: Patient, tls_server: RawServer
) -> None:
    """SSL_CERT_FILE is read when a process starts, so this needs one of its own."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "fetcher", "doctor", "--json", "-d", str(patient.dest)),
        *("--api-url", tls_server.origin.replace("127.0.0.1", "localhost")),
        env={**os.environ, "MUNSIT_API_KEY": KEY, "SSL_CERT_FILE": str(TLS / "ca.pem")},
        cwd=patient.folder,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()

    found = {said["check"]: said for said in map(json.loads, out.splitlines())}
    assert (found["TLS"]["level"], process.returncode) == ("ok", 0)
    assert found["TLS"]["found"].startswith("TLSv1.")


async def test_a_port_that_speaks_no_tls_is_4(sim: Simulator, patient: Patient) -> None:
    found = await patient.ask("--api-url", sim.api_url.replace("http:", "https:"))

    assert patient.status == 4
    assert found["TLS"][0]["level"] == "problem"


# ---- storage -----------------------------------------------------------------------------


async def test_a_file_in_place_of_the_destination_is_6(sim: Simulator, patient: Patient) -> None:
    patient.dest.write_text("mine")

    found = await patient.ask("--api-url", sim.api_url)

    assert patient.status == 6
    assert "is a file, where a folder should be" in found["destination"][0]["found"]
    assert "-d DIR" in found["destination"][0]["cure"]
    assert patient.dest.read_text() == "mine"


@pytest.mark.parametrize("option", ["-d", "--state-dir"])
async def test_a_folder_whose_name_is_too_long_is_6(
    sim: Simulator, patient: Patient, option: str
) -> None:
    found = await patient.ask("--api-url", sim.api_url, option, "x" * 300)

    assert patient.status == 6
    said = found["destination" if option == "-d" else "state folder"][0]["found"]
    assert "too long" in said


KINDS = ["parent is a file", "dangling link", "state link", "link in it", "state file"]


@pytest.mark.parametrize("kind", KINDS)
async def test_whatever_stands_in_the_way_of_the_folders_is_6(
    sim: Simulator, patient: Patient, kind: str
) -> None:
    match kind:
        case "parent is a file":
            patient.dest.write_text("")
            patient.dest /= "deeper"
        case "dangling link":
            patient.dest.symlink_to(patient.folder / "gone")
        case "state link":
            patient.dest.mkdir()
            (patient.dest / ".fetcher").symlink_to(patient.folder)
        case "link in it":
            (patient.dest / ".fetcher").mkdir(parents=True)
            (patient.dest / ".fetcher" / "partial").symlink_to(patient.folder)
        case _:
            patient.dest.mkdir()
            (patient.dest / ".fetcher").write_text("")

    found = await patient.ask("--api-url", sim.api_url)

    assert (patient.status, found["destination"][0]["level"]) == (6, "problem")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a /proc")
async def test_a_folder_that_cannot_be_made_is_6(sim: Simulator, patient: Patient) -> None:
    patient.dest = Path("/proc/fetcher-downloads")

    found = await patient.ask("--api-url", sim.api_url)

    assert patient.status == 6
    assert "/proc cannot be written" in found["destination"][0]["found"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
async def test_a_folder_that_may_not_be_written_is_6(sim: Simulator, patient: Patient) -> None:
    patient.dest.mkdir(mode=0o500)

    await patient.ask("--api-url", sim.api_url)

    assert patient.status == 6


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize(
    ("place", "mode", "check"),
    [
        pytest.param(".", 0o555, "destination", id="the folder"),
        pytest.param(".fetcher/manifest.db", 0o444, "manifest", id="the manifest"),
        pytest.param(".fetcher/lock", 0o444, "in use", id="the lock"),
    ],
)
async def test_what_a_run_could_not_write_where_one_has_been_is_6(
    sim: Simulator, patient: Patient, place: str, mode: int, check: str
) -> None:
    await backfill(sim.api_url, patient.dest)
    barred = patient.dest / place
    before = barred.stat().st_mode
    barred.chmod(mode)

    found = await patient.ask("--api-url", sim.api_url)

    barred.chmod(before)
    assert (patient.status, found[check][0]["level"]) == (6, "problem")
    assert f"{barred.resolve()} may not be written" in found[check][0]["found"]


async def test_a_share_that_does_not_answer_is_6_and_is_not_asked_again(
    sim: Simulator, patient: Patient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os.path, "lexists", lambda _: time.sleep(1.0))

    found = await patient.ask("--api-url", sim.api_url, "--timeout", "0.5")

    assert patient.status == 6
    assert "no answer within 0.5 s" in found["destination"][0]["found"]
    assert "manifest" not in found
    assert {"open files", "terminal"} <= set(found)


async def test_a_state_folder_elsewhere_is_tried_too(sim: Simulator, patient: Patient) -> None:
    state = patient.folder / "state"
    found = await patient.ask("--api-url", sim.api_url, "--state-dir", str(state))
    assert (patient.status, found["state folder"][0]["level"]) == (0, "ok")
    assert not state.exists()

    state.write_text("")
    found = await patient.ask("--api-url", sim.api_url, "--state-dir", str(state))
    assert (patient.status, found["state folder"][0]["level"]) == (6, "problem")


async def test_less_space_than_is_to_be_kept_is_6(sim: Simulator, patient: Patient) -> None:
    found = await patient.ask("--api-url", sim.api_url, "--min-free", "900000G")

    assert patient.status == 6
    assert "--min-free" in found["space"][0]["cure"]


Disk = namedtuple("Disk", "f_bavail f_frsize f_files f_favail")


@pytest.mark.parametrize(
    ("disk", "levels", "status"),
    [
        (Disk(10**9, 1, 10**6, 10**6), ["ok"], 0),
        (Disk(10**6, 1, 10**6, 10**6), ["warning"], 0),
        (Disk(0, 1, 10**6, 10**6), ["problem"], 6),
        (Disk(10**9, 1, 10**6, 7), ["ok", "warning"], 0),
        (Disk(10**9, 1, 10**6, 0), ["ok", "problem"], 6),
        (Disk(10**9, 1, 0, 0), ["ok"], 0),
    ],
    ids=["well", "nearly full", "full", "few inodes", "no inodes", "no limit of inodes"],
)
async def test_space_and_inodes_are_judged(
    sim: Simulator,
    patient: Patient,
    monkeypatch: pytest.MonkeyPatch,
    disk: Disk,
    levels: list[str],
    status: int,
) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _: disk)

    found = await patient.ask("--api-url", sim.api_url)

    assert ([one["level"] for one in found["space"]], patient.status) == (levels, status)


MOUNTS = r"""
/dev/sda1 / ext4 rw 0 0
tmpfs /tmp tmpfs rw 0 0
server:/x /mnt/share nfs4 rw 0 0
//host/y /mnt/my\040disk cifs rw 0 0
me@h:/ /mnt/share/inner fuse.sshfs rw 0 0
/dev/sdb1 /mnt/hidden ext4 rw 0 0
server:/z /mnt/hidden nfs rw 0 0
"""


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("/home/x", Mount("/", "ext4")),
        ("/mnt/share", Mount("/mnt/share", "nfs4")),
        ("/mnt/share/deep/down", Mount("/mnt/share", "nfs4")),
        ("/mnt/shared", Mount("/", "ext4")),
        ("/mnt/share/inner/x", Mount("/mnt/share/inner", "fuse.sshfs")),
        ("/mnt/my disk/x", Mount("/mnt/my disk", "cifs")),
        ("/mnt/hidden", Mount("/mnt/hidden", "nfs")),
    ],
)
def test_the_mount_of_a_folder_is_the_nearest_above_it(
    tmp_path: Path, folder: str, expected: Mount
) -> None:
    table = tmp_path / "mounts"
    table.write_text(MOUNTS)

    assert mount_of(Path(folder), table) == expected


def test_network_file_systems_are_known_by_their_kind(tmp_path: Path) -> None:
    kinds = {kind: Mount("/", kind).is_network for kind in ("nfs4", "cifs", "9p", "ext4", "btrfs")}

    assert kinds == {"nfs4": True, "cifs": True, "9p": True, "ext4": False, "btrfs": False}
    assert mount_of(tmp_path, tmp_path / "gone") is None


@pytest.mark.parametrize(
    ("state", "level"), [(None, "warning"), ("elsewhere", "ok")], ids=["on it", "elsewhere"]
)
async def test_a_manifest_on_a_network_share_is_a_warning(
    sim: Simulator,
    patient: Patient,
    monkeypatch: pytest.MonkeyPatch,
    state: str | None,
    level: str,
) -> None:
    (patient.folder / "share").mkdir()
    (patient.folder / "elsewhere").mkdir()
    table = patient.folder / "mounts"
    table.write_text(f"/dev/sda / ext4 rw 0 0\nx:/ {patient.folder / 'share'} nfs4 rw 0 0\n")
    monkeypatch.setattr("fetcher.checkup.mounts.MOUNTS", table)
    patient.dest = patient.folder / "share/dest"
    more = ["--state-dir", str(patient.folder / state)] if state else []

    found = await patient.ask("--api-url", sim.api_url, *more)

    assert (found["file system"][0]["level"], patient.status) == (level, 0)
    assert "nfs4" in found["file system"][0]["found"]


# ---- manifest and lock -------------------------------------------------------------------


def manifest_of(dest: Path) -> Path:
    """Make a manifest of several pages in `dest`; return its file."""
    file = dest / ".fetcher/manifest.db"
    store = Store(file)
    store.put({f"fact {n}": "x" * 500 for n in range(100)})
    store.close()
    return file


def _break_inside(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.seek(file.stat().st_size // 2)
        opened.write(b"\xff" * 8192)


def _drop_a_table(file: Path) -> None:
    with contextlib.closing(sqlite3.connect(file)) as db:
        db.execute("DROP TABLE record")


def _write_a_wrong_type(file: Path) -> None:
    with contextlib.closing(Store(file)) as store:
        store.absorb(
            [Job(JobId("a"), Status.PENDING)],
            Intake(Rules(), originals=False, run_base=0, retry_base=0),
            {},
        )
    with contextlib.closing(sqlite3.connect(file)) as db, db:
        db.execute("UPDATE entry SET attempts = 'x'")


@pytest.mark.parametrize(
    "harm",
    [
        lambda file: file.write_bytes(b""),
        _drop_a_table,
        _write_a_wrong_type,
        lambda file: file.write_bytes(b"no database" * 100),
        lambda file: file.write_bytes(file.read_bytes()[:5000]),
        _break_inside,
    ],
    ids=["empty", "without a table", "of a wrong type", "garbage", "cut", "inside"],
)
async def test_a_damaged_manifest_is_6_and_is_left_as_it_is(
    sim: Simulator, patient: Patient, harm: Callable[[Path], None]
) -> None:
    file = manifest_of(patient.dest)
    harm(file)
    before = file.read_bytes()

    found = await patient.ask("--api-url", sim.api_url)

    assert patient.status == 6
    assert str(file) in found["manifest"][0]["found"]
    assert f"mv '{file}'" in found["manifest"][0]["cure"]
    assert file.read_bytes() == before


async def test_another_process_at_work_is_told_and_no_error(
    sim: Simulator, patient: Patient
) -> None:
    folder = patient.dest / ".fetcher"
    folder.mkdir(parents=True)

    with held([folder], command="watch", wait_s=0):
        found = await patient.ask("--api-url", sim.api_url)

    assert (patient.status, found["in use"][0]["level"]) == (0, "ok")
    assert f"fetcher watch, process {os.getpid()}" in found["in use"][0]["found"]


# ---- limits and terminal -----------------------------------------------------------------


@pytest.mark.parametrize(("most", "level"), [(4096, "ok"), (100, "warning"), (-1, "ok")])
async def test_the_limit_of_open_files_is_compared_with_what_a_run_needs(
    sim: Simulator, patient: Patient, monkeypatch: pytest.MonkeyPatch, most: int, level: str
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (most, most))

    found = await patient.ask("--api-url", sim.api_url, "-j", "16", "-x", "4")

    assert (patient.status, found["open files"][0]["level"]) == (0, level)


class Odd(TextIOWrapper):
    """A stream in an encoding that is no UTF-8."""

    def getvalue(self) -> str:
        self.flush()
        self.seek(0)
        return self.read()


async def test_an_encoding_without_arabic_is_a_warning(sim: Simulator, patient: Patient) -> None:
    import io

    out = Odd(io.BytesIO(), encoding="latin-1", errors="backslashreplace")
    await asyncio.to_thread(patient.see, "--api-url", sim.api_url, out=out)

    assert patient.status == 0
    assert "warning  terminal" in out.getvalue()


@pytest.mark.parametrize("columns", [20, 60, 120])
@pytest.mark.parametrize("colour", [True, False])
def test_lines_fit_a_terminal_of_any_width(
    patient: Patient, monkeypatch: pytest.MonkeyPatch, columns: int, colour: bool
) -> None:
    class Terminal(StringIO):
        encoding = "utf-8"

        def isatty(self) -> bool:
            return True

        def fileno(self) -> int:
            return 1

    monkeypatch.setattr(os, "get_terminal_size", lambda _: os.terminal_size((columns, 24)))
    if not colour:
        patient.environ["NO_COLOR"] = "1"
    out = Terminal()

    patient.see("--api-url", f"http://127.0.0.1:{closed_port()}", "-d", "x", out=out)

    text = out.getvalue()
    assert ("\x1b[31mproblem" in text) == colour
    if columns == 120:
        plain = text.replace("\x1b[32m", "").replace("\x1b[31m", "").replace("\x1b[0m", "")
        assert max(len(line) for line in plain.splitlines()) <= columns


# ---- what breaks -------------------------------------------------------------------------


async def test_a_fault_in_one_check_keeps_no_other_from_being_tried(
    sim: Simulator, patient: Patient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Path) -> bool:
        raise ZeroDivisionError(KEY)

    monkeypatch.setattr("fetcher.manifest.schema.exists", fail)

    found = await patient.ask("--api-url", sim.api_url)

    assert patient.status == 70
    assert "a fault in fetcher itself (ZeroDivisionError)" in found["manifest"][0]["found"]
    assert {"in use", "open files", "terminal"} <= set(found)


def test_a_call_that_hangs_is_given_up() -> None:
    with pytest.raises(TimeoutError):
        within(0.01, lambda: time.sleep(0.2))


def test_a_call_s_result_and_its_error_come_through() -> None:
    def fail() -> int:
        raise KeyError("x")

    assert within(5, lambda: 3) == 3
    with pytest.raises(KeyError):
        within(5, fail)
