"""The page on a real pipeline: a device over LSL, a real broker, a person who acknowledges."""

import re
import time
from datetime import datetime

import pytest
from playwright.sync_api import expect

from tests.system.conftest import eventually

pytestmark = [pytest.mark.lsl, pytest.mark.broker, pytest.mark.timeout(120)]

SCENARIO = """
title = "soon"
seed = 3
[[part]]
state = "background"
seconds = 4
[[part]]
state = "seizure"
seconds = 23
"""
SEEN_WITHIN_S = 0.5
NO_DATA_WITHIN_S = 1.5 + 0.5
"""As the promise for results: said 1.5 s after the last sample; and half a second to be seen."""


def unix_s(text):
    return datetime.fromisoformat(text).timestamp()


def seen_at(page, words, within_s):
    """When a title is first seen on the page, Unix time."""
    deadline_s = time.monotonic() + within_s
    while words not in page.locator("#alarm .title").all_text_contents():
        assert time.monotonic() < deadline_s, f"the page did not say {words!r}"
        page.wait_for_timeout(20)
    return time.time()


def test_a_replayed_seizure_is_seen_acknowledged_and_a_lost_device_shows_as_no_signal(
    story, open_page, shot
):
    story.scenario.write_text(SCENARIO)
    device = story.device()
    pipeline = story.pipeline("--monitor")
    said = eventually(lambda: re.search(r"monitor page: (\S+)", pipeline.said), what="the page")
    page = open_page(said[1])

    at_s = seen_at(page, "Seizure suspected (simulated signal)", within_s=40)
    raised = story.until("alert/event", lambda event: event["event_type"] == "raised")
    assert at_s - unix_s(raised["decided"]) < SEEN_WITHIN_S
    assert at_s - unix_s(raised["onset"]) < 3.0 + SEEN_WITHIN_S
    shot(page, "story-alert")

    page.locator("#acknowledge").click()
    told = story.until("alert/event", lambda event: event["event_type"] == "acknowledged")
    assert told["alert_id"] == raised["alert_id"]
    expect(page.locator("#alarm .band.high")).to_contain_text("acknowledged")
    page.keyboard.press("s")
    assert story.until("alert", lambda alert: alert["muted_until"])

    device.kill()
    lost_s = time.time()
    assert seen_at(page, "No usable signal", within_s=20) - lost_s < NO_DATA_WITHIN_S + 1.0
    shot(page, "story-lost")
    assert pipeline.stop() == 0
    expect(page.locator("#alarm .title").first).to_have_text("No connection to the classifier")
