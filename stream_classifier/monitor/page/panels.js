// The panels beside the EEG. Each is built once a stream, and then only its figures change.

import { LINKS } from "/alarm.js";
import { $, colour, hms, make, number, say, svg, unix } from "/dom.js";

const QUALITY = {
  good: ["●", "good"],
  fair: ["◐", "fair"],
  poor: ["▲", "poor"],
};
const LOOKED_BACK = 10; // reports, one a second
const OFTEN = 6;
const SELDOM = 2;
const WORST_FIRST = ["fault", "no_data", "degraded", "starting", "unknown", "ok"];
const STATE = {
  ok: ["●", "ok"],
  starting: ["○", "starting"],
  unknown: ["○", "unknown"],
  degraded: ["◐", "impaired"],
  no_data: ["▲", "no data"],
  fault: ["▲", "fault"],
};

export class QualityPanel {
  constructor(about) {
    this.about = about;
    this.isOne = about.labels.length === 1;
    $("one").hidden = !this.isOne;
    $("quality").hidden = this.isOne;
    $("quality").classList.toggle("many", about.labels.length > 10);
    say($("one-label"), about.labels[0] ?? "");
    this.rows = about.labels.map((label) => {
      const state = make("td", { class: "state" });
      const rms = make("td");
      const mains = make("td");
      const fill = make("i");
      const bar = make("span", { class: "bar-of-p" }, fill);
      const p = make("span");
      const row = make("tr", {}, make("th", { scope: "row", title: label }, label), state, rms, mains, make("td", { class: "p" }, bar, p));
      return { row, state, rms, mains, fill, bar, p };
    });
    $("quality").querySelector("tbody").replaceChildren(...this.rows.map((each) => each.row));
    this.reports = new Map();
    this.history = about.labels.map(() => []);
    this.why = about.labels.map(() => "");
    this.poor = new Set();
    this.fusion();
  }

  quality(data) {
    this.reports = new Map(data.channels.map((each) => [each.channel, each]));
    const counts = ["good", "fair", "poor"].filter((each) => data[each]).map((each) => `${data[each]} ${each}`);
    this.counts = counts.join(" · ") + (data.left_off ? ` · ${data.left_off} not listed` : "");
    say($("quality-count"), this.counts);
    this.settle();
    this.rows.forEach((row, i) => {
      const report = this.report(i);
      if (!report) return;
      const [sign, word] = QUALITY[report.state];
      row.state.className = `state ${report.state}`;
      row.state.title = report.reasons.join(", ");
      say(row.state, `${sign} ${word}`);
      say(row.rms, report.rms_uv === null ? "--" : report.rms_uv.toFixed(report.rms_uv < 9.95 ? 1 : 0));
      say(row.mains, `${Math.round(100 * report.mains_share)} %`);
    });
    if (this.isOne && this.report(0)) {
      const { state, reasons, rms_uv: rms, mains_share: mains } = this.report(0);
      $("one-state").className = state;
      say($("one-state"), [QUALITY[state].join(" "), ...reasons].join(" · "));
      say($("one-more"), `${rms === null ? "--" : rms.toFixed(1)} µV rms · mains ${Math.round(100 * mains)} % · ${this.rule()}`);
    }
  }

  report(i) {
    return this.reports.get(this.about.labels[i]);
  }

  /** p of each channel. */
  prediction(data) {
    const { raise_threshold: raise } = this.about;
    this.rows.forEach((row, i) => {
      const p = data.smoothed[i];
      row.bar.hidden = p === null;
      row.fill.style.width = `${Math.round(100 * (p ?? 0))}%`;
      row.fill.className = p >= raise ? "over" : "";
      say(row.p, p === null ? (data.window[i] === null ? "excluded" : "--") : p.toFixed(2));
    });
    if (this.isOne) say($("one-p"), number(data.p));
    this.fusion(data);
  }

  rule() {
    const needed = this.about.channels_needed;
    return needed === 1 ? "rule: any one channel" : `rule: ${needed} side by side`;
  }

  /** What the channels say together, and which of them. */
  fusion(data) {
    const { labels, raise_threshold: raise } = this.about;
    const over = data ? labels.filter((_, i) => data.smoothed[i] >= raise) : [];
    const verdict = !data || data.p === null ? "nothing can be said" : data.p >= raise ? `at or above ${raise}` : `below ${raise}`;
    const named = over.length ? ` · ${over.slice(0, 8).join(", ")}${over.length > 8 ? " …" : ""}` : "";
    say($("fusion"), `${this.rule()} · together p ${number(data?.p)}, ${verdict}${named}`);
  }

  /** What is shown is of then: nothing is known now. */
  old(at) {
    const said = `not now; as of ${hms(at)}`;
    say($("quality-count"), at === null ? (this.counts ?? "") : said);
    if (at === null) return;
    say($("fusion"), `${this.rule()} · nothing can be said now`);
    if (!this.isOne) return;
    say($("one-p"), "--");
    $("one-state").className = "";
    say($("one-state"), said);
  }

  state(i) {
    return this.report(i)?.state;
  }

  /** Which channels are poor more often than not: what changes every second helps nobody. */
  settle() {
    this.history.forEach((past, i) => {
      const report = this.report(i);
      past.push(report?.state === "poor");
      if (report?.state === "poor") this.why[i] = report.reasons[0] ?? "";
      if (past.length > LOOKED_BACK) past.shift();
      const n = past.filter(Boolean).length;
      if (n >= OFTEN || (n === past.length && n > 1)) this.poor = new Set(this.poor).add(i);
      else if (n <= SELDOM) this.poor = new Set([...this.poor].filter((each) => each !== i));
    });
  }

  /** The poor ones, for a person: "T8 (mains)". */
  get contacts() {
    return [...this.poor].map((i) => this.about.labels[i] + (this.why[i] ? ` (${this.why[i]})` : ""));
  }
}

export class HeadPanel {
  constructor(about) {
    this.sites = about.sites;
    const known = about.sites.filter(Boolean).length;
    $("scalp").hidden = known < 2 || known < about.labels.length / 2;
    this.root = $("scalp").querySelector("svg");
    const [cx, cy, r] = [112, 78, 64];
    const parts = [
      svg("path", { d: `M${cx - 9} ${cy - r + 1}L${cx} ${cy - r - 10}L${cx + 9} ${cy - r + 1}`, class: "skull" }),
      svg("circle", { cx, cy, r, class: "skull" }),
      ...[-1, 1].map((k) => svg("path", { d: `M${cx + k * r} ${cy - 12}q${k * 8} 12 0 24`, class: "skull" })),
    ];
    const size = Math.max(4, Math.min(12, 44 / Math.sqrt(Math.max(1, known))));
    this.dots = about.sites.map((site, i) => {
      if (!site) return null;
      const far = Math.max(1, Math.hypot(site.x, site.y) / 1.22);
      const [x, y] = [cx + (site.x / far) * r * 0.84, cy - (site.y / far) * r * 0.84];
      const dot = svg("circle", { cx: x, cy: y, r: size });
      const short = about.labels[i].replace(/^EEG\s+|-.*$/g, "").slice(0, 4);
      const label = svg("text", { x, y: y + size * 0.33, "text-anchor": "middle", "font-size": Math.min(10.5, size * 0.92) }, size > 6 ? short : "");
      const title = svg("title", {}, about.labels[i]);
      dot.append(title);
      parts.push(dot, label);
      return { dot, label, title };
    });
    for (let i = 0; i < 40; i++) {
      const step = svg("rect", { x: 212, y: 14 + i * 1.5, width: 14, height: 1.7, class: "scale" });
      step.dataset.p = String(1 - i / 39);
      parts.push(step);
    }
    parts.push(svg("text", { x: 232, y: 22, class: "note" }, "1.0"), svg("text", { x: 232, y: 74, class: "note" }, "0.0"));
    ["good", "fair", "poor"].forEach((state, i) => {
      parts.push(svg("circle", { cx: 219, cy: 95 + i * 17, r: 5.5, class: `ring ${state}` }));
      parts.push(svg("text", { x: 232, y: 99 + i * 17, class: "note" }, state));
    });
    this.root.replaceChildren(...parts);
    this.repaint();
  }

  repaint() {
    for (const step of this.root.querySelectorAll(".scale")) step.setAttribute("fill", shade(Number(step.dataset.p)));
  }

  show(data, quality) {
    if ($("scalp").hidden) return;
    this.dots.forEach((each, i) => {
      if (!each) return;
      const p = data.smoothed[i];
      const state = quality.state(i) ?? "good";
      each.dot.setAttribute("class", `ring ${state}`);
      each.dot.style.fill = p === null ? "" : shade(p);
      each.label.setAttribute("class", p > 0.72 ? "on-high" : "on-card");
      say(each.title, `p ${number(p)}, contact ${state}`);
    });
  }
}

/** From nothing to the colour of alarm. */
function shade(p) {
  return `color-mix(in srgb, ${colour("high")} ${Math.round(100 * p ** 1.6)}%, ${colour("note")})`;
}

export function showLatency(about, health, budgetMs) {
  const { p50, p99, n } = health.decision_latency_ms;
  const c = health.counters;
  say($("latency-p50"), p50 === null ? "--" : `${p50 < 10 ? p50.toFixed(1) : Math.round(p50)} ms`);
  say($("latency-more"), n ? `p50 · p99 ${Math.round(p99)} ms\nbudget ${budgetMs} ms${about.delay_ms >= 1 ? ` + ${Math.round(about.delay_ms)} ms to resample` : ""}` : "no decision yet");
  say($("latency-parts"), `${c.samples ?? 0} samples · ${c.windows ?? 0} windows`);
  const lost = c.missing_samples ?? 0;
  say($("latency-rate"), `${c.gaps ?? 0} gap${c.gaps === 1 ? "" : "s"} · ${lost} lost`);
}

export function showChips(about, health) {
  const worst = (...names) => {
    const found = health?.rungs.filter((rung) => names.includes(rung.rung)) ?? [];
    return found.sort((a, b) => WORST_FIRST.indexOf(a.state) - WORST_FIRST.indexOf(b.state))[0];
  };
  const kind = about.kind === "recording" ? "Recording" : "LSL";
  chip("chip-source", about.simulated ? `${kind} (simulated)` : kind, worst("outlet", "samples", "rate"));
  chip("chip-model", `Model ${about.model}`, worst("engine"));
  if (about.broker) chip("chip-mqtt", "MQTT", worst("broker", "outbox"));
  else $("chip-mqtt").hidden = true;
}

function chip(id, name, rung) {
  const [sign, word] = STATE[rung?.state ?? "unknown"];
  const element = $(id);
  element.title = rung?.reason ?? "";
  element.dataset.state = rung?.state ?? "unknown";
  say(element, `${sign} ${name} ${word}`);
}

const WORD = { raised: "Seizure suspected", updated: "Still suspected", ended: "Alert over", acknowledged: "Acknowledged", retracted: "Retracted" };

export class EventList {
  reset(events) {
    this.events = [];
    $("events").replaceChildren(make("li", { class: "nothing" }, "Nothing has happened yet."));
    for (const event of events) this.add(event);
  }

  add(event) {
    if (event.what === "alert" && event.event_type === "updated") return;
    if (!this.events.length) $("events").replaceChildren();
    this.events.push(event);
    const [sign, level, text] = this.words(event);
    const item = make("li", {}, make("time", { dateTime: event.at }, hms(unix(event.at))), make("b", { class: level }, sign), make("span", {}, ...text));
    $("events").prepend(item);
    while ($("events").childElementCount > 200) $("events").lastChild.remove();
    const raised = this.events.filter((each) => each.what === "alert" && each.event_type === "raised").length;
    const marks = this.events.filter((each) => each.what === "mark").length;
    say($("events-count"), [`${raised} alert${raised === 1 ? "" : "s"}`, marks ? `${marks} mark${marks === 1 ? "" : "s"}` : ""].filter(Boolean).join(" · "));
  }

  words(event) {
    if (event.what === "mark") return ["▸", "mark", [`Mark ${event.text ? `“${event.text}”` : ""}`]];
    if (event.what === "alert") {
      const isRaised = event.event_type === "raised";
      const word = isRaised ? make("b", {}, WORD.raised) : WORD[event.event_type] ?? event.event_type;
      const more = event.event_type === "acknowledged" ? "" : ` · p ${number(event.p)}${event.channels.length ? ` · ${event.channels.slice(0, 4).join(", ")}` : ""}`;
      return [isRaised ? "!!!" : "·", isRaised ? "high" : "", [word, more]];
    }
    if (event.state === "ok") return ["·", "", [`${LINKS[event.rung]}: ok again`]];
    const isElectrode = event.rung === "quality";
    return [isElectrode ? "!!" : "!", isElectrode ? "medium" : "low", [`${LINKS[event.rung]}: ${event.reason}`]];
  }
}

/** The newest alert state, as subscribers have it. */
export function showMqtt(about, alert, health) {
  $("mqtt").hidden = !about.broker;
  if (!about.broker) return;
  say($("mqtt-at"), `QoS 1 · last ${hms(unix(alert.ts))}`);
  say($("mqtt-topic"), `${about.topic}/alert`);
  const shown = { on: alert.on, signal: alert.signal, state: alert.state, p: alert.p, priority: alert.priority };
  say($("mqtt-payload"), JSON.stringify(shown, null, 1).replace(/\s+/g, " "));
  const c = health?.counters ?? {};
  say($("mqtt-state"), `${about.broker} · ${c.published ?? 0} sent · ${c.pending ?? 0} wait · ${c.dropped ?? 0} dropped`);
}
