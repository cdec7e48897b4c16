"""Who may look: only this machine's own page, or who was given the token.

A browser will talk to this port for any page that its user visits. So the name that it was
reached by is checked (against DNS rebinding), and where the page came from that asks; nothing is
readable from another origin.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
import socket
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketClose

SECURITY_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",
}

REFUSED = 4403
"""Close code of a WebSocket without the token."""

NO_TOKEN = "no token: open the address that the classifier printed when it started"  # noqa: S105 - words


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address.

    Example:
        >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
        (True, True, False)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def new_token() -> str:
    """Return a secret that nobody guesses."""
    return secrets.token_urlsafe(32)


class Guard:
    """Lets through what may be let through, and adds what tells browsers to be strict.

    Args:
        app: What it guards.
        host: Address that is listened on.
        port: The same.
        token: What a viewer must know; None: nothing, since only this machine can reach it.
    """

    def __init__(self, app: ASGIApp, *, host: str, port: int, token: str | None) -> None:
        self._app = app
        self._port = port
        self._token = token
        self._cookie = f"monitor_{port}"  # cookies know no ports
        self._names = {"localhost"}
        if not is_loopback(host):
            self._names |= {host.lower(), socket.gethostname().lower(), socket.getfqdn().lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or hand it on."""
        headers = Headers(scope=scope)
        if scope["type"] == "websocket":
            await self._link(headers, scope, receive, send)
        else:
            await self._page(headers, scope, receive, _with_headers(send))

    async def _page(self, headers: Headers, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(headers, needs_origin=False)
        answer: ASGIApp = self._app
        if refusal is not None:
            answer = PlainTextResponse(refusal + "\n", 403)
        elif not self._may_look(headers):
            answer = self._entered(scope) or PlainTextResponse(NO_TOKEN + "\n", 403)
        await answer(scope, receive, send)

    async def _link(self, headers: Headers, scope: Scope, receive: Receive, send: Send) -> None:
        if self._refusal(headers, needs_origin=True) is not None:
            await WebSocketClose()(scope, receive, send)
        elif self._may_look(headers):
            await self._app(scope, receive, send)
        else:  # a page of ours, from before a restart: told why
            link = WebSocket(scope, receive, send)
            await link.accept()
            await link.close(REFUSED, NO_TOKEN)

    def _refusal(self, headers: Headers, *, needs_origin: bool) -> str | None:
        host = headers.get("host", "")
        if len(headers.getlist("host")) != 1 or not self._is_ours(host):
            return "this page is not served under that name"
        origin = headers.get("origin")
        if origin is None:
            return "no Origin" if needs_origin else None
        return None if origin == f"http://{host}" else "another origin's page may not look here"

    def _is_ours(self, host: str) -> bool:
        name, colon, port = host.rpartition(":")
        if not colon or port != str(self._port):
            return host in self._names and self._port == 80
        name = name.lower()
        if name in self._names:
            return True
        try:
            address = ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
        except ValueError:
            return False  # a name that anybody may have pointed here
        return address.is_loopback or self._token is not None

    def _may_look(self, headers: Headers) -> bool:
        if self._token is None:
            return True
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(self._cookie)
        except CookieError:
            return False
        return cookie is not None and self._is_token(cookie.value)

    def _is_token(self, said: str) -> bool:
        return hmac.compare_digest(said.encode(), (self._token or "").encode())

    def _entered(self, scope: Scope) -> Response | None:
        """Exchange a token in the address for a cookie, so that it is not seen there any more."""
        said = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("token", [""])[0]
        if scope["path"] != "/" or not self._is_token(said):
            return None
        response = RedirectResponse("/", status_code=303)
        response.set_cookie(self._cookie, said, httponly=True, samesite="strict", path="/")
        return response


def _with_headers(send: Send) -> Send:
    async def strict(message: Message) -> None:
        if message["type"] == "http.response.start":
            more = [(k.encode(), v.encode()) for k, v in SECURITY_HEADERS.items()]
            message["headers"] = [*message.get("headers", []), *more]
        await send(message)

    return strict
