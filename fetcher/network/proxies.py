"""Which proxy of the environment a request goes through, if any.

Owns `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY`, and what a key may be shown to on the way.
Sends nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.request import getproxies, proxy_bypass

from fetcher.core.address import parse_url

if TYPE_CHECKING:
    from fetcher.core.address import Address


def proxy_for(address: Address, *, confidential: bool) -> Address | None:
    """Return the proxy that the environment names for this origin, None where there is none.

    Over plain http a proxy reads everything, and whoever is on the way to it: what is
    `confidential` goes so through one on this machine only (contract 5.6). Raises
    ValueError, with a reason that does not repeat the URL, for one that is none.
    """
    found = getproxies().get(address.scheme)
    if found is None or proxy_bypass(address.authority):
        return None
    proxy = parse_url(found if "://" in found else f"http://{found}")
    is_readable = address.scheme == "http" and not proxy.loopback
    return None if confidential and is_readable else proxy
