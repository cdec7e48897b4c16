// The alarm band: what a person must know first, most urgent first. Nothing here flashes.

import { $, hms, make, number, say, span, unix } from "/dom.js";

const SIGN = { high: "!!!", past: "!!!", medium: "!!", low: "!", none: "×", starting: "…", ok: "●" };
const BAD = new Set(["degraded", "no_data", "fault"]);
export const LINKS = { outlet: "Device", samples: "Samples", rate: "Rate", quality: "Electrodes", engine: "Model", outbox: "Storage", broker: "MQTT" };
const OF_SIGNAL = new Set(["outlet", "samples", "quality"]);

/** The lives of the alerts seen so far, by id, newest last. */
export class Alerts {
  constructor() {
    this.byId = new Map();
    this.seen = new Set(JSON.parse(sessionStorage.getItem("acknowledged") ?? "[]"));
  }

  reset(events) {
    this.byId.clear();
    for (const event of events) this.take(event);
  }

  take(event) {
    if (event.what !== "alert" || !event.alert_id || event.test) return;
    this.byId.set(event.alert_id, { ...this.byId.get(event.alert_id), ...event });
  }

  /** A person has seen it, though the classifier knows of it no more. */
  acknowledgeHere(id) {
    this.seen.add(id);
    sessionStorage.setItem("acknowledged", JSON.stringify([...this.seen].slice(-50)));
  }

  isOpen(alert) {
    return !alert.acknowledged && !this.seen.has(alert.alert_id) && alert.event_type !== "retracted";
  }

  get open() {
    return [...this.byId.values()].filter((alert) => this.isOpen(alert));
  }

  /** Stretches of time in which an alert stood: {from, raised, to}. */
  get spans() {
    return [...this.byId.values()]
      .filter((alert) => alert.event_type !== "retracted")
      .map((alert) => ({
        from: unix(alert.onset),
        raised: unix(alert.raised),
        to: alert.ended ? unix(alert.ended) : alert.on ? Infinity : unix(alert.at),
      }));
  }
}

/** All that holds now, most urgent first: {key, level, title, sub, since, alertId}. */
export function conditions({ connected, why, lastAt, alert, alerts, health, prediction, contacts = [] }) {
  if (!connected) {
    const stood = alert?.on ? " An alert stood when the link was lost." : "";
    const shown = lastAt ? ` What is shown ends at ${hms(lastAt)}.` : "";
    return [{ key: "link", level: "none", title: "No connection to the classifier", sub: `${why}.${shown}${stood} Connecting again …` }];
  }
  const found = [];
  const rungs = health?.rungs ?? [];
  const broken = rungs.filter((rung) => BAD.has(rung.state));
  const signal = alert?.signal ?? "starting";
  const noSignal = signal === "none" || signal === "poor" || signal === "stopped";
  if (alert?.on) found.push(standing(alert, noSignal));
  const past = alerts.open.filter((each) => !each.on && (each.alert_id !== alert?.alert_id || !alert.on));
  if (past.length) {
    const last = past[past.length - 1];
    const ended = last.ended ? `, over ${hms(unix(last.ended))}` : ", below the threshold now";
    const more = past.length > 1 ? ` · and ${past.length - 1} earlier` : "";
    found.push({
      key: `past ${past.length}`,
      level: "past",
      title: "Seizure suspected earlier",
      sub: `raised ${hms(unix(last.raised))}${ended} · highest p ${number(last.p_max)} · ${named(last.channels)}${more}`,
      alertId: last.alert_id,
      ids: past.map((each) => each.alert_id),
    });
  }
  if (noSignal) {
    const rung = broken.find((each) => OF_SIGNAL.has(each.rung));
    const what = signal === "stopped" ? "The classifier was stopped" : "No usable signal";
    found.push({
      key: `signal ${signal}`,
      level: "none",
      title: what,
      sub: [rung?.reason ?? "nothing can be said of a seizure", rung?.remedy].filter(Boolean).join(" · "),
      since: unix(rung?.since),
    });
  }
  for (const rung of broken) {
    if (rung.rung === "quality" || (noSignal && OF_SIGNAL.has(rung.rung))) continue;
    found.push({
      key: `${rung.rung} ${rung.state}`,
      level: "low",
      title: `${LINKS[rung.rung] ?? rung.rung}: ${rung.state === "degraded" ? "impaired" : "fault"}`,
      sub: [rung.reason, rung.remedy].filter(Boolean).join(" · "),
      since: unix(rung.since),
    });
  }
  if (!noSignal && contacts.length) {
    found.push({ key: "contacts", level: "medium", title: contacts.length === 1 ? "Poor contact" : "Poor contacts", sub: `no decision is made on ${named(contacts)}` });
  }
  if (!noSignal && !alert?.on && prediction?.state === "watch") {
    found.push({ key: "watch", level: "medium", title: "p(seizure) is rising", sub: `p ${number(prediction.p)}` });
  }
  if (!noSignal && (signal === "starting" || signal === "calibrating")) {
    const sub = signal === "starting" ? "the first windows are not complete" : "gains are being measured; alarms are live";
    found.push({ key: signal, level: "starting", title: signal === "starting" ? "Starting" : "Calibrating", sub });
  }
  if (signal === "ok" && !alert?.on && found.every((each) => each.level === "low" || each.key === "contacts")) {
    const p = prediction?.p;
    found.push({ key: "ok", level: "ok", title: "No seizure suspected", sub: `p ${number(p)} · signal ok` });
  }
  if (!found.length) found.push({ key: "starting", level: "starting", title: "Starting", sub: "nothing is known yet" });
  const order = ["high", "past", "none", "starting", "watch", "ok", "medium", "low"];
  const rank = ({ key, level }) => order.indexOf(key === "watch" ? key : level);
  return found.sort((a, b) => rank(a) - rank(b));
}

/** "C3, T7", or of many "32 channels: C3, C4, ..." */
function named(channels) {
  const few = channels.slice(0, 6).join(", ");
  return channels.length > 6 ? `${channels.length} channels: ${few} …` : few;
}

function standing(alert, noSignal) {
  const onset = unix(alert.onset);
  const raised = unix(alert.raised);
  const parts = [
    `p ${number(alert.p ?? alert.p_max)}`,
    `raised ${hms(raised)}`,
    `${(raised - onset).toFixed(1)} s after estimated onset`,
    named(alert.channels),
    alert.acknowledged ? "acknowledged" : "",
    noSignal ? "no usable signal now: whether it goes on is unknown" : "",
  ];
  return {
    key: `alert ${alert.alert_id} ${alert.acknowledged} ${noSignal}`,
    level: "high",
    title: alert.simulated ? "Seizure suspected (simulated signal)" : "Seizure suspected",
    sub: parts.filter(Boolean).join(" · "),
    since: raised,
    isActive: true,
    alertId: alert.acknowledged ? null : alert.alert_id,
    ids: [alert.alert_id],
    mutedUntil: unix(alert.muted_until),
    canMute: true,
  };
}

export class AlarmBand {
  /** on: {acknowledge(condition), mute(on)} */
  constructor(on) {
    this.on = on;
    this.keys = "";
    this.bands = [];
  }

  show(found, now) {
    const shown = found.slice(0, 3);
    const keys = shown.map((each) => `${each.level} ${each.key}`).join("|");
    if (keys !== this.keys) {
      this.keys = keys;
      this.build(shown);
      const first = shown[0];
      say($("announce"), `${first.title}. ${first.level === "ok" ? "" : first.sub}`);
      document.title = `${SIGN[first.level]} ${first.title} · stream-classifier`;
    }
    shown.forEach((each, i) => {
      const { sub, since, mute } = this.bands[i];
      say(sub, each.sub);
      const isQuiet = each.mutedUntil > now;
      const passed = Number.isFinite(each.since) ? `${each.isActive ? "active" : "for"} ${span(now - each.since)}` : "";
      say(since, isQuiet ? `${passed} · quiet until ${hms(each.mutedUntil)}` : passed);
      if (mute) say(mute.firstChild, isQuiet ? "Sound on" : "Sound off 2 min");
    });
    this.first = shown[0];
    this.acknowledgeable = shown.find((each) => each.alertId);
  }

  build(shown) {
    this.bands = [];
    const bands = shown.map((each, i) => {
      const sub = make("p", { class: "sub" });
      const since = make("span", { class: "since" });
      const buttons = [];
      let mute = null;
      if (each.alertId) {
        const acknowledge = make("button", { id: i ? "" : "acknowledge" }, "Acknowledge", make("kbd", {}, "A"));
        acknowledge.onclick = () => this.on.acknowledge(each);
        buttons.push(acknowledge);
      }
      if (each.canMute) {
        mute = make("button", { class: "outline", id: "mute" }, make("span", {}, "Sound off 2 min"), make("kbd", {}, "S"));
        mute.onclick = () => this.on.mute();
        buttons.push(mute);
      }
      this.bands.push({ sub, since, mute });
      return make(
        "div",
        { class: `band ${each.level}${i ? " small" : ""}` },
        make("span", { class: "sign", ariaHidden: "true" }, SIGN[each.level]),
        make("div", { class: "words" }, make("p", { class: "title" }, each.title), sub),
        make("span", { class: "space" }),
        since,
        ...buttons,
      );
    });
    $("alarm").replaceChildren(...bands);
  }
}
