"""What settings may point fetcher at: the API's address, a ping address, a command.

Owns the rules for them: no key over plain http except to this machine, no credentials in an
address, a command that can be split without a shell. Pure: nothing is called or looked up.
The parsers raise ValueError worded to follow the refused value, as those of `values` do.
"""

from __future__ import annotations

import re
from urllib.parse import SplitResult, urlsplit

from fetcher.configuration.values import nearest, parse_text, parse_words

# The words that a command of --exec may hold in braces; each is also passed in the
# environment as FETCHER_ and the word in capitals.
EXEC_PLACEHOLDERS = (
    "path",
    "relative_path",
    "dest",
    "id",
    "short_id",
    "file_name",
    "stem",
    "ext",
    "variant",
    "bytes",
    "sha256",
    "source_type",
    "audio_format",
    "audio_duration",
    "audio_size",
    "user_id",
    "transaction_id",
    "created_at",
    "updated_at",
)
# What --exec-after is told of the run, in the environment as above, with `dest`.
RUN_FACTS = (
    "records",
    "downloaded",
    "adopted",
    "already",
    "failed",
    "pending",
    "rejected",
    "filtered",
    "invalid",
    "bytes",
    "bytes_fetched",
    "seconds",
    "exit_code",
)

# `${name}` is a shell's, for commands such as sh -c '...'.
_PLACEHOLDER = re.compile(r"(?<!\$)\{([a-z_][a-z0-9_]*)\}", re.IGNORECASE)


def _split_url(value: object) -> SplitResult:
    text = parse_text(value).strip()
    if re.search(r"[\x00-\x20\x7f\\]", text):
        raise ValueError("is no address: it holds a space, a backslash or a control character")
    try:
        parts = urlsplit(text)
        _ = parts.port  # a malformed port shows only when it is asked for
    except ValueError:
        raise ValueError("is no address: write one such as https://host.example/path") from None
    if parts.scheme.lower() not in ("http", "https") or not parts.hostname:
        raise ValueError("is no address: write one that begins with https:// and names a host")
    return parts


def is_loopback(host: str) -> bool:
    """Return whether `host` is this machine: 127.0.0.0/8, ::1 or `localhost`."""
    from ipaddress import ip_address  # noqa: PLC0415 - only an http address pays for it

    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def parse_api_url(value: object) -> str:
    """Return the API's base URL without a final slash.

    Raises ValueError for what is no http(s) URL, has a user, a query or a fragment, or is
    plain http to another machine (the key would travel in the clear, contract 5.6).
    """
    parts = _split_url(value)
    if "@" in parts.netloc:
        raise ValueError("holds a user name: write the address alone, the key goes elsewhere")
    if parts.query or parts.fragment:
        raise ValueError("has a query or a fragment: write the base address alone")
    if parts.scheme.lower() == "http" and not is_loopback(parts.hostname or ""):
        raise ValueError("would send the key in the clear: write https:// instead of http://")
    return f"{parts.scheme.lower()}://{parts.netloc}{parts.path.rstrip('/')}"


def parse_ping_url(value: object) -> str:
    """Return an http(s) address as it is written. Raises ValueError."""
    _split_url(value)
    return str(value).strip()


def split_command(text: str) -> list[str]:
    """Return the words of a command as a POSIX shell would split them, without running one.

    Raises ValueError where a quotation does not end or nothing is there.
    """
    import shlex  # noqa: PLC0415 - only where a command is set

    try:
        words = shlex.split(text)
    except ValueError:
        raise ValueError("has a quotation or an escape that does not end") from None
    if not words or not words[0]:
        raise ValueError("names no program to run")
    return words


def parse_run_command(value: object) -> str:
    """Return a command that can be split. Raises ValueError."""
    text = parse_words(value)
    split_command(text)
    return text


def parse_file_command(value: object) -> str:
    """Return a command for each file: its `{words}` are among EXEC_PLACEHOLDERS.

    Braces around anything but one word (`{}`, `{print $1}`) or behind a `$` are the
    command's own.
    Raises ValueError.
    """
    text = parse_run_command(value)
    for name in _PLACEHOLDER.findall(text):
        if name not in EXEC_PLACEHOLDERS:
            raise ValueError(
                f"has a placeholder that does not exist, {{{name}}}"
                f"{nearest(name, EXEC_PLACEHOLDERS) or '; there are ' + _all_placeholders()}"
            )
    return text


def _all_placeholders() -> str:
    return " ".join(f"{{{name}}}" for name in EXEC_PLACEHOLDERS)
