"""Which errors may be gone at a second attempt: those of a network or of a server that is busy, and no others.

The libraries of object stores and servers (aiohttp, botocore, requests, httpx, google) raise errors of their own, which
are recognised by name and HTTP status: none of these libraries is imported here.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator

RETRY_AFTER_S = (2.0, 8.0, 30.0)
"""Waiting time before each further attempt at a slide; after the last one the slide fails."""

_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
"""HTTP: time-out, too many requests, and errors of the server."""

_ERRNO = frozenset(
    {
        errno.ECONNRESET,
        errno.ECONNABORTED,
        errno.ECONNREFUSED,
        errno.EHOSTUNREACH,
        errno.EHOSTDOWN,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENETRESET,
        errno.EPIPE,
        errno.ESTALE,
        errno.ETIMEDOUT,
    }
)
"""Of connections, and of a network drive whose server was restarted."""

_NETWORK_LIBRARIES = frozenset(
    {"aiobotocore", "aiohttp", "azure", "botocore", "google", "httpcore", "httpx", "openai", "requests", "urllib3"}
)
_NAMES = re.compile(
    r"Timeout|TimedOut|Connect(ion)?(or)?(Closed|Reset)?Error|ServerDisconnected|ClientOSError|ClientPayload"
    r"|EndpointConnection|IncompleteRead|ProtocolError|ReadError|WriteError|ChunkedEncoding|TooManyRequests"
    r"|ServiceUnavailable|InternalServerError|RateLimit|SlowDown|Throttl"
)
_CODES = frozenset({"InternalError", "RequestTimeout", "ServiceUnavailable", "SlowDown", "Throttling"})
"""Codes in the answers of S3."""


def is_transient(error: BaseException) -> bool:
    """Whether the error, or one that it was caused by, is one of the network or of a busy server.

    >>> is_transient(ConnectionResetError("reset by peer")), is_transient(FileNotFoundError("a.svs"))
    (True, False)
    """
    return any(_is_of_network(cause) for cause in _causes(error))


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__ or found.__context__


def _is_of_network(error: BaseException) -> bool:
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    if isinstance(error, OSError) and error.errno in _ERRNO:
        return True
    kind = type(error)
    if kind.__module__.partition(".")[0] not in _NETWORK_LIBRARIES:
        return False
    status = _status(error)
    return status in _STATUS if status is not None else _NAMES.search(kind.__name__) is not None


def _status(error: BaseException) -> int | None:
    """HTTP status of an answer; None if there was no answer."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore
        record = response.get("Error", {})
        if isinstance(record, dict) and str(record.get("Code")) in _CODES:
            return 503
        response = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    for value in (response, *(getattr(where, "status_code", None) for where in (error, response))):
        if isinstance(value, int):
            return value
    for name in ("status", "code"):
        value = getattr(error, name, None)
        if isinstance(value, int):
            return value
    return None
