"""The monitor page in a real browser, on a pipeline that says whatever the test wants."""

import math
import re
import time

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from stream_classifier.detection.montage import position
from stream_classifier.monitor.memory import Site
from tests.running_monitor import RunningMonitor

pytestmark = pytest.mark.timeout(120)

EIGHT = ("Fp1", "Fp2", "C3", "C4", "T7", "T8", "O1", "O2")
THIRTY_TWO = (
    *("Fp1", "Fp2", "F7", "F3", "Fz", "F4", "F8", "T7", "C3", "Cz", "C4", "T8", "P7", "P3", "Pz"),
    *("P4", "P8", "O1", "O2", "FC5", "FC1", "FC2", "FC6", "CP5", "CP1", "CP2", "CP6", "PO3", "PO4"),
    *("AF3", "AF4", "Oz"),
)
ALERT = {"on": True, "p": 0.94, "uv": 60}
NO_SIGNAL = {
    "signal": "none",
    "silent": True,
    "broken": {"samples": ("no_data", "no sample for more than 1.5 s")},
}
MARKUP = "<img src=x onerror=\"globalThis.stolen='yes'\">"


def monitor_of(labels, **changes):
    sites = tuple(site and Site.seen_from_above(*site) for site in map(position, labels))
    return RunningMonitor(labels=labels, sites=sites, **changes)


@pytest.fixture
def monitor():
    with monitor_of(EIGHT) as running:
        yield running


def title(page):
    return page.locator("#alarm .title").first


def until(page, expression, within_s=10.0):
    """Wait for something in the page. The page's own policy forbids Playwright's way of it."""
    deadline_s = time.monotonic() + within_s
    while not page.evaluate(expression):
        assert time.monotonic() < deadline_s, f"{expression} within {within_s:g} s"
        page.wait_for_timeout(50)


def wait_until_drawn(page, n=20):
    until(page, f"monitor.sweep.frames.length > {n}")


def serious(page):
    """What axe finds that keeps somebody from using the page."""
    found = Axe().run(page).response["violations"]
    return [
        (each["id"], node["html"][:160])
        for each in found
        if each["impact"] in {"serious", "critical"}
        for node in each["nodes"]
    ]


SCENES = {
    "calm": ({}, "No seizure suspected"),
    "alert": (ALERT | {"poor": ("T8",)}, "Seizure suspected"),
    "no-signal": (NO_SIGNAL, "No usable signal"),
    "broker": ({"broken": {"broker": ("fault", "the broker is gone")}}, "No seizure suspected"),
}
LOOKS = {"light": {}, "dark": {"scheme": "dark"}, "phone": {"phone": True}}


CHOSEN = [("calm", "light"), ("alert", "light"), ("alert", "dark"), ("alert", "phone")]
CHOSEN += [("no-signal", "light"), ("broker", "light")]


@pytest.mark.parametrize(
    ("scene", "look"),
    [
        pytest.param(scene, look, marks=() if (scene, look) in CHOSEN else pytest.mark.slow)
        for scene in SCENES
        for look in LOOKS
    ],
)
def test_each_state_is_said_in_words_and_can_be_read_by_everybody(
    monitor, open_page, shot, scene, look
):
    settings, words = SCENES[scene]
    with monitor.playing() as playing:
        page = open_page(monitor.url, **LOOKS[look])
        wait_until_drawn(page)
        playing.update(settings)
        expect(title(page)).to_contain_text(words)
        shot(page, f"{scene}-{look}", after_s=4)
        assert serious(page) == []


@pytest.mark.parametrize("n", [1, 32])
def test_one_channel_is_one_number_and_many_are_a_table_and_a_head(open_page, shot, n):
    labels = THIRTY_TWO[:n]
    with monitor_of(labels) as monitor, monitor.playing(p=0.62):
        page = open_page(monitor.url)
        wait_until_drawn(page)
        expect(page.locator("#one")).to_be_visible(visible=n == 1)
        expect(page.locator("#quality")).to_be_visible(visible=n > 1)
        expect(page.locator("#scalp")).to_be_visible(visible=n > 1)
        if n == 1:
            expect(page.locator("#one-p")).to_have_text("0.62")
        else:
            expect(page.locator("#quality tbody tr")).to_have_count(n)
            expect(page.locator("#scalp circle.ring.good")).to_have_count(n + 1)  # and the legend
            expect(page.locator("#fusion")).to_contain_text("together p 0.62, below 0.8")
        shot(page, f"{n}-channels", after_s=5)
        assert serious(page) == []


def test_an_alert_is_announced_once_and_stays_until_it_is_acknowledged(monitor, open_page):
    with monitor.playing() as scene:
        page = open_page(monitor.url)
        expect(page.locator("#announce")).to_contain_text("No seizure suspected")
        page.evaluate(
            "globalThis.n = 0;"
            "new MutationObserver((all) => { globalThis.n += all.length; })"
            ".observe(document.getElementById('announce'), {childList: true, characterData: true})"
        )
        life = {"alert_id": "a1", "raised_s": monitor.now(), "onset_s": monitor.now() - 2}
        scene.update(ALERT | {"life": life})
        monitor.event("raised", alert_id="a1")
        expect(page.locator("#announce")).to_contain_text("Seizure suspected")
        page.wait_for_timeout(1500)  # while p and the time it stands go on changing
        assert page.evaluate("globalThis.n") == 1
        scene.update(on=False, p=0.05)
        monitor.event("ended", alert_id="a1", seq=1, off_s=monitor.now(), over=True)
        expect(title(page)).to_have_text("Seizure suspected earlier")
        page.keyboard.press("a")
        monitor.event("acknowledged", alert_id="a1", seq=2, over=True, acknowledged=True)
        expect(title(page)).to_have_text("No seizure suspected")
        assert monitor.acknowledged == ["a1"]


def test_an_alert_that_stands_without_a_signal_says_both(monitor, open_page):
    with monitor.playing(**ALERT) as scene:
        page = open_page(monitor.url)
        expect(title(page)).to_have_text("Seizure suspected")
        scene.update(NO_SIGNAL | {"on": True})
        expect(page.locator("#alarm .band.none")).to_contain_text("No usable signal")
        expect(page.locator("#alarm .band.high")).to_contain_text("whether it goes on is unknown")
        expect(page.locator("#p-now")).to_have_text("--")


def test_what_is_lost_is_hatched_and_never_drawn_through(monitor, open_page):
    with monitor.playing() as scene:
        page = open_page(monitor.url)
        wait_until_drawn(page)
        scene.update(silent=True)
        page.wait_for_timeout(800)
        scene.update(silent=False)
        until(page, "monitor.live.gaps.length === 1")
        is_hole = page.evaluate(
            """() => {
              const { gaps: [[from, to]], shown, size } = monitor.live;
              return shown.every(({ data }) =>
                [from, to - 1].every((i) => Number.isNaN(data[i % size])));
            }"""
        )
        assert is_hole


def test_a_viewer_that_comes_late_sees_what_was_before(monitor, open_page):
    with monitor.playing():
        time.sleep(3)
        page = open_page(monitor.url)
        wait_until_drawn(page)
        until(page, "monitor.live.newest - monitor.live.time(monitor.live.first) > 2.5")
        assert page.evaluate("monitor.live.gaps.length") == 0


def test_frames_that_a_slow_viewer_did_not_get_are_fetched(monitor, open_page):
    with monitor.playing():
        page = open_page(monitor.url)
        wait_until_drawn(page)
        page.evaluate("globalThis.take = monitor.connection.on.frame; 0")
        page.evaluate("monitor.connection.on.frame = () => {}; 0")
        page.wait_for_timeout(700)
        page.evaluate("monitor.connection.on.frame = globalThis.take; 0")
        page.wait_for_timeout(200)
        until(page, "monitor.live.gaps.length === 0")
        assert page.evaluate("monitor.live.newest - monitor.live.time(monitor.live.first)") > 0.9


@pytest.mark.slow
def test_a_contact_that_comes_and_goes_makes_no_band_come_and_go(monitor, open_page):
    with monitor.playing() as scene:
        page = open_page(monitor.url)
        expect(title(page)).to_have_text("No seizure suspected")
        page.evaluate(
            "globalThis.n = 0;"
            "new MutationObserver(() => { globalThis.n += 1; })"
            ".observe(document.getElementById('alarm'), {childList: true})"
        )
        for i in range(6):
            scene.update(poor=("T8",) if i % 3 == 0 else ())
            page.wait_for_timeout(1000)
        assert page.evaluate("globalThis.n") == 0
        scene.update(poor=("T8",))
        expect(page.locator("#alarm .band.medium")).to_contain_text("T8 (mains)", timeout=15_000)


def test_pause_freezes_the_view_and_says_how_far_behind_it_is(monitor, open_page):
    with monitor.playing():
        page = open_page(monitor.url)
        wait_until_drawn(page)
        page.keyboard.press(" ")
        expect(page.locator("#behind")).to_contain_text("paused")
        before = page.evaluate("monitor.sweep.drawn.head")
        newest = page.evaluate("monitor.live.newest")
        expect(page.locator("#behind")).to_contain_text("2 s behind")
        assert page.evaluate("monitor.sweep.drawn.head") == before
        assert page.evaluate("monitor.live.newest") > newest
        page.keyboard.press(" ")
        expect(page.locator("#behind")).to_be_hidden()
        until(page, f"monitor.sweep.drawn.head > {before} + 1")


def test_review_shows_the_past_from_the_classifiers_memory(monitor, open_page, shot):
    with monitor.playing():
        time.sleep(1)
        page = open_page(monitor.url)
        wait_until_drawn(page)
        page.keyboard.press("r")
        expect(page.locator("#review-bar")).to_be_visible()
        expect(page.locator("#behind")).to_contain_text("review")
        until(page, "!monitor.sweep.drawn.samples.empty")
        shot(page, "review", after_s=2)
        page.keyboard.press("Escape")
        expect(page.locator("#review-bar")).to_be_hidden()


@pytest.mark.slow
def test_a_mark_is_seen_by_every_viewer(monitor, open_page):
    with monitor.playing():
        pages = [open_page(monitor.url) for _ in range(2)]
        for page in pages:
            wait_until_drawn(page)
        pages[0].keyboard.press("m")
        for page in pages:
            expect(page.locator("#events")).to_contain_text("Mark “mark 1”")


KEYS = [
    ("]", "timebase", "60 mm/s"),
    ("h", "highpass", "1"),
    ("n", "notch", "50"),
    ("g", "montage", "average"),
    ("c", "show", "strongest"),
]


def test_every_setting_of_the_view_has_a_key_and_is_drawn(monitor, open_page):
    with monitor.playing():
        page = open_page(monitor.url)
        wait_until_drawn(page)
        for key, control, value in KEYS:
            page.keyboard.press(key)
            expect(page.locator(f"#{control}")).to_have_value(value)
            page.evaluate("monitor.sweep.frames = []")
            wait_until_drawn(page, 3)


def test_plus_and_minus_change_the_sensitivity_by_a_step(monitor, open_page):
    with monitor.playing(uv=60):
        page = open_page(monitor.url)
        until(page, "monitor.sweep.uvPerMm !== 7")  # found by itself
        before = page.evaluate("monitor.sweep.uvPerMm")
        page.keyboard.press("+")
        assert page.evaluate("monitor.sweep.uvPerMm") < before
        page.keyboard.press("-")
        assert page.evaluate("monitor.sweep.uvPerMm") == before


def test_every_control_is_named_reachable_and_large_enough(monitor, open_page):
    with monitor.playing(**ALERT):
        page = open_page(monitor.url)
        expect(title(page)).to_have_text("Seizure suspected")
        small = page.evaluate(
            """() => [...document.querySelectorAll("button, select")]
              .filter((each) => each.checkVisibility())
              .filter((each) => {
                const { width, height } = each.getBoundingClientRect();
                return Math.min(width, height) < 24 || each.tabIndex < 0;
              })
              .map((each) => each.outerHTML)"""
        )
        assert small == []
        page.keyboard.press("?")
        expect(page.locator("#keys")).to_be_visible()
        assert page.locator("#keys dt").count() > 15


def test_nothing_moves_by_itself(monitor, open_page):
    with monitor.playing(**ALERT):
        page = open_page(monitor.url)
        expect(title(page)).to_have_text("Seizure suspected")
        moving = page.evaluate("document.getAnimations({subtree: true}).length")
        assert moving == 0
        shades = set()
        for _ in range(12):
            shades.add(
                page.evaluate("getComputedStyle(document.querySelector('.band')).backgroundColor")
            )
            page.wait_for_timeout(120)
        assert len(shades) == 1


def test_markup_in_names_is_shown_as_text_and_runs_nothing(open_page):
    with RunningMonitor(stream=MARKUP, labels=(MARKUP, "C4")) as monitor, monitor.playing(**ALERT):
        page = open_page(monitor.url)
        expect(page.locator("#stream")).to_have_text(MARKUP)
        expect(title(page)).to_have_text("Seizure suspected")
        page.keyboard.press("m")
        page.wait_for_timeout(500)
        assert page.evaluate("globalThis.stolen") is None
        assert page.locator("img").count() == 0


def test_a_page_whose_classifier_went_says_so_and_goes_on_with_the_next_one(open_page, shot):
    with RunningMonitor(labels=("C3", "C4")) as first, first.playing():
        port = first.port
        page = open_page(first.url)
        wait_until_drawn(page)
    expect(title(page)).to_have_text("No connection to the classifier")
    expect(page.locator("#p-now")).to_have_text("--")
    with (
        RunningMonitor(labels=("O1", "O2", "Pz"), port=port, stream="bed 4") as other,
        other.playing(),
    ):
        expect(title(page)).to_have_text("No seizure suspected", timeout=15_000)
        expect(page.locator("#stream")).to_have_text("bed 4")
        expect(page.locator("#quality tbody tr")).to_have_count(3)


@pytest.mark.slow
def test_a_clock_that_jumps_ends_nothing(monitor, open_page):
    with monitor.playing():
        page = open_page(monitor.url)
        wait_until_drawn(page)
        monitor.origin_s -= 3600  # an hour on
        monitor.n_sent += 3600 * 256
        page.wait_for_timeout(500)
        n = page.evaluate("monitor.live.next")
        until(page, f"monitor.live.next > {n} + 100")
        expect(title(page)).to_have_text("No seizure suspected")


TONES = [
    ("highpass", 0.5, 0.0, 0.0, 0.001),
    ("highpass", 0.5, 10.0, 0.98, 1.02),
    ("lowpass", 30.0, 100.0, 0.0, 0.12),
    ("lowpass", 30.0, 5.0, 0.98, 1.02),
    ("notch", 50.0, 50.0, 0.0, 0.05),
    ("notch", 50.0, 40.0, 0.9, 1.02),
]


def test_the_views_filters_do_what_they_are_named_for(monitor, open_page):
    page = open_page(monitor.url)
    for kind, hz, tone_hz, least, most in TONES:
        gain = page.evaluate(
            """async ([kind, hz, tone]) => {
              const { Chain, design } = await import("/filters.js");
              const chain = new Chain([design(kind, hz, 512)]);
              let most = 0;
              for (let i = 0; i < 8192; i++) {
                const y = chain.next(tone ? Math.sin((2 * Math.PI * tone * i) / 512) : 1);
                if (i > 6000) most = Math.max(most, Math.abs(y));
              }
              return most;
            }""",
            [kind, hz, tone_hz],
        )
        assert least <= gain <= most, (kind, hz, tone_hz)


@pytest.mark.slow
def test_the_scale_bar_is_as_long_as_it_says(monitor, open_page):
    with monitor.playing():
        page = open_page(monitor.url)
        wait_until_drawn(page)
        px_per_uv, uv_per_mm = page.evaluate("[monitor.sweep.pxPerUv, monitor.sweep.uvPerMm]")
        assert math.isclose(px_per_uv * uv_per_mm, 96 / 25.4)


@pytest.mark.slow
def test_the_page_is_still_itself_without_the_network(monitor, open_page):
    with monitor.playing():
        page = open_page(monitor.url)
        hosts = []
        page.on("request", lambda request: hosts.append(request.url))
        page.reload()
        wait_until_drawn(page)
        assert hosts
        assert all(re.match(rf"(http|ws)://127\.0\.0\.1:{monitor.port}/", url) for url in hosts)
