"""Where a URL leads: its origin, and the request target byte for byte as it was given.

Pure. Owns the reading of foreign URLs and of `Location`; nothing here re-encodes,
normalises or sorts what a signature may cover. Connects to nothing.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import ip_address
from urllib.parse import unquote, urljoin

from fetcher.frozen import frozen

_PORTS = {"http": 80, "https": 443}
_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*):(?://(?P<authority>[^/?#]*))?(?P<rest>.*)")
_AUTHORITY = re.compile(
    r"(?:(?P<user>.*)@)?(?P<host>\[[0-9A-Fa-f:.]+\]|[^\[\]:@]+)(?::(?P<port>[0-9]{0,5}))?"
)
_HOST = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=-]+|\[[0-9A-Fa-f:.]+\]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_RAW_BYTE = re.compile("[\udc80-\udcff]")  # how a header's undecodable bytes arrive


@frozen
class Address:
    """One http or https URL, taken apart.

    `host` is ASCII, lower-case, IPv6 in brackets. `target` is what stands in the request
    line: path and query, never the fragment. `user` is the part before `@`, None where
    there is none.
    """

    scheme: str
    host: str
    port: int
    target: str
    user: str | None = None

    @property
    def authority(self) -> str:
        """Return host and port, the port only where it is not the scheme's own."""
        return _authority(self.scheme, self.host, self.port)

    @property
    def origin(self) -> str:
        """Return scheme, host and port: what a key or a gate belongs to (RFC 6454 §4)."""
        return f"{self.scheme}://{self.authority}"

    @property
    def bare(self) -> str:
        """Return the URL without user and query: what may stand in a message."""
        return f"{self.origin}{self.target.partition('?')[0]}"

    @property
    def loopback(self) -> bool:
        """Return whether the host is this machine, by its address or by name (RFC 6761)."""
        if self.host == "localhost" or self.host.endswith(".localhost"):
            return True
        try:
            return ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return False

    def credentials(self) -> tuple[str, str] | None:
        """Return user and password that the URL carries, decoded, as curl sends them."""
        if self.user is None:
            return None
        name, _, password = self.user.partition(":")
        return unquote(name), unquote(password)


@lru_cache(maxsize=64)  # a million links lead to a few hosts
def _authority(scheme: str, host: str, port: int) -> str:
    return host if port == _PORTS[scheme] else f"{host}:{port}"


def parse_url(text: str) -> Address:
    """Return where an absolute http or https URL leads.

    The target keeps every byte, `%2f`, `+`, `//`, `..` and a lone `?` included. A space,
    which no request line can carry (RFC 9112 §3.2), becomes `%20`, and a byte that was no
    UTF-8 its escape; a host that is not ASCII is written as DNS knows it (IDNA).
    Raises ValueError, with a reason that does not repeat the URL, where it is no such URL.
    """
    match = _URL.fullmatch(text)
    if match is None or _CONTROL.search(text):
        raise ValueError("not an absolute URL")
    scheme = match["scheme"].lower()
    if scheme not in _PORTS:
        raise ValueError(f"neither http nor https, but {scheme[:20]}")
    place = _AUTHORITY.fullmatch(match["authority"] or "")
    if place is None:
        raise ValueError("a URL without a usable host")
    port = int(place["port"]) if place["port"] else _PORTS[scheme]
    if not 0 < port < 65_536:
        raise ValueError("a URL with an impossible port")
    return Address(scheme, _ascii(place["host"]), port, _target(match["rest"]), place["user"])


def follow(address: Address, location: str) -> Address:
    """Return where a redirect from `address` leads (RFC 9110 §10.2.2).

    A relative reference is resolved (RFC 3986 §5.2), an absolute one is kept byte for
    byte. Credentials stay within their origin. Raises ValueError as `parse_url` does.
    """
    location = location.strip(" \t")
    if _URL.fullmatch(location):
        absolute = location
    elif location.startswith("//"):
        absolute = f"{address.scheme}:{location}"
    elif location.startswith("/"):
        absolute = f"{address.origin}{location}"
    else:
        absolute = urljoin(f"{address.origin}{address.target}", location)
    new = parse_url(absolute)
    if new.user is None and new.origin == address.origin and address.user is not None:
        return Address(new.scheme, new.host, new.port, new.target, address.user)
    return new


def _ascii(host: str) -> str:
    """Return the host in ASCII and lower case."""
    if not host.isascii():
        try:
            host = host.encode("idna").decode("ascii")
        except UnicodeError:
            raise ValueError("a URL whose host is no name") from None
    if not _HOST.fullmatch(host):
        raise ValueError("a URL whose host is no name")
    return host.lower()


def _target(rest: str) -> str:
    """Return the request target of what follows the authority."""
    target = rest.partition("#")[0].replace(" ", "%20")
    target = _RAW_BYTE.sub(lambda byte: f"%{ord(byte[0]) - 0xDC00:02X}", target)
    return target if target.startswith("/") else f"/{target}"
