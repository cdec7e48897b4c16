// The two curves over time, with uPlot: p(seizure), and the latency of decisions.

/* global uPlot */
import { colour } from "/dom.js";
import { hatch } from "/sweep.js";

const P_SHOWN_S = 300;
const LATENCY_SHOWN_S = 120;
const GAP_S = 1.2;

const font = () => `11px ${colour("font")}`;

function sized(element) {
  return { width: Math.max(50, element.clientWidth), height: Math.max(30, element.clientHeight) };
}

export class ProbabilityChart {
  /** onPick(unix): a point in time was chosen. */
  constructor(element, about, onPick) {
    this.element = element;
    this.about = about;
    this.t = [];
    this.p = [];
    this.window = [];
    this.now = 0;
    this.spans = () => [];
    this.marks = () => [];
    const axis = { stroke: () => colour("muted"), font: font(), grid: { stroke: () => colour("grid"), width: 1 }, ticks: { show: false } };
    this.plot = new uPlot(
      {
        ...sized(element),
        legend: { show: false },
        cursor: { y: false, points: { show: false }, drag: { setScale: false, x: false, y: false } },
        scales: { x: { time: false, range: () => [this.now - P_SHOWN_S, this.now] }, y: { range: [0, 1] } },
        axes: [
          { ...axis, size: 28, splits: () => this.minutes(), values: (_, ts) => ts.map((t) => this.ago(t)), grid: { show: false } },
          { ...axis, size: element.clientWidth < 500 ? 40 : 52, splits: [0, 0.25, 0.5, 0.75, 1], values: (_, ps) => ps.map((p) => p.toFixed(2)) },
        ],
        series: [
          {},
          { stroke: () => colour("edge"), width: 1, points: { show: false } },
          { stroke: () => colour("ink"), width: 2.3, points: { show: false } },
        ],
        padding: element.clientWidth < 500 ? [8, 16, 0, 0] : [8, 40, 0, 10],
        hooks: { drawClear: [(u) => this.under(u)], draw: [(u) => this.over(u)] },
      },
      [[], [], []],
      element,
    );
    this.plot.over.addEventListener("click", () => {
      const at = this.plot.posToVal(this.plot.cursor.left, "x");
      if (Number.isFinite(at)) onPick(at);
    });
    new ResizeObserver(() => this.plot.setSize(sized(element))).observe(element);
  }

  minutes() {
    return Array.from({ length: 6 }, (_, i) => this.now - P_SHOWN_S + 60 * i);
  }

  ago(t) {
    const minutes = Math.round((this.now - t) / 60);
    return minutes ? `−${minutes} min` : "now";
  }

  reset(points) {
    this.t = points.map((point) => point[0]);
    this.p = points.map((point) => point[1]);
    this.window = points.map((point) => point[2]);
  }

  add(t, p, window) {
    if (this.t.length && t <= this.t[this.t.length - 1]) {
      if (t > this.t[this.t.length - 1] - 5) return;
      this.reset([]); // the clock went back
    }
    this.t.push(t);
    this.p.push(p);
    this.window.push(window);
    if (this.t.length > 8000) for (const each of [this.t, this.p, this.window]) each.splice(0, 1000);
  }

  draw(now) {
    this.now = now;
    let first = 0;
    while (first < this.t.length && this.t[first] < now - P_SHOWN_S - 2) first++;
    const t = [];
    const p = [];
    const window = [];
    let before = NaN;
    for (let i = first; i < this.t.length; i++) {
      if (this.t[i] - before > GAP_S) {
        t.push((before + this.t[i]) / 2);
        p.push(null);
        window.push(null);
      }
      before = this.t[i];
      t.push(before);
      p.push(this.p[i]);
      window.push(this.window[i]);
    }
    this.plot.setData([t, window, p]);
  }

  /** Stretches without a decision: [from, to]. */
  unusable() {
    const out = [];
    const start = this.now - P_SHOWN_S;
    let since = null;
    let before = NaN;
    for (let i = 0; i < this.t.length; i++) {
      const t = this.t[i];
      if (t < start - 5) continue;
      if (t - before > GAP_S && since === null) out.push([before, t]);
      if (this.p[i] === null) since ??= Number.isFinite(before) ? before : t;
      else if (since !== null) {
        out.push([since, t]);
        since = null;
      }
      before = t;
    }
    if (since !== null || this.now - before > 2 * GAP_S) out.push([since ?? before, this.now]);
    return out;
  }

  under(u) {
    const { ctx } = u;
    const { left, top, width, height } = u.bbox;
    ctx.save();
    ctx.beginPath();
    ctx.rect(left, top, width, height);
    ctx.clip();
    ctx.fillStyle = colour("paper");
    ctx.fillRect(left, top, width, height);
    const x = (t) => u.valToPos(t, "x", true);
    ctx.fillStyle = hatch(ctx);
    for (const [from, to] of this.unusable()) ctx.fillRect(x(from), top, x(to) - x(from), height);
    ctx.globalAlpha = 0.12;
    ctx.fillStyle = colour("high");
    for (const { from, to } of this.spans()) ctx.fillRect(x(from), top, x(Math.min(to, this.now)) - x(from), height);
    ctx.restore();
  }

  over(u) {
    const { ctx } = u;
    const ratio = u.pxRatio ?? window.devicePixelRatio ?? 1;
    const { left, top, width, height } = u.bbox;
    ctx.save();
    ctx.font = `600 ${11 * ratio}px ${colour("font")}`;
    ctx.textAlign = "left";
    ctx.textBaseline = "alphabetic";
    const rise = this.about.raise_threshold;
    const clear = this.about.clear_threshold;
    for (const [word, p] of [["raise", rise], ["clear", clear]]) {
      const y = u.valToPos(p, "y", true);
      ctx.strokeStyle = colour("high-ink");
      ctx.lineWidth = 1.2 * ratio;
      ctx.setLineDash([5 * ratio, 4 * ratio]);
      ctx.beginPath();
      ctx.moveTo(left, y);
      ctx.lineTo(left + width, y);
      ctx.stroke();
      ctx.setLineDash([]);
      ctx.fillStyle = colour("high-ink");
      ctx.fillText(`${word} ${p.toFixed(2)}`, left + 6 * ratio, y + (p > 0.93 ? 13 : -4) * ratio);
    }
    ctx.rect(left, top, width, height);
    ctx.clip();
    for (const { at, text } of this.marks()) {
      if (at < this.now - P_SHOWN_S) continue;
      const x = u.valToPos(at, "x", true);
      ctx.strokeStyle = ctx.fillStyle = colour("accent");
      ctx.setLineDash([2 * ratio, 3 * ratio]);
      ctx.beginPath();
      ctx.moveTo(x, top);
      ctx.lineTo(x, top + height);
      ctx.stroke();
      ctx.setLineDash([]);
      ctx.fillText(`▸ ${text}`, x + 5 * ratio, top + 12 * ratio);
    }
    ctx.restore();
    const last = this.t.length - 1;
    if (last >= 0 && this.p[last] !== null && this.now - this.t[last] < GAP_S) {
      ctx.beginPath();
      ctx.arc(u.valToPos(this.t[last], "x", true), u.valToPos(this.p[last], "y", true), 4.5 * ratio, 0, 7);
      ctx.fillStyle = colour(this.p[last] >= rise ? "high" : "accent");
      ctx.strokeStyle = colour("card");
      ctx.lineWidth = 1.5 * ratio;
      ctx.fill();
      ctx.stroke();
    }
  }
}

export class LatencyChart {
  constructor(element, budgetMs) {
    this.t = [];
    this.ms = [];
    this.now = 0;
    this.plot = new uPlot(
      {
        ...sized(element),
        legend: { show: false },
        cursor: { show: false },
        scales: {
          x: { time: false, range: () => [this.now - LATENCY_SHOWN_S, this.now] },
          y: { range: (_, __, most) => [0, Math.max(1.2 * budgetMs, Math.min(most, 20 * budgetMs))] },
        },
        axes: [{ show: false }, { show: false }],
        series: [{}, { stroke: () => colour("accent"), width: 1.4, points: { show: false } }],
        padding: [3, 0, 1, 0],
        hooks: {
          draw: [
            (u) => {
              const { ctx } = u;
              const y = u.valToPos(budgetMs, "y", true);
              ctx.save();
              ctx.strokeStyle = colour("high-ink");
              ctx.lineWidth = u.pxRatio ?? 1;
              ctx.setLineDash([4, 3]);
              ctx.beginPath();
              ctx.moveTo(u.bbox.left, y);
              ctx.lineTo(u.bbox.left + u.bbox.width, y);
              ctx.stroke();
              ctx.restore();
            },
          ],
        },
      },
      [[], []],
      element,
    );
    new ResizeObserver(() => this.plot.setSize(sized(element))).observe(element);
  }

  add(t, ms) {
    if (ms === null || t <= this.t[this.t.length - 1]) return;
    this.t.push(t);
    this.ms.push(ms);
    if (this.t.length > 2000) for (const each of [this.t, this.ms]) each.splice(0, 500);
  }

  draw(now) {
    this.now = now;
    this.plot.setData([this.t, this.ms]);
  }
}

