"""One aiohttp session: one GET to one address, and what goes wrong with it in our words.

Owns connections, their timeouts and the translation of aiohttp's errors. Follows no redirect,
knows no key, never retries.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import aiohttp
from yarl import URL

from fetcher.errors import ConnectionFailedError
from fetcher.network.certificates import trusted
from fetcher.network.pool import Pool
from fetcher.network.proxies import proxy_for
from fetcher.network.resolver import Resolver
from fetcher.network.stream import watch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fetcher.core.address import Address

_KEEPALIVE_S = 30.0
_READ_BUFFER_BYTES = 1024 * 1024  # what aiohttp may hold before it slows the sender down
_LONGEST_FIELD_BYTES = 64 * 1024  # a Location carries a signed link; aiohttp takes 8,190


class Session:
    """Sends one GET to one address, and translates what goes wrong.

    `timeout_s` limits connecting and each silence; `connections` is how many may be open
    at once (0: any number); `decode` undoes Content-Encoding; `confidential` is what no
    proxy beyond this machine may read.
    """

    def __init__(
        self, *, timeout_s: float, agent: str, connections: int, decode: bool, confidential: bool
    ) -> None:
        self._timeout_s = timeout_s
        self._agent = agent
        self._connections = connections
        self._decode = decode
        self._confidential = confidential
        self._usual = self._timeout(timeout_s)
        self._session: aiohttp.ClientSession | None = None
        self._proxies: dict[str, URL | None] = {}

    async def open(self) -> None:
        """Make the session; connects to nothing."""
        self._session = aiohttp.ClientSession(
            connector=Pool(
                limit=self._connections,
                keepalive_timeout=_KEEPALIVE_S,
                ttl_dns_cache=60,
                resolver=Resolver(),
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": self._agent},
            auto_decompress=self._decode,
            read_bufsize=_READ_BUFFER_BYTES,
            max_line_size=_LONGEST_FIELD_BYTES,
            max_field_size=_LONGEST_FIELD_BYTES,
        )

    async def close(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def get(
        self, address: Address, headers: Mapping[str, str], *, gap_s: float | None = None
    ) -> aiohttp.ClientResponse:
        """Return the response to one GET, its body still to come; redirects are answers too.

        Raises ConnectionFailedError.
        """
        if self._session is None:
            raise RuntimeError("the session is used outside of its `async with`")
        proxy = self._proxy(address)
        is_encrypted = address.scheme == "https" or (proxy is not None and proxy.scheme == "https")
        try:
            response = await self._session.get(
                _url(address),
                headers={**headers, **_basic(address)},
                allow_redirects=False,
                proxy=proxy,
                ssl=trusted() if is_encrypted else True,
                timeout=self._usual if gap_s is None else self._timeout(gap_s),
            )
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise _failure(error, address, self._timeout_s) from error
        watch(response)
        return response

    def _timeout(self, gap_s: float) -> aiohttp.ClientTimeout:
        """Return a limit for each phase, and none for the whole."""
        return aiohttp.ClientTimeout(
            total=None, connect=self._timeout_s, sock_connect=self._timeout_s, sock_read=gap_s
        )

    def _proxy(self, address: Address) -> URL | None:
        """Return the proxy that the environment names for this origin, asked once.

        aiohttp's `trust_env` asks in a thread for every request, and sends what `.netrc`
        holds to any host.
        """
        if address.origin not in self._proxies:
            self._proxies[address.origin] = _proxy_url(address, confidential=self._confidential)
        return self._proxies[address.origin]


def _url(address: Address) -> URL:
    """Return the address for aiohttp, its target untouched."""
    url = URL(f"{address.origin}{address.target}", encoded=True)
    if url.raw_path_qs == address.target:
        return url
    # taken apart, a query such as a lone `?` is lost; as a part of the path it is not
    return URL.build(
        scheme=address.scheme, authority=address.authority, path=address.target, encoded=True
    )


def _proxy_url(address: Address, *, confidential: bool) -> URL | None:
    """Return the URL of an address's proxy, which may hold a password, None where it has none.

    Raises ConnectionFailedError.
    """
    try:
        proxy = proxy_for(address, confidential=confidential)
    except ValueError as error:
        name = f"{address.scheme.upper()}_PROXY"
        raise ConnectionFailedError(f"the proxy of {name} is {error}", permanent=True) from None
    if proxy is None:
        return None
    user, password = proxy.credentials() or (None, None)
    return URL(proxy.origin).with_user(user).with_password(password)


def _basic(address: Address) -> dict[str, str]:
    """Return the header for credentials in the URL, as curl sends them (RFC 7617)."""
    credentials = address.credentials()
    if credentials is None:
        return {}
    return {"Authorization": aiohttp.encode_basic_auth(*credentials, encoding="utf-8")}


def _failure(error: Exception, address: Address, timeout_s: float) -> ConnectionFailedError:
    """Return our error for a request that got no answer."""
    where = address.authority
    match error:
        case aiohttp.ClientConnectorCertificateError():
            reason = getattr(error.certificate_error, "verify_message", "") or "not valid"
            whose = where if error.host == address.host else f"the proxy {error.host}"
            message = f"the certificate of {whose} is not trusted: {reason}"
            return ConnectionFailedError(message, permanent=True)
        case aiohttp.ClientConnectorDNSError():
            message = f"the name {address.host} is not found"
        case aiohttp.ClientHttpProxyError():
            message = f"the proxy answered {error.status} to a request for {where}"
        case aiohttp.ClientProxyConnectionError():
            message = f"the proxy for {where} cannot be reached"
        case aiohttp.ClientConnectorSSLError():
            message = f"TLS with {where} failed"
        case TimeoutError():
            message = f"no answer from {where} within {timeout_s:g} s"
        case aiohttp.ServerDisconnectedError():
            message = f"{where} closed the connection without an answer"
        case aiohttp.ClientResponseError():
            message = f"{where} sent an answer that is malformed or no HTTP"
        case OSError(errno=int(number)):
            message = f"the connection to {where} failed: {os.strerror(number)}"
        case _:
            message = f"the connection to {where} failed"
    return ConnectionFailedError(message)
