"""The certificates that https servers are judged by, loaded when the first one is asked.

aiohttp loads the system's twice as it is imported, whether they are needed or not: 60-80 ms
of CPU, a sixth of what it takes to start.
"""

from __future__ import annotations

import os
import ssl
from functools import cache

_WHERE = "SSL_CERT_FILE"  # where OpenSSL looks for the file (SSL_CTX_load_verify_locations(3))


def import_without() -> None:
    """Import aiohttp so that it loads none for contexts of its own.

    Only for a process that makes all its requests through `Session`: aiohttp's contexts
    trust nobody afterwards.
    """
    before = os.environ.get(_WHERE)
    os.environ[_WHERE] = os.devnull
    try:
        import aiohttp  # noqa: F401, PLC0415 - imported for those who import it later
    finally:
        if before is None:
            del os.environ[_WHERE]
        else:
            os.environ[_WHERE] = before


@cache
def trusted() -> ssl.SSLContext:
    """Return the context of all https connections: the system's certificates, HTTP/1.1."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context
