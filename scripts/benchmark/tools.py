"""The command lines: what a person would type to have the same files at home.

Owns how each tool is told the work, and which of them are installed.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.listing import file_name
from benchmark.measure import Command

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

FETCHER = "fetcher"
PROGRAM = Path(sys.executable).with_name(FETCHER)


@dataclass(frozen=True, slots=True)
class Work:
    """Files to bring home: `numbers` of them from `base_url` to `dest`, `jobs` at a time.

    `connections`: so many for one file, where a tool can; None: its default. `api_url` lists
    them for fetcher. `authority`: the certificate to trust. `scratch` takes lists and
    settings. `again`: an earlier run was cut short, go on from there.
    """

    numbers: Sequence[int]
    base_url: str
    api_url: str
    dest: Path
    jobs: int
    scratch: Path
    connections: int | None = None
    authority: Path | None = None
    again: bool = False

    def write_urls(self, name: str) -> Path:
        """Write the addresses, one a line, and return the file."""
        path = self.scratch / name
        lines = (f"{self.base_url}/{file_name(number)}\n" for number in self.numbers)
        path.write_text("".join(lines))
        return path


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
    argv = ["aria2c", "--no-conf", "-q", "-c", "-i", str(work.write_urls("aria2.urls"))]
    argv += ["-d", str(work.dest), "-j", str(work.jobs), "--auto-file-renaming=false"]
    if work.connections is not None:
        argv += ["-x", str(work.connections), "-s", str(work.connections), "-k", "1M"]
    if work.authority is not None:
        argv.append(f"--ca-certificate={work.authority}")
    return Command(argv)


def rclone(work: Work) -> Command:
    """Return rclone's command: a folder of an HTTP server, the wanted names from a list."""
    names = work.scratch / "rclone.names"
    names.write_text("".join(f"{file_name(number)}\n" for number in work.numbers))
    argv = ["rclone", "copy", ":http:", str(work.dest), "--http-url", work.base_url + "/"]
    argv += ["--files-from", str(names), "--config", "", "-q"]
    argv += ["--transfers", str(work.jobs), "--checkers", str(work.jobs)]
    if work.authority is not None:
        argv += ["--ca-cert", str(work.authority)]
    return Command(argv)


def curl(work: Work) -> Command:
    """Return curl's command: all addresses in one file of settings, in parallel."""
    settings = work.scratch / "curl.conf"
    settings.write_text(
        "".join(
            f'url = "{work.base_url}/{file_name(number)}"\n'
            f'output = "{work.dest / file_name(number)}"\n'
            for number in work.numbers
        )
    )
    argv = ["curl", "-q", "-sS", "--fail", "-Z", "--parallel-max", str(work.jobs)]
    argv += ["--create-dirs", "-K", str(settings)]
    if work.authority is not None:
        argv += ["--cacert", str(work.authority)]
    return Command(argv)


def wget2(work: Work) -> Command:
    """Return wget2's command."""
    argv = ["wget2", "--no-config", "-q", "-i", str(work.write_urls("wget2.urls"))]
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
# curl 7.88 in parallel has no way to leave complete files alone.
CAN_GO_ON = frozenset((FETCHER, "aria2c", "rclone", "wget2"))


def installed() -> list[str]:
    """Return the names of the tools that this machine has, fetcher first."""
    return [name for name in TOOLS if name == FETCHER or shutil.which(name)]
