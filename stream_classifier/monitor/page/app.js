// The page: what arrives goes to the panels, what a person does goes to the classifier.

import { AlarmBand, Alerts, conditions } from "/alarm.js";
import { LatencyChart, ProbabilityChart } from "/charts.js";
import { Connection } from "/connection.js";
import { $, hms, make, number, say, span, unix } from "/dom.js";
import { montages, traces } from "/montage.js";
import { EventList, HeadPanel, QualityPanel, showChips, showLatency, showMqtt } from "/panels.js";
import { Samples } from "/samples.js";
import { Sound } from "/sound.js";
import { Sweep } from "/sweep.js";

const TIMEBASES = { "15 mm/s": { mm: 15 }, "30 mm/s": { mm: 30 }, "60 mm/s": { mm: 60 }, "5 s": { seconds: 5 }, "10 s": { seconds: 10 }, "20 s": { seconds: 20 } };
const SENSITIVITIES = [5, 7, 10, 15, 20, 30, 50, 100, 200, 500];
const HIGHPASS = [0, 0.1, 0.3, 0.5, 1, 2, 5];
const LOWPASS = [0, 15, 30, 35, 40, 70, 100];
const NOTCH = [0, 50, 60];
const BUDGET_MS = 50;
const KEPT_S = 600;
const CHARTS_EVERY_MS = 400;
const WORDS_EVERY_MS = 250;
const FIT_EVERY_MS = 1500;
const SILENT_S = 0.6;
const MOST_ARTEFACTS = 40;

const narrow = matchMedia("(max-width: 640px)");
const FIRST = "connecting";
const state = { connected: false, why: FIRST, alert: null, health: null, prediction: null, quality: null };
const alerts = new Alerts();
const events = new EventList();
const sound = new Sound();
const sweep = new Sweep($("sweep"));
const band = new AlarmBand({ acknowledge, mute });
let about = null;
let live = null; // Samples as they come
let still = null; // {samples, head, why}: what is shown instead
let panels = null;
let filling = false;
let seq = null;
let artefacts = [];
let marks = [];
let clock = { unix: NaN, at: 0, started: NaN };
let arrivedAt = -Infinity;

const now = () => clock.unix + (performance.now() - clock.at) / 1000;
const head = () => {
  const silentS = (performance.now() - arrivedAt) / 1000;
  return silentS > SILENT_S && state.connected ? Math.max(live.newest, live.newest + silentS - SILENT_S) : live.newest;
};

const connection = new Connection({
  said(kind, data) {
    (handlers[kind] ?? (() => {}))(data);
  },
  frame(frame) {
    if (!about || frame.nChannels !== about.labels.length) return;
    if (seq !== null && frame.seq > seq + 1 && !live.empty) fillIn(live.newest, frame.startUnix);
    seq = frame.seq;
    if (!live.append(frame)) sweep.drawn = null;
    arrivedAt = performance.now();
  },
  up() {
    state.connected = true;
  },
  down(why) {
    state.why = why ?? (state.connected || state.why === FIRST ? "the classifier cannot be reached" : state.why);
    state.connected = false;
    showWords();
  },
});

const handlers = {
  hello(data) {
    const isSame = about && JSON.stringify(about) === JSON.stringify(data.about);
    clock = { unix: data.now, at: performance.now(), started: clock.started };
    if (!isSame) begin(data.about);
    seq = null;
    Object.assign(state, { alert: null, health: null, prediction: null, quality: null });
    alerts.reset(data.events);
    events.reset(data.events);
    marks = data.events.filter((event) => event.what === "mark").map(asMark);
    panels.probability.reset(data.predictions);
    for (const [kind, said] of Object.entries(data.state)) handlers[kind]?.(said);
    refill();
    showWords();
    showCharts();
  },
  event(event) {
    events.add(event);
    alerts.take(event);
    if (event.what === "mark") marks.push(asMark(event));
    showWords();
  },
  alert(data) {
    const wasOn = state.alert?.on;
    state.alert = data;
    // One that an earlier process raised has no event here.
    if (data.on && !alerts.byId.has(data.alert_id)) alerts.take({ ...data, what: "alert", at: data.ts, event_type: "raised" });
    if (data.on !== wasOn) showWords();
  },
  health(data) {
    state.health = data;
    showChips(about, data);
  },
  quality(data) {
    noteArtefacts(data, state.quality);
    state.quality = data;
    panels.quality.quality(data);
    const { poor } = panels.quality;
    if (!sameSet(poor, sweep.poor)) {
      sweep.poor = poor;
      sweep.drawGrid();
    }
  },
  prediction(data) {
    state.prediction = data;
    panels.quality.prediction(data);
    panels.head.show(data, panels.quality);
    panels.probability.add(data.t, data.p, data.window_max);
    panels.latency.add(data.t, data.latency_ms);
  },
  answer({ ok, said, do: asked }) {
    say($("said"), said);
    if (!ok && asked === "acknowledge" && pendingIds) {
      for (const id of pendingIds) alerts.acknowledgeHere(id); // long over: only this page still shows it
    }
    showWords();
  },
};

/** Another stream: everything is built anew. */
function begin(fresh) {
  about = fresh;
  clock.started = clock.unix;
  say($("stream"), about.stream);
  const rates = Math.abs(about.rate_hz - about.model_rate_hz) > 0.5 ? `${trim(about.rate_hz)}→${trim(about.model_rate_hz)} Hz` : `${trim(about.rate_hz)} Hz`;
  say($("shape"), `${about.labels.length} ch · ${rates}`);
  say($("version"), `v${about.version} · model ${about.digest.slice(0, 6)} · ${about.engine}`);
  sweep.unit = about.unit || "a.u.";
  fillSelect($("montage"), Object.entries(montages(about.labels)), "referential");
  fillSelect($("show"), [["all", "all"], ["strongest", "strongest p"], ...about.labels.map((label, i) => [String(i), label])], narrow.matches && about.labels.length > 1 ? "strongest" : "all");
  $("show").parentElement.hidden = about.labels.length === 1;
  fillSelect($("lowpass"), choices(LOWPASS.filter((hz) => hz < about.rate_hz / 2), "Hz"), about.rate_hz > 150 ? "70" : "0");
  for (const id of ["probability", "latency"]) $(id).replaceChildren();
  $("sweep").setAttribute("aria-label", `EEG of ${about.stream}: ${about.labels.length} channels, moving`);
  panels = {
    quality: new QualityPanel(about),
    head: new HeadPanel(about),
    probability: new ProbabilityChart($("probability"), about, (at) => reviewAt(at)),
    latency: new LatencyChart($("latency"), BUDGET_MS + about.delay_ms),
  };
  panels.probability.spans = () => alerts.spans;
  panels.probability.marks = () => marks;
  live = new Samples(about.rate_hz, about.labels.length, view());
  filling = false;
  still = null;
  artefacts = [];
  strongest = 0;
  isFitted = false;
  showTraces();
}

const trim = (hz) => String(Math.round(hz * 10) / 10);
const asMark = (event) => ({ at: unix(event.at), text: event.text || "mark", kind: "mark" });
const sameSet = (a, b) => a.size === b.size && [...a].every((each) => b.has(each));

/** What was missed while nobody was connected, or too slow. */
async function refill() {
  const from = Math.max(now() - 60, live.empty ? 0 : live.newest);
  if (!live.empty && now() - live.newest < 1) return;
  await fillIn(from, now());
}

async function fillIn(from, to) {
  if (filling || !(to > from)) return;
  filling = true;
  try {
    const target = live;
    const frames = await connection.samples(Math.max(from, to - 60), to + 1);
    if (target !== live) return;
    const fetched = new Samples(about.rate_hz, about.labels.length, view());
    for (const frame of frames) {
      if (frame.nChannels === about.labels.length) fetched.append(frame);
    }
    if (!fetched.empty) adopt(fetched);
  } catch {
    // The next gap is filled; this one stays hatched.
  } finally {
    filling = false;
  }
}

/** Put what was fetched where it belongs: behind what was held before it, before what came since. */
function adopt(fetched) {
  const joined = new Samples(about.rate_hz, about.labels.length, view());
  copyInto(joined, live, fetched.first);
  copyInto(joined, fetched, fetched.next);
  copyInto(joined, live, live.next);
  live = joined;
  sweep.drawn = null;
}

/** Add the samples of a part that follow, up to an index; its gaps stay gaps. */
function copyInto(target, part, until) {
  if (part.empty) return;
  let at = target.empty ? part.first : Math.max(part.first, target.next);
  for (const [hole, end] of [...part.gaps.filter(([, to]) => to > at), [until, until]]) {
    const stop = Math.min(hole, until);
    if (stop > at) target.append(part.frame(at, stop));
    at = Math.max(at, end);
  }
}

function noteArtefacts(data, before) {
  const was = new Map((before?.channels ?? []).map((each) => [each.channel, each.state]));
  const fresh = data.channels.filter((each) => each.state === "poor" && was.has(each.channel) && was.get(each.channel) !== "poor" && each.reasons.length);
  if (!fresh.length) return;
  const [{ channel, reasons }] = fresh;
  if (reasons[0] === "settling" || reasons[0] === "hold-off") return;
  const who = fresh.length === 1 ? channel : `${fresh.length} channels`;
  artefacts.push({ at: unix(data.ts), text: `${who}: ${reasons[0]}`, kind: "artefact" });
  if (artefacts.length > MOST_ARTEFACTS) artefacts.shift();
}

sweep.spans = () => alerts.spans;
sweep.annotations = () => [
  ...alerts.spans.flatMap(({ from, raised }) => [
    { at: raised, text: `alert raised ${(raised - from).toFixed(1)} s`, kind: "raised" },
    { at: from, text: "estimated onset", kind: "onset" },
  ]),
  ...marks,
  ...artefacts,
];

// --- What is shown of the signal -------------------------------------------------------------

let strongest = 0;

function view() {
  return {
    traces: traces($("montage").value || "referential", about.labels),
    highpass: Number($("highpass").value),
    lowpass: Number($("lowpass").value),
    notch: Number($("notch").value),
  };
}

/** Settings of filters or montage were changed. */
function showView() {
  live.setView(view());
  still?.samples.setView(view());
  showTraces();
}

/** Which traces are on the paper. */
function showTraces() {
  const all = live.shown.map(({ label, plus, minus }, at) => ({ label, plus, minus, at }));
  const which = $("show").value;
  if (which === "strongest") findStrongest();
  const one = which === "strongest" ? strongest : Number(which);
  sweep.traces = which === "all" ? all : all.filter((trace) => trace.plus === one || trace.minus === one);
  if (!sweep.traces.length) sweep.traces = all;
  $("sweep").classList.toggle("one", sweep.traces.length === 1);
  sweep.poor = panels.quality.poor;
  sweep.layOut();
}

/** Sensitivity "auto": the standard one at which traces fit; it moves in steps, and not for little. */
function fitSensitivity() {
  if ($("sensitivity").value !== "auto" || still) return;
  const wanted = sweep.fitting(live);
  const isWrong = !isFitted || wanted > 1.3 * sweep.uvPerMm || wanted < 0.35 * sweep.uvPerMm;
  if (!(wanted > 0) || !isWrong) return;
  isFitted = true;
  setSensitivity(SENSITIVITIES.find((each) => each >= wanted) ?? SENSITIVITIES.at(-1));
}

let isFitted = false;
function setSensitivity(uvPerMm) {
  sweep.uvPerMm = uvPerMm;
  const [auto] = $("sensitivity").options;
  say(auto, $("sensitivity").value === "auto" ? `auto: ${uvPerMm} µV/mm` : "auto");
  sweep.layOut();
}

function findStrongest() {
  const smoothed = state.prediction?.smoothed ?? [];
  const best = smoothed.reduce((top, p, i) => (p !== null && p > (smoothed[top] ?? -1) ? i : top), strongest);
  const isClear = (smoothed[best] ?? 0) > (smoothed[strongest] ?? -1) + 0.1;
  if (best === strongest || !isClear) return false;
  strongest = best;
  return true;
}

function pause() {
  if (still) return goLive();
  if (!live || live.empty) return;
  still = { samples: live.clone(), head: head(), why: "paused" };
  $("pause").setAttribute("aria-pressed", "true");
  say($("pause").firstChild, "Go on");
}

function goLive() {
  still = null;
  $("review-bar").hidden = true;
  $("pause").setAttribute("aria-pressed", "false");
  $("review").setAttribute("aria-pressed", "false");
  say($("pause").firstChild, "Pause");
  sweep.mode = mode;
  sweep.layOut();
}

async function reviewAt(time) {
  if (!about) return;
  const to = Math.min(now(), Math.max(now() - KEPT_S + sweep.pageS, time + sweep.pageS / 2));
  const from = to - sweep.pageS;
  const samples = new Samples(about.rate_hz, about.labels.length, view());
  still = { samples, head: to, why: "review" };
  $("review-bar").hidden = false;
  $("review").setAttribute("aria-pressed", "true");
  $("pause").setAttribute("aria-pressed", "true");
  say($("pause").firstChild, "Go on");
  sweep.mode = "scroll";
  sweep.layOut();
  const mine = still;
  try {
    const frames = await connection.samples(from - 3, to);
    if (still !== mine) return;
    for (const frame of frames) if (frame.nChannels === about.labels.length) samples.append(frame);
    if (samples.empty) say($("review-says"), "nothing is kept of that time");
    sweep.drawn = null;
  } catch (error) {
    say($("said"), `no samples: ${error.message}`);
  }
}

const reviewed = () => (still ? still.head - sweep.pageS / 2 : now() - sweep.pageS / 2);

function review() {
  if (still?.why === "review") goLive();
  else reviewAt(still ? still.head - sweep.pageS / 2 : now() - sweep.pageS / 2);
}

// --- What a person does -----------------------------------------------------------------------

let pendingIds = null;

function acknowledge(condition) {
  const found = condition ?? band.acknowledgeable;
  if (!found?.alertId) return;
  pendingIds = found.ids;
  for (const id of found.ids.filter((each) => each !== found.alertId)) alerts.acknowledgeHere(id);
  if (!connection.ask({ do: "acknowledge", alert_id: found.alertId })) say($("said"), "not connected");
}

function mute() {
  const isQuiet = unix(state.alert?.muted_until) > now();
  connection.ask({ do: "mute", minutes: isQuiet ? 0 : 2 });
}

function mark() {
  if (!live || live.empty) return;
  const at = still ? still.head : live.newest;
  const n = marks.length + 1;
  if (!connection.ask({ do: "mark", at, text: `mark ${n}` })) say($("said"), "not connected");
}

function step(select, by) {
  const next = select.selectedIndex + by;
  if (next < 0 || next >= select.options.length) return;
  select.selectedIndex = next;
  select.dispatchEvent(new Event("change"));
}

/** One step from the sensitivity in use, be it chosen or found. */
function magnify(by) {
  const next = SENSITIVITIES[SENSITIVITIES.indexOf(sweep.uvPerMm) + by];
  if (next === undefined) return;
  $("sensitivity").value = String(next);
  setSensitivity(next);
}

function theme() {
  const root = document.documentElement;
  const isDark = getComputedStyle(root).colorScheme === "dark";
  root.dataset.theme = isDark ? "light" : "dark";
  localStorage.setItem("theme", root.dataset.theme);
  repaint();
}

function repaint() {
  sweep.repaint();
  panels?.head.repaint();
  showCharts();
}

let mode = "sweep";
function setMode(next) {
  mode = next;
  for (const each of ["sweep", "scroll"]) $(`mode-${each}`).setAttribute("aria-pressed", String(each === mode));
  if (still?.why !== "review") sweep.mode = mode;
  sweep.layOut();
}

function toggleSound() {
  const on = sound.toggle();
  $("sound").setAttribute("aria-pressed", String(on));
  say($("sound").firstChild, on ? "Sound: on" : "Sound: off");
}

const KEYS = {
  " ": ["Space", "pause the view, or go on; the classifier goes on all the while", pause],
  m: ["M", "mark this moment", mark],
  r: ["R", "review the last ten minutes, or back", review],
  a: ["A", "acknowledge the alert", () => acknowledge()],
  s: ["S", "quiet for two minutes, or end it", mute],
  "+": ["+", "larger traces", () => magnify(-1)],
  "-": ["−", "smaller traces", () => magnify(1)],
  "[": ["[", "slower paper", () => step($("timebase"), -1)],
  "]": ["]", "faster paper", () => step($("timebase"), 1)],
  h: ["H", "next high-pass", () => step($("highpass"), 1)],
  l: ["L", "next low-pass", () => step($("lowpass"), 1)],
  n: ["N", "next notch", () => cycle($("notch"))],
  g: ["G", "next montage", () => cycle($("montage"))],
  c: ["C", "next channel to show, or all", () => cycle($("show"))],
  v: ["V", "sweep or scroll", () => setMode(mode === "sweep" ? "scroll" : "sweep")],
  o: ["O", "alarm sound on or off", toggleSound],
  d: ["D", "light or dark", theme],
  ArrowLeft: ["←", "review: a page back", () => reviewAt(reviewed() - sweep.pageS)],
  ArrowRight: ["→", "review: a page on", () => still && reviewAt(reviewed() + sweep.pageS)],
  Escape: ["Esc", "back to live", () => still && goLive()],
  "?": ["?", "these keys", () => $("keys").showModal()],
};
const OTHER_NAMES = { "=": "+", _: "-", "−": "-" };

function cycle(select) {
  select.selectedIndex = (select.selectedIndex + 1) % select.options.length;
  select.dispatchEvent(new Event("change"));
}

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || $("keys").open) return;
  const element = event.target;
  if (element instanceof HTMLElement && element.matches("select, input")) {
    if (event.key !== "Escape") return;
    element.blur();
  }
  if (event.key === " " && element instanceof HTMLButtonElement) return;
  const key = KEYS[OTHER_NAMES[event.key] ?? (event.key.length === 1 ? event.key.toLowerCase() : event.key)];
  if (!key) return;
  event.preventDefault();
  key[2]();
});

$("pause").onclick = pause;
$("mark").onclick = mark;
$("review").onclick = review;
$("sound").onclick = toggleSound;
$("theme").onclick = theme;
$("help").onclick = () => $("keys").showModal();
$("mode-sweep").onclick = () => setMode("sweep");
$("mode-scroll").onclick = () => setMode("scroll");
$("review-live").onclick = goLive;
$("review-back").onclick = () => reviewAt(reviewed() - sweep.pageS);
$("review-forth").onclick = () => reviewAt(reviewed() + sweep.pageS);
$("review-at").oninput = () => reviewAt(now() - KEPT_S + Number($("review-at").value) - sweep.pageS / 2);
$("timebase").onchange = () => {
  sweep.timebase = TIMEBASES[$("timebase").value];
  sweep.layOut();
  if (still?.why === "review") reviewAt(reviewed());
};
$("sensitivity").onchange = () => {
  const { value } = $("sensitivity");
  isFitted = false;
  setSensitivity(value === "auto" ? sweep.uvPerMm : Number(value));
};
for (const id of ["highpass", "lowpass", "notch", "montage"]) $(id).onchange = showView;
$("show").onchange = showTraces;
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);

// --- Drawing ------------------------------------------------------------------------------------

function showWords() {
  const time = now();
  say($("time"), hms(time));
  if (!about) {
    band.show(conditions({ ...state, lastAt: null, alerts }), time);
    return;
  }
  sweep.marksAreOld = true;
  say($("elapsed"), `local · ${span(time - clock.started)} watched`);
  const found = steady(conditions({ ...state, lastAt: live.newest, alerts, contacts: panels.quality.contacts }), time);
  band.show(found, time);
  if (found[0].level === "high" && found[0].alertId && !(found[0].mutedUntil > time)) sound.due();
  const isBlind = !state.connected || !["ok", "calibrating"].includes(state.alert?.signal);
  document.body.classList.toggle("blind", isBlind);
  say($("p-now"), isBlind ? "--" : number(state.prediction?.p));
  panels.quality.old(isBlind && state.prediction ? state.prediction.t : null);
  if (state.health) showLatency(about, state.health, BUDGET_MS);
  if (state.alert) showMqtt(about, state.alert, state.health);
  if ($("show").value === "strongest" && findStrongest()) showTraces();
  $("behind").hidden = !still;
  if (still) {
    const behind = span(time - still.head);
    say($("behind"), still.why === "paused" ? `❚❚ paused, ${behind} behind` : `◀ review, ${behind} behind`);
    if (still.why === "review") {
      $("review-at").value = String(KEPT_S - (time - still.head));
      say($("review-says"), `${hms(still.head - sweep.pageS)} to ${hms(still.head)}`);
    }
  }
  const says = live.empty ? (state.connected ? "No sample has arrived yet." : "Nothing to show.") : "";
  $("sweep-says").hidden = !says;
  say($("sweep-says"), says);
}

/** What is of lesser urgency stays for some seconds, so that no band comes and goes all the while. */
const lately = new Map();
function steady(found, time) {
  const keys = new Set(found.map((each) => each.key));
  for (const each of found) {
    if ((each.level === "low" || each.level === "medium") && !lately.has(each.key)) lately.set(each.key, { each, until: time + 5 });
  }
  for (const [key, { each, until }] of lately) {
    if (keys.has(key)) continue;
    if (time < until && state.connected) found.push(each);
    else lately.delete(key);
  }
  return found;
}

function showCharts() {
  if (!about) return;
  const time = state.connected ? now() : live.newest;
  if (!Number.isFinite(time)) return;
  panels.probability.draw(time);
  panels.latency.draw(time);
}

let wordsAt = 0;
let chartsAt = 0;
let fittedAt = 0;
function tick(at) {
  if (about) {
    const shown = still?.samples ?? live;
    if (at - fittedAt > FIT_EVERY_MS) {
      fittedAt = at;
      fitSensitivity();
    }
    sweep.draw(shown, still ? still.head : head());
    if (at - chartsAt > CHARTS_EVERY_MS) {
      chartsAt = at;
      showCharts();
    }
  }
  if (at - wordsAt > WORDS_EVERY_MS) {
    wordsAt = at;
    showWords();
  }
  requestAnimationFrame(tick);
}

function fillSelect(select, options, chosen) {
  select.replaceChildren(...[...options].map(([value, text]) => make("option", { value }, text)));
  select.value = chosen;
}

const choices = (values, unit) => values.map((value) => [String(value), value ? `${value} ${unit}` : "off"]);

fillSelect($("timebase"), Object.keys(TIMEBASES).map((name) => [name, name]), narrow.matches ? "5 s" : "30 mm/s");
$("timebase").onchange();
fillSelect($("sensitivity"), [["auto", "auto"], ...choices(SENSITIVITIES, "µV/mm")], "auto");
fillSelect($("highpass"), choices(HIGHPASS, "Hz"), "0.5");
fillSelect($("lowpass"), choices(LOWPASS, "Hz"), "70");
fillSelect($("notch"), choices(NOTCH, "Hz"), "0");
$("keys").querySelector("dl").append(...Object.values(KEYS).flatMap(([key, does]) => [make("dt", {}, make("kbd", {}, key)), make("dd", {}, does)]));
const chosen = localStorage.getItem("theme");
if (chosen === "dark" || chosen === "light") document.documentElement.dataset.theme = chosen;
requestAnimationFrame(tick);

// For measuring: what frames cost, and what arrived.
globalThis.monitor = { sweep, connection, get live() { return live; }, state };
