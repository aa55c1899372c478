"""Every option of fetcher, said once: the table behind flags, environment, file, help and man.

Owns names, defaults, help texts and which command an option belongs to; how a value is
written is `kinds` and `values`. Light on purpose (standard library only): `--help`,
`--version` and `status` pay for it.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from fetcher.configuration import kinds
from fetcher.configuration.kinds import Option, number, one_of
from fetcher.configuration.values import show_time
from fetcher.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

DEFAULT_API_URL = "https://api.munsit.com/api/v1"
STATE_FOLDER = ".fetcher"
# The words of `models.State`, whose import alone costs 4 ms of CPU.
STATES = ("waiting", "queued", "partial", "complete", "failed", "rejected", "filtered")
# Chosen with scripts/bench. More files at a time cost memory and win nothing. One file over a
# line of 2 MB/s: 3.6 s with four connections, 2.3 s with eight; they only use idle slots.
DEFAULT_CONCURRENCY = 16
DEFAULT_CONNECTIONS = 8


# ---- the table ---------------------------------------------------------------------------

_OFF, _ON = False, True
_RUN = ("backfill", "watch")
_FETCH = (*_RUN, "verify")
_NET = (*_FETCH, "list", "doctor")


def _group(name: str, commands: tuple[str, ...], *options: Option) -> tuple[Option, ...]:
    return tuple(o._replace(group=name, commands=o.commands or commands) for o in options)


def _own(command: str, *options: Option) -> tuple[Option, ...]:
    return tuple(o._replace(group="This command", commands=(command,), own=True) for o in options)


OPTIONS: tuple[Option, ...] = (
    *_own(
        "list",
        Option("refresh", kinds.SWITCH, _OFF, "poll the API before listing"),
        Option("state", one_of(*STATES), (), "only files in this state", repeatable=True),
        Option(
            "failed",
            kinds.SWITCH,
            _OFF,
            "the jobs that the service failed, by reason",
            flag_only=True,  # FETCHER_FAILED is what --exec-after is told of a run
        ),
        Option("csv", kinds.SWITCH, _OFF, "comma-separated values instead of a table"),
    ),
    *_own(
        "status",
        Option("max-age", kinds.AGE, None, "fail where the last good poll is older: 10m, 1d"),
    ),
    *_own("verify", Option("repair", kinds.SWITCH, _OFF, "download again what is damaged")),
    *_own(
        "export",
        Option(
            "format",
            one_of("json", "jsonl", "csv", "kaldi", "nemo", "audiofolder"),
            "json",
            "how to write the manifest",
        ),
        Option("to", kinds.FOLDER, None, "where the files of kaldi and audiofolder go"),
    ),
    *_own(
        "simulate",
        Option("port", number(0, 65_535), 0, "loopback port; 0 takes a free one"),
        Option(
            "jobs",
            number(0, 1_000_000),
            None,
            "serve so many finished jobs",
            default_text="those of the demo",
        ),
    ),
    *_own(
        "watch",
        Option(
            "until-idle",
            kinds.SWITCH,
            _OFF,
            "exit once no job is pending and nothing is left to download",
        ),
    ),
    *_own(
        "layout",
        Option("check", kinds.TEMPLATE, None, "show where the known jobs would go", flag_only=True),
        Option(
            "apply",
            kinds.SWITCH,
            _OFF,
            "move the files to where TEMPLATE or --output says",
            flag_only=True,
        ),
    ),
    *_own(
        "config",
        Option(
            "init",
            kinds.SWITCH,
            _OFF,
            "write a commented settings file, fetcher.toml or --config FILE",
            flag_only=True,
        ),
    ),
    *_group(
        "What is fetched",
        _RUN,
        Option(
            "since",
            kinds.SINCE,
            None,
            "jobs created then or later: 2025-01-31, 2025-01-31T18:30 or an age such as 7d",
            commands=(*_RUN, "list"),
        ),
        Option(
            "until", kinds.UNTIL, None, "jobs created then or earlier", commands=(*_RUN, "list")
        ),
        Option(
            "match",
            kinds.GLOB,
            (),
            "jobs whose file name matches, such as 'lecture*'",
            repeatable=True,
            commands=(*_RUN, "list"),
        ),
        Option(
            "source-type",
            one_of("audio", "video", absent=("both", "none")),
            None,
            "jobs made from audio or from video",
            default_text="both",
        ),
        Option("max-size", kinds.LIMIT, None, "leave larger files out"),
        Option(
            "max-downloads",
            number(0, 10**9, absent=kinds.NOTHING),
            None,
            "stop after so many downloads",
        ),
        Option("originals", kinds.SWITCH, _OFF, "download the uploaded originals as well"),
        Option("dry-run", kinds.SWITCH, _OFF, "say what would be downloaded and write nothing"),
    ),
    *_group(
        "Where files go",
        (*_NET, "status", "retry", "export", "layout", "demo"),
        Option("dest", kinds.FOLDER, "downloads", "where files go", short="d"),
        Option(
            "state-dir",
            kinds.FOLDER,
            None,
            "manifest, partial files and lock; elsewhere where DEST is a network share",
            default_text="DEST/.fetcher",
        ),
        Option(
            "output",
            kinds.TEMPLATE,
            "{stem}/{stem}.{short_id}{ext}",
            "path of a file under DEST",
            short="o",
            commands=(*_FETCH, "layout"),
        ),
        Option("write-record", kinds.SWITCH, _OFF, "write the record as JSON too", commands=_RUN),
        Option(
            "min-free", kinds.SIZE, 256 * 2**20, "never fill the disk below this", commands=_FETCH
        ),
        Option(
            "check-duration",
            one_of("warn", "fail", "off"),
            "warn",
            "compare the length of the audio that came with what the job says",
            commands=_FETCH,
        ),
        Option(
            "wait-lock",
            kinds.DELAY,
            0.0,
            "seconds to wait for another process to release DEST",
            commands=(*_FETCH, "retry", "layout"),
        ),
    ),
    *_group(
        "Account",
        _NET,
        Option(
            "api-key-file",
            kinds.FILE,
            None,
            "file that holds the key, where MUNSIT_API_KEY does not",
        ),
        Option("api-url", kinds.API_URL, DEFAULT_API_URL, "base address of the API"),
        Option("page-size", number(1, 1_000_000), 200, "records in one list request"),
    ),
    *_group(
        "Speed and patience",
        _FETCH,
        Option("concurrency", number(1, 256), DEFAULT_CONCURRENCY, "files at a time", short="j"),
        Option(
            "connections",
            number(1, 16),
            DEFAULT_CONNECTIONS,
            "connections for a large file",
            short="x",
        ),
        Option("limit-rate", kinds.RATE, None, "bytes a second over all downloads: 500K, 2M"),
        Option(
            "retries",
            number(0, 1_000_000),
            5,
            "attempts per request after the first",
            commands=_NET,
        ),
        Option(
            "retry-delay",
            kinds.DELAY,
            1.0,
            "seconds before the second attempt; doubles up to 60",
            commands=_NET,
        ),
        Option(
            "timeout",
            kinds.DURATION,
            30.0,
            "seconds without a byte that end an attempt",
            commands=_NET,
        ),
    ),
    *_group(
        "Watching",
        ("watch",),
        Option("interval", kinds.DURATION, 30.0, "seconds between polls, with jitter"),
        Option(
            "full-every",
            kinds.DELAY,
            86_400.0,
            "seconds between passes over the whole history; also 12h, 1d",
        ),
        Option("live", kinds.SWITCH, _ON, "follow pending jobs as the service processes them"),
    ),
    *_group(
        "Afterwards",
        _RUN,
        Option("exec", kinds.FILE_COMMAND, None, "run after each file, such as 'play {path}'"),
        Option("exec-after", kinds.RUN_COMMAND, None, "run after a run that downloaded something"),
        Option(
            "ping-url",
            kinds.PING_URL,
            None,
            "health check: GET at /start, on success, and at /fail",
        ),
    ),
    *_group(
        "What is shown",
        (),
        Option("json", kinds.SWITCH, _OFF, "one JSON object a line on stdout"),
        Option("quiet", kinds.SWITCH, _OFF, "say only what went wrong", short="q"),
        Option("verbose", kinds.COUNT, 0, "say more; twice: everything", short="v"),
        Option(
            "progress",
            one_of("auto", "on", "off"),
            "auto",
            "progress bars; auto: only on a terminal",
            commands=(*_FETCH, "demo"),
        ),
        Option("log-format", one_of("text", "json"), "text", "how log lines look"),
        Option("log-file", kinds.FILE, None, "write the whole log to this file as well"),
    ),
    *_group(
        "Settings",
        (),
        Option("config", kinds.FILE, None, "settings file to read", default_text="fetcher.toml"),
        Option("profile", kinds.NAME, None, "use [profile.NAME] of the settings file"),
    ),
)

GROUPS = tuple(dict.fromkeys(option.group for option in OPTIONS))
BY_NAME = {option.name: option for option in OPTIONS}
BY_FIELD = {option.field: option for option in OPTIONS}
BY_SHORT = {option.short: option for option in OPTIONS if option.short}


def accepts(command: str, option: Option, *, bare: bool = False) -> bool:
    """Return whether `command` takes an option.

    Every command takes every option that is not another command's own, as the environment
    and the file set them for all alike; a `bare` command takes its own ones only.
    """
    return command in option.commands if option.own else not bare


def accepted_by(command: str, *, bare: bool = False) -> tuple[Option, ...]:
    """Return the options that `command` takes."""
    return tuple(option for option in OPTIONS if accepts(command, option, bare=bare))


def shown_by(command: str, *, bare: bool = False) -> tuple[Option, ...]:
    """Return the options that matter to `command`: what its help and completion show."""
    taken = accepted_by(command, bare=bare)
    return tuple(o for o in taken if not o.commands or command in o.commands)


def check_together(values: Mapping[str, object], place: Callable[[str], str]) -> None:
    """Refuse values that exclude each other.

    `values` by field, all of them read; `place` names where a field's value stands.
    Raises UsageError.
    """
    since, until = values["since"], values["until"]
    if isinstance(since, datetime) and isinstance(until, datetime) and since > until:
        raise UsageError(
            f"{place('since')} ({show_time(since)}) is later than"
            f" {place('until')} ({show_time(until)}): no job can be in between"
        )
    if values["quiet"] and values["verbose"]:
        raise UsageError(f"{place('quiet')} and {place('verbose')} exclude each other: use one")
    if values["state_dir"] == values["dest"]:
        raise UsageError(
            f"{place('state_dir')} is DEST itself: name a folder of its own, or leave it out"
        )
