"""Who may use the viewer: requests with its token, from its own pages, under its own name.

Other accounts of the computer can connect to the port. The token is in the address that the command prints. The page at
that address keeps it in a cookie, below a random path: cookies are shared by all ports of a host, and a server of
another account must not receive this one.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.message import Message
from urllib.parse import parse_qs, urlsplit

Headers = Mapping[str, str] | Message
TOKEN_BYTES = 32
COOKIE = "wsikit-view"


def _token() -> str:
    return secrets.token_urlsafe(TOKEN_BYTES)


def _folder() -> str:
    return secrets.token_hex(8)


@dataclass(frozen=True)
class Access:
    """The names, the token and the cookie of one viewer.

    Examples
    --------
    >>> access = Access("127.0.0.1", 8000, token="secret", folder="a1")
    >>> access.address
    'http://127.0.0.1:8000/?token=secret'
    >>> access.has_token({"Cookie": "other=1; wsikit-view=secret"}), access.has_token({"Cookie": "wsikit-view=guess"})
    (True, False)
    >>> access.is_own_host({"Host": "localhost:8000"}), access.is_own_host({"Host": "evil.example:8000"})
    (True, False)
    """

    host: str
    port: int
    token: str = field(default_factory=_token, repr=False)
    folder: str = field(default_factory=_folder)
    """First part of the path of all pages; the cookie is sent only below it."""

    @property
    def origin(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def address(self) -> str:
        """The address to open, with the token."""
        return f"{self.origin}/?token={self.token}"

    @property
    def home(self) -> str:
        """Path of the first page."""
        return f"/{self.folder}/"

    @property
    def cookie(self) -> str:
        """Value of Set-Cookie: not readable by scripts, not sent with requests of other sites."""
        return f"{COOKIE}={self.token}; Path={self.home}; HttpOnly; SameSite=Strict"

    def is_own_host(self, headers: Headers) -> bool:
        """Whether the Host header is this server's; other names that resolve to it (DNS rebinding) are refused."""
        return headers.get("Host", "").lower() in self._hosts

    def is_own_page(self, headers: Headers, *, writes: bool = False) -> bool:
        """Whether the request is not one that a page of another origin makes.

        A link from another page may open a page of the viewer. A request that writes must state its origin.
        """
        origin = headers.get("Origin")
        if origin is None:
            if writes:
                return False
        elif origin.lower() not in {f"http://{host}" for host in self._hosts}:
            return False
        site = headers.get("Sec-Fetch-Site", "none")
        return site in ("none", "same-origin") or (not writes and headers.get("Sec-Fetch-Mode") == "navigate")

    def has_token(self, headers: Headers) -> bool:
        """Whether the cookie is the viewer's. Others may have the same name: one that fits is enough."""
        pairs = (part.strip().partition("=") for part in headers.get("Cookie", "").split(";"))
        return any(self._is_token(value) for name, _, value in pairs if name == COOKIE)

    def opens(self, target: str) -> bool:
        """Whether the address of a request has the token."""
        return any(self._is_token(value) for value in parse_qs(urlsplit(target).query).get("token", []))

    @property
    def _hosts(self) -> set[str]:
        return {f"{self.host}:{self.port}", f"localhost:{self.port}"}

    def _is_token(self, value: str) -> bool:
        """Compared in constant time: the time of the answer says nothing on how much of a guess is right."""
        return hmac.compare_digest(value.encode("utf-8", "surrogateescape"), self.token.encode())
