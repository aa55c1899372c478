"""The command lines: what a person would type to have the same files at home.

Owns how each tool is told the work, and which of them are installed.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.measure import Command

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

FETCHER = "fetcher"
PROGRAM = Path(sys.executable).with_name(FETCHER)


@dataclass(frozen=True, slots=True)
class Remote:
    """A file of the host: where it is, and the name it gets at home."""

    url: str
    name: str


@dataclass(frozen=True, slots=True)
class Work:
    """Files to bring home to `dest`, `jobs` at a time.

    `connections`: so many for one file, where a tool can; None: its default. `api_url` lists
    them for fetcher. `authority`: the certificate to trust. `scratch` takes lists and
    settings. `again`: an earlier run was cut short, go on from there.
    """

    files: Sequence[Remote]
    api_url: str
    dest: Path
    jobs: int
    scratch: Path
    connections: int | None = None
    authority: Path | None = None
    again: bool = False

    def write(self, name: str, lines: Iterable[str]) -> str:
        """Write a list or settings for a tool; return the file's path."""
        path = self.scratch / name
        path.write_text("".join(f"{line}\n" for line in lines))
        return str(path)


def fetcher(work: Work) -> Command:
    """Return fetcher's command."""
    argv = [*fetcher_argv("backfill", work.api_url, work.dest), "-j", str(work.jobs), "-q"]
    if work.connections is not None:
        argv += ["-x", str(work.connections)]
    environ = fetcher_environ()
    if work.authority is not None:
        environ["SSL_CERT_FILE"] = str(work.authority)
    return Command(argv, environ)


def fetcher_argv(command: str, api_url: str, dest: Path) -> list[str]:
    """Return the beginning of a fetcher command line."""
    return [str(PROGRAM), command, "--api-url", api_url, "-d", str(dest), "--progress", "off"]


def fetcher_environ() -> dict[str, str]:
    """Return what fetcher's environment needs."""
    return {"MUNSIT_API_KEY": "bench"}


def aria2c(work: Work) -> Command:
    """Return aria2c's command; `-k 1M` lets it use several connections for 20 MB."""
    lines = (line for file in work.files for line in (file.url, f"  out={file.name}"))
    argv = ["aria2c", "--no-conf", "-q", "-c", "-i", work.write("aria2.urls", lines)]
    argv += ["-d", str(work.dest), "-j", str(work.jobs), "--auto-file-renaming=false"]
    if work.connections is not None:
        argv += ["-x", str(work.connections), "-s", str(work.connections), "-k", "1M"]
    if work.authority is not None:
        argv.append(f"--ca-certificate={work.authority}")
    return Command(argv)


def rclone(work: Work) -> Command:
    """Return rclone's command: a folder of an HTTP server, the wanted names from a list."""
    names = work.write("rclone.names", (file.name for file in work.files))
    base_url = work.files[0].url.removesuffix(work.files[0].name)
    argv = ["rclone", "copy", ":http:", str(work.dest), "--http-url", base_url]
    argv += ["--files-from", names, "--config", "", "-q"]
    argv += ["--transfers", str(work.jobs), "--checkers", str(work.jobs)]
    if work.authority is not None:
        argv += ["--ca-cert", str(work.authority)]
    return Command(argv)


def curl(work: Work) -> Command:
    """Return curl's command: all addresses in one file of settings, in parallel."""
    lines = (f'url = "{file.url}"\noutput = "{work.dest / file.name}"' for file in work.files)
    argv = ["curl", "-q", "-sS", "--fail", "-Z", "--parallel-max", str(work.jobs)]
    argv += ["--create-dirs", "-K", work.write("curl.conf", lines)]
    if work.authority is not None:
        argv += ["--cacert", str(work.authority)]
    return Command(argv)


def wget2(work: Work) -> Command:
    """Return wget2's command."""
    urls = work.write("wget2.urls", (file.url for file in work.files))
    argv = ["wget2", "--no-config", "-q", "-i", urls]
    argv += ["-P", str(work.dest), f"--max-threads={work.jobs}"]
    if work.again:
        argv.append("-c")
    if work.authority is not None:
        argv.append(f"--ca-certificate={work.authority}")
    return Command(argv)


TOOLS: dict[str, Callable[[Work], Command]] = {
    FETCHER: fetcher,
    "curl": curl,
    "aria2c": aria2c,
    "rclone": rclone,
    "wget2": wget2,
}


def installed() -> list[str]:
    """Return the names of the tools that this machine has, fetcher first."""
    return [name for name in TOOLS if name == FETCHER or shutil.which(name)]
