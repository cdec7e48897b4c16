"""Settings and start of the monitor page."""

import builtins
import re
import socket

import pytest

from stream_classifier.cli import main
from stream_classifier.cli.run import _address
from stream_classifier.errors import ConfigError, MissingExtraError
from stream_classifier.evaluation import palette
from stream_classifier.monitor.memory import Site
from stream_classifier.monitor.server import _listen
from stream_classifier.service import _monitor


@pytest.mark.parametrize("text", ["", "host", "host:", ":8080", "host:port", "1.2.3.4:99x"])
def test_an_address_that_is_none_is_refused_with_an_example(text):
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1:8080"):
        _address(text)


def test_a_port_in_use_is_said_by_name():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port}: .* in use"):
            _listen("127.0.0.1", port)


def test_without_the_extra_it_is_named(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **more):
        if name == "stream_classifier.monitor.server":
            raise ModuleNotFoundError("No module named 'uvicorn'", name="uvicorn")
        return real(name, *args, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with (
        pytest.raises(MissingExtraError, match=r"\[monitor\]"),
        _monitor(None, None, None, acknowledge=None, mute=None),
    ):
        pass


def test_a_bad_address_is_exit_code_3(capsys):
    assert main(["run", "--monitor-at", "nowhere"]) == 3
    assert "--monitor-at" in capsys.readouterr().err


@pytest.mark.parametrize("theme", [0, 1])
def test_every_text_of_the_page_has_enough_contrast(theme):
    colours = {name: both[theme] for name, both in palette.SCREEN.items()}
    on_card = ["ink", "muted", "accent", "high-ink", "medium-ink", "low-ink", "ok"]
    pairs = [(text, paper) for text in on_card for paper in ("card", "paper")]
    pairs += [(f"on-{name}", name) for name in ("high", "medium", "low", "none", "accent")]
    pairs += [("ink", "page"), ("ink", "note"), ("ink", "high-soft"), ("high-ink", "high-soft")]
    poor = [(a, b) for a, b in pairs if contrast(colours[a], colours[b]) < 4.5]
    assert poor == []
    assert contrast(colours["edge"], colours["card"]) >= 3  # of controls


def contrast(a, b):
    """As WCAG 2 defines it."""
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def luminance(colour):
    channels = [int(part, 16) / 255 for part in re.findall("..", colour[1:])]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_the_vertex_is_in_the_middle_and_the_ring_around_it():
    assert Site.seen_from_above(0.0, 0.0, 1.0) == Site(0.0, 0.0)
    assert Site.seen_from_above(0.0, 1.0, 0.0) == Site(0.0, 1.0)
