"""The monitor's thread: a small web server with an event loop of its own.

Nothing here can delay a decision: the pipeline appends to ``Feed`` and goes on, and what viewers
ask for is done on the pipeline's loop like anything else that a person asks for.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from stream_classifier.errors import ConfigError, printable
from stream_classifier.evaluation.palette import css_variables
from stream_classifier.monitor.door import MOST_CONNECTIONS, Door
from stream_classifier.monitor.feed import Feed
from stream_classifier.monitor.guard import Guard, is_loopback, new_token
from stream_classifier.monitor.memory import KEPT_S, Memory, News
from stream_classifier.monitor.viewer import Viewer
from stream_classifier.monitor.wire import Acknowledge, Ask, Mute, parse_ask

LOG = logging.getLogger(__name__)

FRAME_EVERY_S = 0.04
"""25 frames a second for who looks."""

IDLE_EVERY_S = 0.25
"""While nobody looks."""

MOST_VIEWERS = 32
AT_ONCE = 32
"""Connections taken in one go: asyncio takes as many as may wait before it lets go of any."""

MOST_ASKED_BYTES = 4_096
ASKS_A_SECOND = 5.0
MOST_ASKS_AT_ONCE = 20
MOST_NONSENSE = 10
SEND_WITHIN_S = 30.0
"""A viewer that takes nothing for so long is let go of; its page connects again when it wakes."""

ANSWER_WITHIN_S = 5.0
REVIEW_AT_MOST_S = 65.0
SEND_BUFFER_BYTES = 262_144
"""What the kernel keeps for a viewer that sleeps."""

FULL, TOO_MUCH = 4429, 4008
"""Close codes that the page explains."""

PAGE: Final = Path(__file__).parent / "page"
_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}


@dataclass(frozen=True, slots=True)
class Controls:
    """What viewers may do; both are called on the pipeline's event loop.

    Attributes:
        acknowledge: A person has seen an alert; False: it was acknowledged before.
        mute: A person asks for quiet until then; None ends it.
    """

    acknowledge: Callable[[str], Awaitable[bool]]
    mute: Callable[[datetime | None], None]


class Monitor:
    """Serves the page while its block runs; use as a context manager on the pipeline's loop.

    Args:
        feed: What the pipeline says.
        memory: Keeps it; belongs to the monitor's thread from then on.
        controls: What viewers may do.
        host: Address to listen on. Beyond loopback a token is made, and asked for.
        port: The same; 0: a free one.

    Attributes:
        url: What to open, with the token where one is needed.

    Raises:
        ConfigError: On entering, if the address cannot be listened on.
    """

    def __init__(
        self, feed: Feed, memory: Memory, controls: Controls, *, host: str, port: int
    ) -> None:
        self._feed = feed
        self._memory = memory
        self._controls = controls
        self._host = host
        self._port = port
        self._viewers: set[Viewer] = set()

    def __enter__(self) -> Self:
        self._pipeline = asyncio.get_running_loop()
        listening = _listen(self._host, self._port)
        port = listening.getsockname()[1]
        token = None if is_loopback(self._host) else new_token()
        name = f"[{self._host}]" if ":" in self._host else self._host
        if self._host in {"0.0.0.0", "::"}:  # noqa: S104 - compared, not bound
            name = socket.gethostname()
        self.url = f"http://{name}:{port}/" + (f"?token={token}" if token else "")
        app = Guard(self._app(), host=self._host, port=port, token=token)
        self._server = uvicorn.Server(_config(app))
        self._thread = threading.Thread(
            target=self._run, args=(listening,), name="monitor", daemon=True
        )
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.should_exit = True
        self._thread.join(2.0)

    def _run(self, listening: socket.socket) -> None:
        try:
            with listening:
                asyncio.run(self._serve(listening))
        except Exception:  # a page that fails must take nothing else with it
            LOG.exception("the monitor page failed; the classifier goes on without it")

    async def _serve(self, listening: socket.socket) -> None:
        pump = asyncio.create_task(self._pump(), name="monitor-pump")
        try:
            await self._server.serve(sockets=[listening])
        finally:
            pump.cancel()
            await asyncio.gather(pump, return_exceptions=True)

    async def _pump(self) -> None:
        """Bring what is new to every viewer, again and again."""
        while True:
            try:
                self._bring_what_is_new()
            except Exception:
                LOG.exception("the monitor could not show something; it goes on")
            await asyncio.sleep(FRAME_EVERY_S if self._viewers else IDLE_EVERY_S)

    def _bring_what_is_new(self) -> None:
        for frame in self._memory.take_chunks(self._feed.take_chunks()):
            for viewer in self._viewers:
                viewer.show(frame)
        for news in self._memory.take_said(self._feed.take_said()):
            self._tell(news)

    def _tell(self, news: News) -> None:
        for viewer in self._viewers:
            viewer.tell(news)

    def _app(self) -> Starlette:
        files = {
            f"/{path.relative_to(PAGE).as_posix()}": path
            for path in sorted(PAGE.rglob("*"))
            if path.suffix in _TYPES
        }
        contents = {name: (path.read_bytes(), _TYPES[path.suffix]) for name, path in files.items()}
        contents["/palette.css"] = (css_variables().encode(), _TYPES[".css"])
        contents["/"] = contents.pop("/index.html")

        async def page(request: Request) -> Response:
            data, media_type = contents[request.url.path]
            return Response(data, media_type=media_type)

        return Starlette(
            routes=[
                *(Route(name, page, methods=["GET"]) for name in contents),
                Route("/samples", self._samples, methods=["GET"]),
                WebSocketRoute("/live", self._live),
            ]
        )

    async def _samples(self, request: Request) -> Response:
        """Answer with the frames between two Unix times."""
        try:
            start_s, stop_s = (float(request.query_params[key]) for key in ("from", "to"))
        except (KeyError, ValueError):
            return PlainTextResponse("expected ?from=...&to=..., Unix times\n", 400)
        if not 0 <= stop_s - start_s <= REVIEW_AT_MOST_S:
            return PlainTextResponse(
                f"expected at most {REVIEW_AT_MOST_S:g} s of the last {KEPT_S:g} s\n", 400
            )
        frames = self._memory.frames(start_s, stop_s)

        async def as_it_is_taken() -> AsyncIterator[bytes]:
            for data in frames:  # together they are large, and who asks may take none of it
                yield data

        return StreamingResponse(as_it_is_taken(), media_type="application/octet-stream")

    async def _live(self, socket: WebSocket) -> None:
        await socket.accept()
        if len(self._viewers) >= MOST_VIEWERS:
            await socket.close(FULL, f"{MOST_VIEWERS} viewers are connected already")
            return
        viewer = Viewer()
        self._viewers.add(viewer)
        sending = asyncio.create_task(self._send(viewer, socket))
        asked = asyncio.create_task(self._listen_to(viewer, socket))
        try:
            await asyncio.wait({sending, asked}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._viewers.discard(viewer)
            sending.cancel()
            asked.cancel()
            await asyncio.gather(sending, asked, return_exceptions=True)

    async def _send(self, viewer: Viewer, socket: WebSocket) -> None:
        while True:
            said, frame = await viewer.next()
            async with asyncio.timeout(SEND_WITHIN_S):
                if viewer.is_behind:
                    viewer.is_behind = False
                    said = [self._memory.hello()]  # which holds all that waited
                for text in said:
                    await socket.send_text(text)
                if frame is not None:
                    await socket.send_bytes(frame)

    async def _listen_to(self, viewer: Viewer, socket: WebSocket) -> None:
        """Do what a viewer asks for, until it goes, asks too much, or talks nonsense."""
        left, looked_s, n_nonsense = float(MOST_ASKS_AT_ONCE), time.monotonic(), 0
        while True:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            now_s = time.monotonic()
            left = min(MOST_ASKS_AT_ONCE, left + ASKS_A_SECOND * (now_s - looked_s)) - 1
            looked_s = now_s
            try:
                ask = parse_ask(message.get("text") or message.get("bytes") or b"")
            except ValueError:
                n_nonsense += 1
                self._answer(viewer, do="", ok=False, said="that is nothing that can be asked for")
            else:
                if left >= 0:
                    await self._do(viewer, ask)
            if left < 0 or n_nonsense > MOST_NONSENSE:
                with contextlib.suppress(WebSocketDisconnect, RuntimeError):
                    await socket.close(TOO_MUCH, "too many requests, or too much nonsense")
                return

    async def _do(self, viewer: Viewer, ask: Ask) -> None:
        ok, said = True, ""
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                if isinstance(ask, Acknowledge):
                    is_news = await self._on_pipeline(self._controls.acknowledge(ask.alert_id))
                    said = "acknowledged" if is_news else "acknowledged before"
                elif isinstance(ask, Mute):
                    quiet = timedelta(minutes=ask.minutes)
                    until = datetime.now(UTC) + quiet if ask.minutes else None
                    await self._on_pipeline(self._mute(until))
                    said = f"quiet for {ask.minutes:g} min" if ask.minutes else "quiet is over"
                else:
                    mark = self._memory.mark(at_unix_s=ask.at, text=printable(ask.text))
                    self._tell(mark)
                    said = "marked"
        except LookupError:
            ok, said = False, "there is no such alert any more"
        except TimeoutError:
            ok, said = False, f"the classifier did not answer within {ANSWER_WITHIN_S:g} s"
        except (ValueError, OverflowError, OSError):
            ok, said = False, "there is no such time"
        except Exception as error:  # the viewer is told; the others go on
            LOG.exception("a viewer's request failed")
            ok, said = False, f"it failed: {type(error).__name__}"
        self._answer(viewer, do=ask.do, ok=ok, said=said)

    async def _mute(self, until: datetime | None) -> bool:
        self._controls.mute(until)
        return True

    async def _on_pipeline(self, work: Awaitable[bool]) -> bool:
        async def done() -> bool:
            return await work

        future = asyncio.run_coroutine_threadsafe(done(), self._pipeline)
        return await asyncio.wrap_future(future)

    def _answer(self, viewer: Viewer, *, do: str, ok: bool, said: str) -> None:
        data = {"do": do, "ok": ok, "said": said}
        viewer.tell(News.of("answer", data))


def _listen(host: str, port: int) -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        listening = socket.create_server(address[:2], family=family, backlog=AT_ONCE)
    except OSError as error:
        raise ConfigError(
            f"the monitor page cannot listen on {host}:{port}: {error.strerror or error}. "
            "Try: another port, or 0 for a free one (--monitor-at 127.0.0.1:0)"
        ) from error
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    return listening


def _config(app: Guard) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        loop="asyncio",
        http=Door,
        ws="websockets-sansio",
        ws_max_size=MOST_ASKED_BYTES,
        ws_per_message_deflate=False,
        ws_ping_interval=20.0,
        ws_ping_timeout=20.0,
        lifespan="off",
        interface="asgi3",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        limit_concurrency=MOST_CONNECTIONS,
        backlog=AT_ONCE,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=1,
    )
