"""Damage to bytes, and what may come of reading them: a result, or an error of ours with a reason.

Every test runs twice: some hundreds of cases each time, tens of thousands with ``-m slow``.
"""

from __future__ import annotations

import random
import resource
import sys
import time

import pytest

from stream_classifier.errors import StreamClassifierError

N_FAST, N_SLOW = 200, 20_000
LONGEST_S = 10.0
"""Of one case on a busy machine; a parser that hangs takes much longer."""

MOST_GROWTH_BYTES = 400 * 2**20

NUMBERS = (
    b"0", b"-1", b"1", b"65536", b"4294967296", b"-9223372036854775808", b"1e308", b"-1e999",
    b"1e-320", b"nan", b"inf", b"1_0", b"0x10", b"9" * 5000, b"", b" ", b"\xd9\xa3",
)  # fmt: skip
ODD = (
    b"\0", b"\xff", b"\x7f\x80", b"\r", b"\n", b"\r\n\r\n", b"\t", b",", b";", b'"', b"'", b".",
    b"\x1b[2J", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xe2\x80\xa8", b"<", b"&lol;", b"]]>",
    b"<!DOCTYPE a>", b"[" * 500, b"{" * 500, b"\x14\0", b"../../", b"%s%n", b"$(x)", b"=", b"#",
)  # fmt: skip


@pytest.fixture(
    params=[
        pytest.param(N_FAST, id="fast"),
        pytest.param(N_SLOW, id="slow", marks=[pytest.mark.slow, pytest.mark.timeout(1800)]),
    ]
)
def n_cases(request):
    return request.param


@pytest.fixture
def n_examples(n_cases):
    """As many for hypothesis, which itself remembers each of them."""
    return max(N_FAST, n_cases // 5)


@pytest.fixture
def rng(request):
    return random.Random(request.node.name)


@pytest.fixture(autouse=True)
def _memory_is_bounded():
    unit = 1 if sys.platform == "darwin" else 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    yield
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit - before
    assert grown < MOST_GROWTH_BYTES, f"{grown / 2**20:.0f} MB more than before"


@pytest.fixture
def refused():
    """Call something; say whether it was refused as it should be. Anything else fails."""

    def call(what):
        began = time.monotonic()
        reason = None
        try:
            what()
        except StreamClassifierError as error:
            reason = str(error)
        assert reason is None or reason.strip(), "an error without a reason"
        assert time.monotonic() - began < LONGEST_S, "it took too long"
        return reason is not None

    return call


@pytest.fixture
def mutated(rng):
    """Damage bytes in some way; ``others``: samples of the same format to take pieces of."""

    def mutate(whole, *others, reach=None):
        raw = bytearray(whole)
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            if raw:
                near = min(len(raw), reach or len(raw)) if rng.random() < 0.7 else len(raw)
                at = rng.randrange(near)
                to = min(len(raw), at + rng.choice((1, 2, 8, 64, 1000)))
                rng.choice(DAMAGES)(raw, at, to, rng, others)
        return bytes(raw)

    return mutate


def _cut(raw, at, _to, _rng, _others):
    del raw[at:]


def _flip(raw, at, _to, rng, _others):
    raw[at] ^= 1 << rng.randrange(8)


def _insert(raw, at, _to, rng, _others):
    raw[at:at] = rng.randbytes(rng.randrange(1, 40))


def _remove(raw, at, to, _rng, _others):
    del raw[at:to]


def _repeat(raw, at, to, rng, _others):
    raw[at:at] = raw[at:to] * rng.choice((1, 2, 50))


def _put_odd(raw, at, _to, rng, _others):
    raw[at:at] = rng.choice(ODD)


def _put_number(raw, at, _to, rng, _others):
    """Put a number where the next one is."""
    digits = b"0123456789.-"
    start = next((n for n in range(at, len(raw)) if raw[n] in digits), at)
    stop = next((n for n in range(start, len(raw)) if raw[n] not in digits), len(raw))
    number = rng.choice(NUMBERS)
    keeps_length = rng.random() < 0.5
    raw[start:stop] = number.ljust(stop - start)[: stop - start] if keeps_length else number


def _fill(raw, at, to, rng, _others):
    raw[at:to] = bytes([rng.choice((0, 32, 45, 48, 57, 255))]) * (to - at)


def _splice(raw, at, to, rng, others):
    if others:
        other = rng.choice(others)
        start = rng.randrange(len(other) or 1)
        raw[at:to] = other[start : start + (to - at)]


DAMAGES = (_cut, _flip, _insert, _remove, _repeat, _put_odd, _put_number, _fill, _splice)
