"""The monitor page, open to whoever tries: tokens, origins, markup, nonsense, too many viewers."""

import itertools
import json
import random
import re
import resource
import socket
import threading
import time
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.running_monitor import RATE_HZ, RunningMonitor, frames, said
from tests.system.conftest import eventually

monitor_server = pytest.importorskip("stream_classifier.monitor.server")

pytestmark = [pytest.mark.fault(43), pytest.mark.timeout(120)]

PAGE = Path(monitor_server.PAGE)
POLICY = {
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "connect-src 'self'",
    "img-src 'self' data:",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
}
MARKUP = "<img src=x onerror=\"globalThis.stolen='yes'\"><script>globalThis.stolen='yes'</script>"


@pytest.fixture
def monitor():
    with RunningMonitor() as running:
        yield running


@pytest.fixture
def open_monitor():
    with RunningMonitor(host="0.0.0.0") as running:  # noqa: S104 - that is the fault
        yield running


def test_beyond_loopback_nothing_is_shown_without_the_token(open_monitor, measured):
    refused = [
        open_monitor.get("/").status,
        open_monitor.get("/?token=").status,
        open_monitor.get(f"/?token={open_monitor.token}x").status,
        open_monitor.get("/app.js").status,
        open_monitor.get("/samples?from=0&to=1").status,
        open_monitor.get("/", Cookie=f"monitor_{open_monitor.port}=guess").status,
        open_monitor.get(f"/samples?from=0&to=1&token={open_monitor.token}").status,
    ]
    assert refused == [403] * 7
    with open_monitor.link() as link, pytest.raises(ConnectionClosed) as closed:
        link.recv(timeout=5)
    assert closed.value.rcvd.code == 4403
    measured("requests without the token refused", f"{len(refused) + 1} of {len(refused) + 1}")


def test_the_token_is_exchanged_for_a_cookie_that_no_script_and_no_other_site_has(open_monitor):
    answer = open_monitor.get(f"/?token={open_monitor.token}")
    assert (answer.status, answer.headers["Location"]) == (303, "/")
    cookie = answer.headers["Set-Cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    known = answer.headers["Set-Cookie"].split(";")[0]
    assert open_monitor.get("/", Cookie=known).status == 200
    with open_monitor.link(cookie=known) as link:
        assert said(link, "hello")["about"]["stream"] == "bed 3"


def test_on_loopback_no_token_is_asked_for_and_nothing_else_is_listened_on(monitor):
    assert monitor.url == f"http://127.0.0.1:{monitor.port}/"
    assert monitor.get("/").status == 200
    with socket.socket() as other:
        other.settimeout(2)
        # All of 127/8 is this machine, yet not what was bound.
        assert other.connect_ex(("127.0.0.2", monitor.port)) != 0


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1"])
def test_a_page_of_another_origin_gets_nothing(monitor, origin, measured):
    assert monitor.get("/samples?from=0&to=1", Origin=origin).status == 403
    with pytest.raises(InvalidStatus) as refused:
        monitor.link(origin=origin)
    assert refused.value.response.status_code == 403
    measured("other origins refused")


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "evil.example:{port}"]
)
def test_a_foreign_name_that_was_pointed_here_gets_nothing(monitor, host):
    assert monitor.get("/", host=host.format(port=monitor.port)).status == 403


@pytest.mark.parametrize("host", ["evil.example:{port}", "a.b.c:{port}"])
def test_beyond_loopback_a_foreign_name_gets_nothing_even_with_the_token(open_monitor, host):
    path = f"/?token={open_monitor.token}"
    assert open_monitor.get(path, host=host.format(port=open_monitor.port)).status == 403


def test_a_link_without_an_origin_is_refused(monitor):
    with socket.create_connection(("127.0.0.1", monitor.port), timeout=5) as raw:
        raw.sendall(
            f"GET /live HTTP/1.1\r\nHost: 127.0.0.1:{monitor.port}\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )
        assert b" 403 " in raw.recv(200)


@pytest.mark.parametrize("path", ["/", "/app.js", "/nothing", "/samples?from=x", "/../wire.py"])
def test_every_answer_carries_the_strict_policy(monitor, path):
    headers = monitor.get(path).headers
    assert set(headers["Content-Security-Policy"].split("; ")) == POLICY
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert headers["Referrer-Policy"] == "no-referrer"


@pytest.mark.parametrize(
    "path", ["/../wire.py", "/%2e%2e/wire.py", "/vendor/../../guard.py", "//etc/passwd"]
)
def test_nothing_but_the_page_is_served(monitor, path):
    assert monitor.get(path).status == 404


def test_the_page_holds_no_inline_script_and_never_takes_text_for_markup():
    html = (PAGE / "index.html").read_text(encoding="utf-8")
    assert re.findall(r"<script(?![^>]*\bsrc=)|\son\w+=|\sstyle=|<style|https?://", html) == []
    sinks = re.compile(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function"
    )
    for script in PAGE.glob("*.js"):
        assert not sinks.search(script.read_text(encoding="utf-8")), script.name


def test_a_stream_name_with_markup_stays_text(measured):
    with RunningMonitor(stream=MARKUP, labels=(MARKUP, "C4")) as monitor:
        assert MARKUP.encode() not in monitor.get("/").body
        with monitor.link() as link:
            assert said(link, "hello")["about"]["stream"] == MARKUP
    measured("scripts run from a stream name", 0)


def test_nonsense_is_answered_and_then_cut_off_while_others_go_on(monitor, measured):
    rng = random.Random(0)
    nonsense = [
        "",
        "{",
        "null",
        "[]",
        '"acknowledge"',
        "{}",
        '{"do":"acknowledge"}',
        '{"do":"acknowledge","alert_id":7}',
        '{"do":"acknowledge","alert_id":"a","more":1}',
        '{"do":"shutdown"}',
        '{"do":"mute","minutes":1e9}',
        '{"do":"mute","minutes":NaN}',
        '{"do":"mark","at":"now","text":"x"}',
        json.dumps({"do": "mark", "at": 0.0, "text": "x" * 81}),
        rng.randbytes(300),
    ]
    with monitor.link() as good:
        said(good, "hello")
        with monitor.link() as bad:
            assert _cut_off(bad, *nonsense) == 4008
        with monitor.link() as bad:
            assert _cut_off(bad, "x" * 10_000) == 1009
        good.send('{"do":"mark","at":1000.0,"text":"still here"}')
        assert said(good, "event", what="mark")["text"] == "still here"
    assert monitor.acknowledged == monitor.muted == []
    measured("messages of nonsense that did anything", 0)


def _cut_off(link, *messages):
    """Send all of it, and return with which code the link is closed."""
    try:
        for message in messages:
            link.send(message)
        while True:
            link.recv(timeout=5)
    except ConnectionClosed as closed:
        return closed.rcvd.code


def test_a_time_that_cannot_be_is_refused_and_the_link_lives(monitor):
    with monitor.link() as link:
        link.send('{"do":"mark","at":1e300,"text":"never"}')
        assert said(link, "answer")["ok"] is False
        link.send('{"do":"mute","minutes":1}')
        assert said(link, "answer", do="mute")["ok"]


def test_a_hundred_requests_at_once_are_too_many(monitor):
    with monitor.link() as link:
        assert _cut_off(link, *100 * ['{"do":"mute","minutes":0}']) == 4008
    assert len(monitor.muted) <= 25


def test_of_a_hundred_viewers_the_first_32_are_served_and_the_others_told_why(monitor, measured):
    links, told = [], []
    try:
        for _ in range(100):
            link = monitor.link(open_timeout=20)
            links.append(link)
            try:
                link.recv(timeout=5)
            except ConnectionClosed as closed:
                told.append(closed.rcvd.reason)
        assert len(told) == 100 - monitor_server.MOST_VIEWERS
        assert all("viewers are connected already" in reason for reason in told)
        took_s = []
        for _ in range(200):
            since_s = time.perf_counter()
            monitor.send()
            took_s.append(time.perf_counter() - since_s)
        assert sorted(took_s)[100] < 0.001
        for link in links[:32]:
            assert isinstance(link.recv(timeout=10), bytes)
    finally:
        for link in links:
            link.close()
    measured("of 100 viewers served", 100 - len(told))
    with monitor.link() as link:  # a place is free again
        said(link, "hello")


@pytest.mark.slow
def test_connections_that_ask_for_nothing_are_few_and_soon_let_go_of(monitor, measured):
    held = []
    try:
        for _ in range(300):
            held.append(socket.create_connection(("127.0.0.1", monitor.port), timeout=5))
            held[-1].sendall(b"GET / HTTP/1.1\r\nX: ")
        n_held = eventually(lambda: sum(map(_is_open, held)) <= 128 and sum(map(_is_open, held)))
        assert n_held, "every connection is kept: file descriptors run out"
        since_s = time.monotonic()
        assert eventually(lambda: not _drips(held), within_s=40)
        measured("idle connections held of 300", n_held)
        measured("let go of after", time.monotonic() - since_s, "s")
        assert eventually(lambda: monitor.get("/").status == 200)
    finally:
        for connection in held:
            connection.close()


def _is_open(connection):
    connection.setblocking(False)
    try:
        return connection.recv(1, socket.MSG_PEEK) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


def _drips(connections):
    """Send one more byte each, slowly enough; return how many are open still."""
    n_open = 0
    for connection in filter(_is_open, connections):
        try:
            connection.sendall(b"x")
            n_open += 1
        except OSError:
            continue
    time.sleep(0.5)  # so that it stays a trickle, not to wait for anything
    return n_open


@pytest.mark.slow
def test_who_asks_for_samples_and_takes_none_costs_no_memory_and_holds_up_nobody(measured):
    labels = [f"E{i}" for i in range(64)]
    with RunningMonitor(labels=labels) as monitor:
        for _ in range(120):
            monitor.send(n=256)
        assert eventually(lambda: len(_samples(monitor)) > 4_000_000)
        before_mb = _resident_mb()
        sleepers = []
        for _ in range(60):
            sleepers.append(socket.create_connection(("127.0.0.1", monitor.port), timeout=5))
            sleepers[-1].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            asked = f"GET {_all(monitor)} HTTP/1.1\r\nHost: localhost:{monitor.port}\r\n\r\n"
            sleepers[-1].sendall(asked.encode())
        assert eventually(lambda: all(sleeper.recv(1, socket.MSG_PEEK) for sleeper in sleepers))
        assert len(_samples(monitor)) > 4_000_000  # who does take it gets it
        grown_mb = _resident_mb() - before_mb
        for sleeper in sleepers:
            sleeper.close()
    measured("60 viewers that take none of 4 MB: memory", grown_mb, "MB")
    assert grown_mb < 120


def _all(monitor):
    start_s = monitor.origin_s + monitor.clock.offset_s
    return f"/samples?from={start_s}&to={start_s + 64}"


def _samples(monitor):
    return monitor.get(_all(monitor)).body


def _resident_mb():
    n_pages = int(Path("/proc/self/statm").read_text().split()[1])
    return n_pages * resource.getpagesize() / 1e6


def test_a_viewer_that_sleeps_holds_up_nobody_and_learns_the_state_when_it_wakes(measured):
    labels = [f"E{i}" for i in range(64)]
    rounds = 30  # of 1 MB: more than any socket holds
    with (
        RunningMonitor(labels=labels) as monitor,
        monitor.link(max_queue=1) as sleeper,
        monitor.link() as awake,
    ):
        said(sleeper, "hello")
        said(awake, "hello")
        slowest_s = 0.0
        for i in range(rounds):
            for _ in range(16):
                monitor.send(n=256)
            since_s = time.monotonic()
            monitor.event(alert_id=f"a{i}")
            said(awake, "event", alert_id=f"a{i}")
            slowest_s = max(slowest_s, time.monotonic() - since_s)
        n_samples, newest = _woken(sleeper, f"a{rounds - 1}")
        assert newest, "the sleeper lost state"
        assert n_samples < monitor.n_sent, "the sleeper never was behind"
    measured("an event at a viewer beside one that sleeps, at most", 1e3 * slowest_s, "ms")
    measured("samples left out for the one that sleeps", monitor.n_sent - n_samples)


def _woken(link, alert_id):
    """How many samples a viewer still gets, and whether it learns of an alert."""
    n_samples, knows = 0, False
    deadline_s = time.monotonic() + 30
    while time.monotonic() < deadline_s:
        try:
            message = link.recv(timeout=1.5)
        except TimeoutError:
            break
        if isinstance(message, bytes):
            n_samples += sum(len(samples) for *_, samples in frames(message))
        else:
            knows |= f'"{alert_id}"' in message
    return n_samples, knows


def test_a_channel_that_appears_is_not_mixed_up_with_the_others(monitor):
    with monitor.link() as link:
        said(link, "hello")
        monitor.send(n=16)
        monitor.send(n=16, n_channels=3)
        monitor.send(n=16, first_index=16)
        seen = []
        while len(seen) < 32:
            message = link.recv(timeout=5)
            if isinstance(message, bytes):
                for _, _, _, samples in frames(message):
                    assert samples.shape[1] == 2
                    seen += list(samples[:, 0])


def test_a_clock_that_jumps_is_shown_as_it_is_and_nothing_ends(monitor):
    with monitor.link() as link:
        said(link, "hello")
        starts = []
        for step_s in (0.0, 3600.0, -3600.0, 0.0):
            monitor.send(n=8, origin_s=monitor.origin_s + step_s)
            while not isinstance(message := link.recv(timeout=5), bytes):
                pass
            starts.append(frames(message)[0][2])
        steps = [round(b - a - 8 / RATE_HZ) for a, b in itertools.pairwise(starts)]
        assert steps == [3600, -7200, 3600]
    answer = monitor.get(f"/samples?from={starts[-1]}&to={starts[-1] + 1}")
    assert frames(answer.body)


def test_a_monitor_that_hangs_never_makes_the_pipeline_wait(monitor, measured):
    hangs, go_on = threading.Event(), threading.Event()

    def hang(*_):
        hangs.set()
        go_on.wait(30)
        return []

    monitor.memory.take_chunks = hang
    assert hangs.wait(5)
    slowest_s = 0.0
    for _ in range(20_000):
        since_s = time.perf_counter()
        monitor.send(n=1)
        slowest_s = max(slowest_s, time.perf_counter() - since_s)
    go_on.set()
    assert len(monitor.feed.take_chunks()) <= 4_000
    measured("longest wait of the reader for a monitor that hangs", 1e3 * slowest_s, "ms")
    assert slowest_s < 0.1


def test_what_a_viewer_asks_for_is_done_on_the_pipelines_loop_and_answered(monitor):
    with monitor.link() as link:
        link.send('{"do":"acknowledge","alert_id":"a1"}')
        assert said(link, "answer") == {"do": "acknowledge", "ok": True, "said": "acknowledged"}
        link.send('{"do":"mute","minutes":2}')
        assert said(link, "answer", do="mute")["ok"]
    eventually(lambda: monitor.muted, within_s=5)
    assert monitor.acknowledged == ["a1"]


def test_an_alert_that_is_no_more_is_said_to_be_none():
    async def nobody(alert_id):
        raise LookupError(alert_id)

    with RunningMonitor(acknowledge=nobody) as monitor, monitor.link() as link:
        link.send('{"do":"acknowledge","alert_id":"a1"}')
        answer = said(link, "answer")
        assert (answer["ok"], answer["said"]) == (False, "there is no such alert any more")
