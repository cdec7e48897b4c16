"""What a broker keeps outlives who said it: nothing old is shown as how things are now."""

import time
from datetime import UTC, datetime

import pytest

from stream_classifier.cli.status import _lines, duration
from stream_classifier.cli.subscribe import PlainLines
from stream_classifier.sinks.overview import _standing, lowest_broken, rungs_of, unix_time
from stream_classifier.sinks.subscriber import Received

NOW_S = 1_800_000_000.0
ORDER = ("outlet", "samples", "rate", "quality", "engine", "outbox", "broker")


def ago(seconds):
    at = datetime.fromtimestamp(NOW_S - seconds, UTC).isoformat(timespec="milliseconds")
    return at.replace("+00:00", "Z")


def health(age_s=1.0, state="ok", **broken):
    """``rate="fault"``, and ``state`` of the whole."""
    rungs = [
        {
            "rung": rung,
            "state": broken.get(rung, "ok"),
            "since": ago(age_s + 5),
            "reason": f"why {rung}" if rung in broken else "",
            "remedy": f"mend {rung}" if rung in broken else "",
        }
        for rung in ORDER
    ]
    latency = {"p50": 3.25, "p99": 9.0, "n": 100}
    return {
        "schema": "stream_classifier/health/1", "stream": "Bed 3", "published": ago(age_s),
        "state": state, "rungs": rungs, "decision_latency_ms": latency,
    }  # fmt: skip


def alert(age_s=1.0, **fields):
    return {
        "stream": "Bed 3", "published": ago(age_s), "on": False, "signal": "ok", "alert_id": None,
        "ended": None, "raised": None,
    } | fields  # fmt: skip


ON = {"on": True, "alert_id": "9f" * 16, "raised": ago(125)}


def standing(status="online", *, of=None, state=None):
    kept = {"status": (status, {}), "health": ("", of), "alert": ("", state)}
    return _standing(
        "bed3",
        {
            what: Received(NOW_S, f"b/bed3/{what}", "bed3", what, text, fields or {}, True)
            for what, (text, fields) in kept.items()
            if (fields is not None if what != "status" else text)
        },
    )


def shown(one):
    return "\n".join(_lines(one, now_s=NOW_S))


def test_what_is_online_and_lately_ok_is_ok():
    one = standing(of=health(), state=alert())
    assert (one.verdict, one.name, one.age_s) == ("ok", "Bed 3", pytest.approx(1.0))
    assert shown(one).startswith("Bed 3: online, ok\n")
    assert "p50 3.25 ms, p99 9 ms (n = 100)" in shown(one)
    assert "outlet   ok        for 6 s" in shown(one)


@pytest.mark.parametrize(
    ("one", "verdict", "why"),
    [
        (standing("offline", of=health(), state=alert()), "offline", "died"),
        (standing("stopped", of=health(), state=alert()), "stopped", "stopped it"),
        (
            standing("stopped", of=health(outlet="fault")),
            "stopped",
            "it gave up: outlet: why outlet",
        ),
        (standing("", of=health(), state=alert()), "unknown", "never said"),
        (standing("half", of=health(), state=alert()), "unknown", "never said"),
        (standing(of=health(31), state=alert()), "old", "nothing for 31 s"),
        (standing(of=health(-31), state=alert()), "old", "clock is 31 s ahead"),
        (standing(of=None, state=alert()), "unknown", "nothing of its health"),
        (standing(of={"state": "ok"}, state=alert()), "unknown", "nothing of its health"),
        (standing(of=health() | {"rungs": []}, state=alert()), "broken", "its health is ok"),
        (standing(of=health() | {"rungs": "x"}, state=alert()), "broken", "its health is ok"),
        (standing(of=health(state="fault"), state=alert()), "broken", "its health is fault"),
    ],
)
def test_nothing_else_is_ever_ok(one, verdict, why):
    assert one.verdict == verdict
    assert why in one.why
    assert one.remedy
    assert "online, ok" not in shown(one)
    assert "NOT OK" in shown(one)


def test_what_is_old_is_shown_as_it_was_and_said_to_be_old():
    said = shown(standing("offline", of=health(400), state=alert(400)))
    assert "what follows is 6 min 40 s old, and says nothing of now" in said
    assert "outlet   (ok)" in said
    assert "alert    UNKNOWN: 6 min 40 s ago it was: none" in said


def test_the_lowest_broken_rung_is_where_a_person_looks_first():
    of = health(state="fault", samples="fault", rate="unknown", broker="fault")
    one = standing(of=of, state=alert())
    assert one.verdict == "broken"
    assert one.why == "samples fault: why samples"
    assert one.remedy == "mend samples"
    assert "try: mend broker" in shown(one)
    unknown = health(state="unknown", **dict.fromkeys(ORDER, "unknown"))
    assert lowest_broken(rungs_of(unknown)).name == "outlet"


def test_a_start_is_not_ok_and_not_broken():
    assert standing(of=health(state="starting", rate="starting")).verdict == "starting"
    worse = health(state="fault", rate="starting", broker="fault")
    assert standing(of=worse).verdict == "broken"


def test_a_standing_alert_is_shown_with_its_age_whatever_health_says():
    broken = health(state="fault", samples="fault")
    assert "alert    ON for 2 min 5 s, id 9f9f" in shown(standing(of=broken, state=alert(**ON)))
    said = shown(standing("offline", of=health(), state=alert(**ON)))
    assert "UNKNOWN: 1 s ago it was: ON for 2 min 5 s" in said
    latched = alert(**ON, latched=True, muted_until=ago(-60), signal="none")
    said = shown(standing(of=health(), state=latched))
    assert "not acknowledged" in said
    assert "quiet is asked for until" in said
    assert "signal none" in said


@pytest.mark.parametrize("value", [None, 7, [], {}, "x\x1b[2J" * 100, True, -1e300])
def test_whatever_somebody_wrote_there_is_shown_harmless(value):
    of = dict.fromkeys(health(), value) | {"published": ago(1)}
    state = dict.fromkeys(alert(**ON), value) | {"published": ago(1)}
    rungs = [dict.fromkeys(("rung", "state", "since", "reason", "remedy"), value), value]
    for fields in (of, of | {"rungs": rungs}):
        one = standing(of=fields, state=state)
        assert one.verdict != "ok"
        for line in _lines(one, now_s=NOW_S):
            assert line.isprintable()


def test_what_is_no_time_is_none():
    assert unix_time("2026-11-24T12:00:00Z") == 1795521600.0
    for odd in (None, "", "soon", 12, "9999-99-99T00:00:00Z", "0001-01-01T00:00:00+23:59"):
        assert unix_time(odd) is None or isinstance(unix_time(odd), float)


def test_durations_are_for_people():
    assert duration(-5) == "0 s"
    assert duration(59.6) == "1 min 0 s"


# What ``subscribe`` says of it


def lines_of(capsys, *messages):
    plain = PlainLines()
    n = sum(
        plain.take(Received(time.time(), "t", "bed3", "health", "", fields, False))
        for fields in messages
    )
    said = capsys.readouterr().out.splitlines()
    assert len(said) == n
    return said


def test_what_breaks_is_told_in_one_line_once_and_when_it_is_well_again(capsys):
    broken = health(state="fault", outlet="fault", samples="no_data", rate="unknown")
    said = lines_of(capsys, health(), broken, broken, health(state="starting", rate="starting"))
    assert len(said) == 2
    assert "health: outlet fault: why outlet. Try: mend outlet" in said[0]
    assert "nothing is broken any more" in said[1]


def test_a_start_and_a_stop_are_told_by_others(capsys):
    stopped = health(state="unknown", **dict.fromkeys(ORDER, "unknown"))
    assert lines_of(capsys, health(state="starting", rate="starting"), health(), stopped) == []
