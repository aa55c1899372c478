"""The way to the API below HTTP: proxy, name, connection, TLS, each timed.

Sends nothing but a TLS handshake, so no key and no request can go astray here.
"""

from __future__ import annotations

import os
import socket
import ssl
import time
from contextlib import closing
from typing import TYPE_CHECKING

from fetcher.checkup.findings import Finding, good, problem
from fetcher.checkup.patience import within
from fetcher.core.address import Address, parse_url
from fetcher.errors import ApiError
from fetcher.network.proxies import proxy_for

if TYPE_CHECKING:
    from collections.abc import Generator

_API = ApiError.exit_code
_SHOWN_ADDRESSES = 3

# What getaddrinfo gives of an address: its family and what connect takes.
Place = tuple[int, tuple[object, ...]]


def travel(api_url: str, limit_s: float) -> Generator[Finding, None, bool]:
    """Yield how far one gets toward the API; return whether HTTP can be tried.

    `limit_s` bounds each step. With a proxy in the environment the way leads there, and the
    rest is the proxy's matter.
    """
    first_hop = yield from _first_hop(parse_url(api_url))
    if first_hop is None:
        return False
    places = yield from _look_up(first_hop, limit_s)
    if not places:
        return False
    connection = yield from _connect(first_hop, places, limit_s)
    if connection is None:
        return False
    with closing(connection):
        if first_hop.scheme == "https":
            return (yield from _shake_hands(first_hop, connection))
    return True


def _first_hop(api: Address) -> Generator[Finding, None, Address | None]:
    """Yield which proxy is in use, if any; return where to connect to, None for nowhere."""
    try:
        hop = proxy_for(api, confidential=True)
    except ValueError as error:
        name = f"{api.scheme.upper()}_PROXY"
        cure = f"set {name} to http://HOST:PORT, or unset it"
        yield problem("proxy", f"{name} is {error}", cure, _API)
        return None
    if hop is None:
        return api
    yield good("proxy", f"{api.authority} is reached through {hop.origin}")
    return hop


def _look_up(hop: Address, limit_s: float) -> Generator[Finding, None, list[Place]]:
    host = hop.host.strip("[]")
    began_s = time.monotonic()
    try:
        found = within(limit_s, lambda: socket.getaddrinfo(host, hop.port, type=socket.SOCK_STREAM))
    except (OSError, UnicodeError) as error:  # TimeoutError is an OSError
        why = f"the name {host} is not found: {getattr(error, 'strerror', None) or error}"
        cure = "is this machine online? is the name right (--api-url, HTTPS_PROXY)?"
        yield problem("name", why, cure, _API)
        return []
    places: list[Place] = [(family, where) for family, _, _, _, where in found]
    numbers = list(dict.fromkeys(str(where[0]) for _, where in places))
    if numbers == [host]:
        yield good("name", f"{host} is an address already")
        return places
    more = len(numbers) - _SHOWN_ADDRESSES
    shown = ", ".join(numbers[:_SHOWN_ADDRESSES]) + (f" and {more} more" if more > 0 else "")
    yield good("name", f"{host} is {shown} ({_since(began_s)})")
    return places


def _connect(
    hop: Address, places: list[Place], limit_s: float
) -> Generator[Finding, None, socket.socket | None]:
    began_s = time.monotonic()
    why = ""
    for family, where in places:
        left_s = began_s + limit_s - time.monotonic()
        if left_s <= 0:
            break
        connection = socket.socket(family, socket.SOCK_STREAM)
        connection.settimeout(left_s)
        try:
            connection.connect(where)
        except OSError as error:
            connection.close()
            why = error.strerror or "no answer"
            continue
        connection.settimeout(limit_s)
        yield good("connection", f"{hop.authority} takes connections ({_since(began_s)})")
        return connection
    cure = "is the address right (--api-url, HTTPS_PROXY)? does a firewall stand between?"
    yield problem("connection", f"{hop.authority} cannot be reached: {why}", cure, _API)
    return None


def _shake_hands(hop: Address, connection: socket.socket) -> Generator[Finding, None, bool]:
    began_s = time.monotonic()
    try:
        context = ssl.create_default_context()
        with context.wrap_socket(connection, server_hostname=hop.host.strip("[]")) as encrypted:
            how = encrypted.version()
    except ssl.SSLCertVerificationError as error:
        named = f"SSL_CERT_FILE is {os.environ['SSL_CERT_FILE']}; " if _has_own_trust() else ""
        cure = (
            f"{named}where a company's proxy or an own authority signs certificates, set "
            "SSL_CERT_FILE to a file that holds its certificate; also check this machine's clock"
        )
        why = f"the certificate of {hop.authority} is not trusted: {error.verify_message}"
        yield problem("TLS", why, cure, _API)
        return False
    except OSError as error:  # ssl.SSLError and TimeoutError are OSErrors
        why = getattr(error, "reason", None) or error.strerror or str(error)
        cure = "does that port speak https? does a proxy or firewall stand between?"
        yield problem("TLS", f"TLS with {hop.authority} failed: {why}", cure, _API)
        return False
    yield good("TLS", f"{how}, its certificate is trusted ({_since(began_s)})")
    return True


def _has_own_trust() -> bool:
    return bool(os.environ.get("SSL_CERT_FILE"))


def _since(began_s: float) -> str:
    return f"{(time.monotonic() - began_s) * 1000:.0f} ms"
