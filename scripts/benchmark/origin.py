"""The file host: nginx on loopback, as fast as the machine lets it be, or capped, or with TLS.

Owns its configuration, its life and its log; also makes the audio that it serves.
"""

from __future__ import annotations

import os
import random
import shutil
import socket
import struct
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from benchmark.listing import file_name

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Door = Literal["plain", "tls", "capped", "paced"]

# Of a connection, 0: none. `capped` is issue-sized (a slow host), `paced` slow enough
# that a tool can be killed in the middle of it.
RATES_BYTES_S: dict[Door, int] = {
    "plain": 0,
    "tls": 0,
    "capped": 2 * 2**20,
    "paced": 10 * 2**20,
}
_HEADER_BYTES = 44
_BLOCK_BYTES = 2**20
_READY_S = 10.0

_CONFIGURATION = """
{user}
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 4096; }}
http {{
  log_format bench '$server_port $status $body_bytes_sent';
  access_log {folder}/access.log bench;
  client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
  types {{ audio/wav wav; }}
  root {files};
  autoindex on;
  sendfile on;
  tcp_nopush on;
  keepalive_requests 1000000;
  open_file_cache max=5000;
  ssl_certificate {folder}/host.pem;
  ssl_certificate_key {folder}/host.key;
  ssl_session_cache shared:bench:1m;
  {servers}
}}
"""


@dataclass(frozen=True, slots=True)
class Origin:
    """A running nginx: its ports, its certificate's authority, and what it has sent."""

    ports: dict[Door, int]
    authority: Path
    log: Path

    def url(self, door: Door, folder: str, port: int | None = None) -> str:
        """Return the address of a folder of files; `port` of a relay in front of the door."""
        scheme = "https" if door == "tls" else "http"
        return f"{scheme}://127.0.0.1:{port or self.ports[door]}/{folder}"

    def sent_bytes(self) -> int:
        """Return the bytes of bodies in all answers that have ended."""
        with self.log.open() as lines:
            return sum(int(line.split()[2]) for line in lines if "\n" in line)


def is_installed() -> bool:
    """Say whether nginx and openssl are there."""
    return _nginx() is not None and shutil.which("openssl") is not None


@contextmanager
def running(folder: Path, files: Path) -> Iterator[Origin]:
    """Serve `files` while it lasts; configuration, certificate and log go to `folder`."""
    nginx = _nginx()
    if nginx is None:
        raise RuntimeError("nginx is not installed")
    authority = _make_certificate(folder)
    ports: dict[Door, int] = {door: _free_port() for door in RATES_BYTES_S}
    configuration = folder / "nginx.conf"
    configuration.write_text(_configuration(folder, files, ports))
    process = subprocess.Popen(
        [nginx, "-p", folder, "-e", folder / "error.log", "-c", configuration],
        stdin=subprocess.DEVNULL,
    )
    try:
        _await_port(ports["plain"], process)
        yield Origin(ports, authority, folder / "access.log")
    finally:
        process.terminate()
        process.wait()


def make_audio(folder: Path, count: int, size_bytes: int) -> None:
    """Write `count` WAV files of exactly `size_bytes`, no two alike."""
    folder.mkdir(parents=True)
    noise = random.Random(size_bytes).randbytes(_BLOCK_BYTES)
    for number in range(count):
        body_bytes = size_bytes - _HEADER_BYTES
        with (folder / file_name(number)).open("wb") as file:
            file.write(_wav_header(body_bytes) + number.to_bytes(16, "big"))
            left = body_bytes - 16
            while left > 0:
                left -= file.write(noise[:left])


def _wav_header(body_bytes: int) -> bytes:
    """Return the header of 48 kHz, 16 bit, stereo."""
    form = struct.pack("<HHIIHH", 1, 2, 48_000, 192_000, 4, 16)
    riff = struct.pack("<4sI4s", b"RIFF", body_bytes + 36, b"WAVE")
    return riff + struct.pack("<4sI", b"fmt ", 16) + form + struct.pack("<4sI", b"data", body_bytes)


def _configuration(folder: Path, files: Path, ports: dict[Door, int]) -> str:
    servers = "\n  ".join(
        f"server {{ listen 127.0.0.1:{port}{' ssl' if door == 'tls' else ''} backlog=1024;"
        f" {_pace(RATES_BYTES_S[door])} }}"
        for door, port in ports.items()
    )
    user = "user root;" if os.geteuid() == 0 else ""  # else its worker could not read `files`
    return _CONFIGURATION.format(folder=folder, files=files, servers=servers, user=user)


def _pace(rate_bytes_s: int) -> str:
    """Return the limit of a door: in small steps, for nginx else sends in bursts of 2 MB."""
    return f"limit_rate {rate_bytes_s}; sendfile_max_chunk 64k;" if rate_bytes_s else ""


def _make_certificate(folder: Path) -> Path:
    """Make an authority and a certificate of 127.0.0.1; return the authority's file."""
    authority, key = folder / "authority.pem", folder / "authority.key"
    request, extensions = folder / "host.csr", folder / "host.ext"
    extensions.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\nbasicConstraints=CA:FALSE\n")
    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    _openssl(
        *("req", "-x509", *new_key, "-days", "30", "-subj", "/CN=bench authority"),
        *("-keyout", str(key), "-out", str(authority)),
    )
    _openssl(
        *("req", *new_key, "-subj", "/CN=127.0.0.1"),
        *("-keyout", str(folder / "host.key"), "-out", str(request)),
    )
    _openssl(
        *("x509", "-req", "-in", str(request), "-CA", str(authority), "-CAkey", str(key)),
        *("-CAcreateserial", "-days", "30", "-extfile", str(extensions)),
        *("-out", str(folder / "host.pem")),
    )
    return authority


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


def _nginx() -> str | None:
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _await_port(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _READY_S
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise RuntimeError("nginx did not start; its error.log says why")
