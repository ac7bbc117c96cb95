"""The viewer's HTTP server: a fixed list of addresses on 127.0.0.1, for those who have its token.

It reads, with one exception: regions that were drawn are saved next to their store.

It uses the threaded server of the standard library: decoding one tile does not block others, and nothing else needs to
be installed.
"""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from wsikit.errors import WsikitError
from wsikit.exporters.report import content_policy
from wsikit.view.access import Access
from wsikit.view.drawing import MAX_BYTES, ChangedError
from wsikit.view.library import Library, Shown

logger = logging.getLogger(__name__)

ADDRESS = "127.0.0.1"
IDLE_S = 30
"""Seconds after which an idle connection is closed."""

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
}
"""Headers of every response: no other page may embed, read or store it."""

JSON = "application/json"
HTML, JPEG, TEXT = "text/html; charset=utf-8", "image/jpeg", "text/plain; charset=utf-8"
SCRIPT = "text/javascript; charset=utf-8"
NO_TOKEN = b"Open the address that wsikit view printed: it ends with the token of this viewer.\n"
Answer = tuple[str, bytes, dict[str, str]]
"""Content type, body, further headers."""


class Viewer:
    """The viewer; use it as a context manager, or call `serve`, which runs until interrupted.

    Parameters
    ----------
    library
        The stores to show.
    port
        0: any free port.

    Raises
    ------
    OSError
        The port is in use.
    """

    def __init__(self, library: Library, port: int = 0) -> None:
        self.library = library
        self._server = _Server((ADDRESS, port), _Handler)
        self.port = int(self._server.server_address[1])
        self.access = Access(ADDRESS, self.port)
        # the port is known only now; no request is handled before `serve`
        self._server.RequestHandlerClass = type("Handler", (_Handler,), {"library": library, "access": self.access})

    @property
    def url(self) -> str:
        """The address to open: it has the token that each request needs."""
        return self.access.address

    def page(self, path: str = "") -> str:
        """Address of a page, such as "slide/a/", for a browser that has opened `url` before."""
        return f"{self.access.origin}{self.access.home}{path}"

    def serve(self) -> None:
        """Serve until interrupted."""
        try:
            self._server.serve_forever()
        finally:
            self._server.server_close()

    def __enter__(self) -> Viewer:
        self._thread = threading.Thread(target=self._server.serve_forever, name="wsikit-view", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        logger.debug("connection from %s was interrupted", client_address, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    """GET and HEAD of the addresses in `_route`; everything else is refused."""

    library: Library
    access: Access
    protocol_version = "HTTP/1.1"
    server_version = "wsikit"
    sys_version = ""
    timeout = IDLE_S

    def do_GET(self) -> None:  # noqa: N802 (the name is http.server's)
        self._answer(body=True)

    def do_HEAD(self) -> None:  # noqa: N802
        self._answer(body=False)

    def _refuse(self) -> None:
        self.close_connection = True  # the body of the request is not read
        self._send(
            HTTPStatus.METHOD_NOT_ALLOWED, TEXT, b"Only drawn regions can be sent.\n", {"Allow": "GET, HEAD"}, body=True
        )

    def do_POST(self) -> None:  # noqa: N802
        """Save regions that were drawn: the only request that writes."""
        path = urlsplit(self.path).path
        match = re.fullmatch(r"slide/([^/]+)/drawing", path.removeprefix(self.access.home))
        if match is None or not path.startswith(self.access.home):
            self._refuse()
            return
        self.close_connection = True  # a body that is refused is not read
        if not self._may_enter(body=True, writes=True):
            return
        try:
            status, record = _save(self.library, unquote(match[1]), self._body())
        except _RefusedError as error:
            status, record = error.status, {"error": str(error)}
        self._send(status, JSON, json.dumps(record).encode(), body=True)

    def _body(self) -> bytes:
        """The body of a request, of limited size."""
        if self.headers.get_content_type() != JSON:
            raise _RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"Regions are sent as {JSON}.")
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"[0-9]{1,12}", length) or "Transfer-Encoding" in self.headers:
            raise _RefusedError(HTTPStatus.LENGTH_REQUIRED, "The size of the regions is not stated.")
        if int(length) > MAX_BYTES:
            words = f"{int(length) / 2**20:.1f} MiB of regions; at most {MAX_BYTES // 2**20} MiB are saved for a slide."
            raise _RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, words)
        return self.rfile.read(int(length))

    do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _refuse  # noqa: N815

    def _answer(self, *, body: bool) -> None:
        if not self._may_enter(body=body):
            return
        path = urlsplit(self.path).path
        try:
            found = _route(self.library, "/" + path.removeprefix(self.access.home))
        except (WsikitError, OSError) as error:
            logger.warning("%s", error)
            self._send(HTTPStatus.INTERNAL_SERVER_ERROR, TEXT, f"{error}\n".encode(), body=body)
            return
        if found is None:
            self._send(HTTPStatus.NOT_FOUND, TEXT, b"There is no such page.\n", body=body)
            return
        kind, content, headers = found
        status = HTTPStatus.FOUND if "Location" in headers else HTTPStatus.OK
        self._send(status, kind, content, headers, body=body)

    def _may_enter(self, *, body: bool, writes: bool = False) -> bool:
        """Whether the request is allowed; if not, it is answered here in the same way, whatever exists."""
        if not self.access.is_own_host(self.headers):
            self._send(HTTPStatus.FORBIDDEN, TEXT, b"This viewer answers to 127.0.0.1 and localhost only.\n", body=body)
        elif not self.access.is_own_page(self.headers, writes=writes):
            self._send(HTTPStatus.FORBIDDEN, TEXT, b"Pages of other origins may not use this viewer.\n", body=body)
        elif not writes and self.access.opens(self.path):
            headers = {"Set-Cookie": self.access.cookie}
            self._send(HTTPStatus.OK, HTML, entry_page(self.access.home), headers, body=body)
        elif not (self.path.startswith(self.access.home) and self.access.has_token(self.headers)):
            self._send(HTTPStatus.FORBIDDEN, TEXT, NO_TOKEN, body=body)
        else:
            return True
        return False

    def _send(
        self, status: HTTPStatus, kind: str, content: bytes, headers: dict[str, str] | None = None, *, body: bool
    ) -> None:
        self.send_response(status)
        for name, value in {**_HEADERS, **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the name is http.server's)
        logger.debug("%s", (format % args).replace(self.access.token, "…"))


# ---- addresses


def entry_page(home: str) -> bytes:
    """The page at the address with the token: it goes on to `home` at once, with the part of the address after "#".

    A redirect would not do: after a click in a page of another site, browsers send no strict cookie to its target.
    """
    script = f"location.replace({home!r} + location.hash);"
    policy = content_policy([script])
    return (
        f'<!DOCTYPE html><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">'
        f'<title>wsikit view</title><script>{script}</script><p><a href="{home}">Go on to the slides</a></p>\n'
    ).encode()


def _route(library: Library, path: str) -> Answer | None:
    """The response for a path; None if there is no such page."""
    if path == "/":
        if library.is_run:
            return HTML, library.index().encode(), {}
        (name,) = library.names()
        return TEXT, b"", {"Location": f"slide/{quote(name, safe='')}/"}
    match = re.fullmatch(r"/slide/([^/]+)/(.*)", path)
    if match is None:
        return None
    shown = library.shown(unquote(match[1]))
    if shown is None:
        return None
    for pattern, answer in _SLIDE:
        rest = re.fullmatch(pattern, match[2])
        if rest:
            return answer(shown, *(int(number) for number in rest.groups()))
    return None


class _RefusedError(Exception):
    """A request that is answered with this status and one line."""

    def __init__(self, status: HTTPStatus, words: str) -> None:
        super().__init__(words)
        self.status = status


def _save(library: Library, slide_id: str, body: bytes) -> tuple[HTTPStatus, dict[str, Any]]:
    """Save the regions of a slide; the status, and what the page is to know.

    Raises
    ------
    _RefusedError
        They cannot be saved.
    """
    try:
        shown = library.shown(slide_id)
        if shown is None:
            raise _RefusedError(HTTPStatus.NOT_FOUND, "There is no such slide.")
        return HTTPStatus.OK, shown.regions.save(body)
    except ChangedError as error:
        raise _RefusedError(HTTPStatus.CONFLICT, str(error)) from error
    except WsikitError as error:
        raise _RefusedError(HTTPStatus.BAD_REQUEST, str(error)) from error
    except OSError as error:
        words = f"The regions cannot be written: {error.strerror or error}. Keep this page open and correct that."
        raise _RefusedError(HTTPStatus.INTERNAL_SERVER_ERROR, words) from error


def _drawing(shown: Shown) -> Answer:
    return JSON, json.dumps(shown.regions.for_page()).encode(), {}


def _page(shown: Shown) -> Answer:
    return HTML, shown.page().encode(), {}


def _thumbnail(shown: Shown) -> Answer:
    return JPEG, shown.thumbnail(), {}


def _tile(shown: Shown, level: int, col: int, row: int) -> Answer | None:
    tile = shown.tiles.tile(level, col, row)
    return None if tile is None else (JPEG, tile.jpeg, {"X-Wsikit-Tile": "own" if tile.own else "encoded"})


def _patch(shown: Shown, row: int) -> Answer | None:
    jpeg = shown.patch(row)
    return None if jpeg is None else (JPEG, jpeg, {})


def _patch_data(shown: Shown, col: int, row: int) -> Answer | None:
    script = shown.patch_data(col, row)
    return None if script is None else (SCRIPT, script, {})


_SLIDE: tuple[tuple[str, Callable[..., Answer | None]], ...] = (
    (r"", _page),
    (r"drawing", _drawing),
    (r"thumbnail\.jpg", _thumbnail),
    (r"tile/(\d{1,3})/(\d{1,9})_(\d{1,9})\.jpg", _tile),
    (r"patch/(\d{1,12})\.jpg", _patch),
    (r"patch-data/(\d{1,9})_(\d{1,9})\.js", _patch_data),
)
"""Addresses below /slide/<id>/. They contain only numbers, so no address can name a file."""
