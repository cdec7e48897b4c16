// The EEG on paper: three canvases, one over the other. The grid is drawn when something is set, the
// traces only where samples are new, the marks (few) with every frame.

import { colour, hms } from "/dom.js";

const PX_PER_MM = 96 / 25.4;
const ERASED_S = 0.22; // ahead of the cursor
const LEFT = 62;
const RIGHT = 40;
const TOP = 26;
const BOTTOM = 22;
const LANES_HIGH = 1.2; // a trace is cut off so many lanes from its own
const BARS_UV = [5, 10, 20, 50, 100, 200, 500, 1000, 2000];
const MOST_LABELS = 36;

export class Sweep {
  constructor(element) {
    this.element = element;
    [this.grid, this.paper, this.marks] = [...element.querySelectorAll("canvas")].map((canvas) => ({
      canvas,
      ctx: canvas.getContext("2d"),
    }));
    this.mode = "sweep";
    this.uvPerMm = 7;
    this.timebase = { mm: 30 };
    this.traces = [];
    this.unit = "µV";
    this.poor = new Set();
    this.annotations = () => [];
    this.spans = () => [];
    this.drawn = null;
    this.marksAreOld = false;
    this.frames = []; // what the newest cost, ms
    new ResizeObserver(() => this.resize()).observe(element);
    this.resize();
  }

  resize() {
    const { clientWidth: width, clientHeight: height } = this.element;
    const ratio = Math.min(2, window.devicePixelRatio || 1);
    if (width === this.width && height === this.height && ratio === this.ratio) return;
    Object.assign(this, { width, height, ratio });
    for (const { canvas, ctx } of [this.grid, this.paper, this.marks]) {
      canvas.width = Math.max(1, Math.round(width * ratio));
      canvas.height = Math.max(1, Math.round(height * ratio));
      ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
    }
    this.layOut();
  }

  /** Anything that is set was changed: measure, and draw all of it again. */
  layOut() {
    this.left = this.width < 520 ? 44 : LEFT;
    this.room = Math.max(10, this.width - this.left - RIGHT);
    this.plotHeight = Math.max(10, this.height - TOP - BOTTOM);
    const { mm, seconds } = this.timebase;
    if (mm) {
      this.pxPerS = mm * PX_PER_MM;
      this.pageS = Math.max(1, Math.floor(this.room / this.pxPerS));
      if (this.room < this.pxPerS) this.pxPerS = this.room;
    } else {
      this.pageS = seconds;
      this.pxPerS = this.room / seconds;
    }
    this.plotWidth = this.pageS * this.pxPerS;
    this.lane = this.plotHeight / Math.max(1, this.traces.length);
    this.pxPerUv = PX_PER_MM / this.uvPerMm;
    this.drawGrid();
    this.drawn = null;
  }

  baseline(i) {
    return TOP + this.lane * (i + 0.5);
  }

  drawGrid() {
    const { ctx } = this.grid;
    const { left, plotWidth } = this;
    ctx.clearRect(0, 0, this.width, this.height);
    const fine = this.drawLines(0);
    this.drawLabels(ctx);
    this.drawBar(ctx);
    ctx.fillStyle = colour("muted");
    ctx.font = `11px ${colour("font")}`;
    ctx.textAlign = "left";
    ctx.fillText("neg. up", 6, 16);
    ctx.textAlign = "right";
    if (this.plotWidth > 500) {
      ctx.fillText(fine === 5 ? "grid 0.2 s / 1 s" : "grid 1 s", left + plotWidth, this.height - 6);
    }
  }

  /** The paper's lines; in scroll mode they move with it. Returns how many a second. */
  drawLines(head) {
    const { ctx } = this.grid;
    const { left, plotWidth, plotHeight, pageS, pxPerS } = this;
    const fine = pxPerS >= 40 ? 5 : 1;
    ctx.fillStyle = colour("paper");
    ctx.fillRect(left, TOP, plotWidth, plotHeight);
    ctx.lineWidth = 1;
    const first = this.mode === "sweep" ? 0 : Math.ceil((head - pageS) * fine);
    const start = this.mode === "sweep" ? 0 : head - pageS;
    for (const strong of [false, true]) {
      ctx.beginPath();
      for (let i = first; i <= first + pageS * fine; i++) {
        const x = Math.round(left + (i / fine - start) * pxPerS) + 0.5;
        if ((i % fine === 0) !== strong || x > left + plotWidth + 1) continue;
        ctx.moveTo(x, TOP);
        ctx.lineTo(x, TOP + plotHeight);
      }
      if (!strong) {
        this.traces.forEach((_, i) => {
          ctx.moveTo(left, this.baseline(i));
          ctx.lineTo(left + plotWidth, this.baseline(i));
        });
      }
      ctx.strokeStyle = colour(strong ? "grid-strong" : "grid");
      ctx.stroke();
    }
    return fine;
  }

  drawLabels(ctx) {
    const every = Math.ceil(this.traces.length / MOST_LABELS);
    const size = Math.max(9, Math.min(13, this.lane * 0.85));
    ctx.textAlign = "right";
    ctx.textBaseline = "middle";
    this.traces.forEach((trace, i) => {
      const isPoor = this.poor.has(trace.plus) || this.poor.has(trace.minus);
      if (i % every && !isPoor) return;
      ctx.font = `600 ${size}px ${colour("font")}`;
      ctx.fillStyle = colour(isPoor ? "high-ink" : "ink");
      ctx.fillText(trace.label, this.left - 10, this.baseline(i), this.left - 24);
      if (isPoor) ctx.fillText("▲", 13, this.baseline(i));
    });
    ctx.textBaseline = "alphabetic";
  }

  /** The scale: as long as so many µV. */
  drawBar(ctx) {
    const most = Math.min(120, this.plotHeight * 0.4);
    const uv = BARS_UV.filter((each) => each * this.pxPerUv <= most).pop() ?? BARS_UV[0];
    const height = uv * this.pxPerUv;
    const x = this.left + this.plotWidth + 12;
    const bottom = TOP + this.plotHeight - 6;
    ctx.strokeStyle = ctx.fillStyle = colour("ink");
    ctx.lineWidth = 2;
    line(ctx, x - 4, bottom - height, x + 4, bottom - height);
    line(ctx, x, bottom - height, x, bottom);
    line(ctx, x - 4, bottom, x + 4, bottom);
    ctx.save();
    ctx.translate(x + 17, bottom - height / 2);
    ctx.rotate(-Math.PI / 2);
    ctx.textAlign = "center";
    ctx.font = `11px ${colour("font")}`;
    ctx.fillText(`${uv} ${this.unit}`, 0, 0);
    ctx.restore();
  }

  /** Where an instant is, given the newest that is shown; NaN: nowhere. */
  x(time, head) {
    if (this.mode === "sweep") {
      const page = Math.floor(head / this.pageS) * this.pageS;
      if (time >= page && time <= head) return this.left + (time - page) * this.pxPerS;
      const before = time - (page - this.pageS);
      const isLeft = before >= head - page + ERASED_S && before <= this.pageS;
      return isLeft ? this.left + before * this.pxPerS : NaN;
    }
    const age = head - time;
    return age >= 0 && age <= this.pageS ? this.left + this.plotWidth - age * this.pxPerS : NaN;
  }

  /** Where a stretch of time is, as [from, to] in px: none, one, or two pieces. */
  pieces(from, to, head) {
    const { left, pxPerS, pageS } = this;
    if (this.mode !== "sweep") {
      const a = Math.max(from, head - pageS);
      const b = Math.min(to, head);
      const x = (time) => left + this.plotWidth - (head - time) * pxPerS;
      return b > a ? [[x(a), x(b)]] : [];
    }
    const page = Math.floor(head / pageS) * pageS;
    const out = [];
    const older = [Math.max(from, head - pageS + ERASED_S), Math.min(to, page)];
    if (older[1] > older[0]) out.push(older.map((t) => left + (t - page + pageS) * pxPerS));
    const newer = [Math.max(from, page), Math.min(to, head)];
    if (newer[1] > newer[0]) out.push(newer.map((t) => left + (t - page) * pxPerS));
    return out;
  }

  /**
   * Draw what is new.
   * @param samples what there is
   * @param head Unix time up to which is shown; beyond the newest sample where none comes
   */
  draw(samples, head) {
    const since = performance.now();
    if (samples.empty || !(this.width > 0)) return;
    if (this.mode === "scroll") head = Math.floor(head * this.pxPerS * this.ratio) / (this.pxPerS * this.ratio);
    const before = this.drawn;
    const goesOn = before && before.samples === samples && head >= before.head && head - before.head < this.pageS / 2;
    const isNews = !goesOn || head > before.head || samples.next > before.next;
    if (!isNews && !this.marksAreOld) return;
    this.marksAreOld = false;
    if (!goesOn) this.drawAll(samples, head);
    else if (isNews) this.drawNew(samples, before, head);
    this.drawn = { samples, head, next: samples.next };
    if (this.mode === "scroll") this.drawLines(head);
    this.drawMarks(samples, head);
    this.frames.push(performance.now() - since);
    if (this.frames.length > 1000) this.frames.shift();
  }

  drawAll(samples, head) {
    const { ctx } = this.paper;
    ctx.clearRect(0, 0, this.width, this.height);
    const oldest = Math.max(samples.first, samples.index(head - this.pageS + (this.mode === "sweep" ? ERASED_S : 0)));
    if (this.mode === "sweep") {
      const turn = samples.index(Math.floor(head / this.pageS) * this.pageS);
      this.stroke(samples, oldest, Math.min(turn, samples.next), head);
      this.stroke(samples, Math.max(oldest, turn), samples.next, head);
    } else {
      this.stroke(samples, oldest, samples.next, head);
    }
  }

  drawNew(samples, before, head) {
    const { ctx } = this.paper;
    const from = Math.max(samples.first, before.next - 1);
    if (this.mode === "scroll") {
      const shift = (head - before.head) * this.pxPerS;
      const { canvas } = this.paper;
      const pixels = Math.round(shift * this.ratio);
      if (pixels > 0) {
        const x = Math.round(this.left * this.ratio);
        const width = Math.round(this.plotWidth * this.ratio);
        ctx.save();
        ctx.setTransform(1, 0, 0, 1, 0, 0);
        ctx.globalCompositeOperation = "copy";
        ctx.beginPath();
        ctx.rect(x, 0, width, canvas.height);
        ctx.clip();
        ctx.drawImage(canvas, -pixels, 0);
        ctx.restore();
      }
      ctx.clearRect(this.left + this.plotWidth + 0.5, 0, RIGHT, this.height);
      this.stroke(samples, from, samples.next, head);
      return;
    }
    for (const [a, b] of this.pieces(before.head, head, head)) {
      ctx.clearRect(a + 1, 0, b - a + ERASED_S * this.pxPerS, this.height);
    }
    const page = Math.floor(head / this.pageS) * this.pageS;
    if (before.head < page) ctx.clearRect(this.left - 1, 0, (head - page + ERASED_S) * this.pxPerS + 1, this.height);
    const turn = samples.index(page);
    if (from < turn) this.stroke(samples, from, Math.min(turn, samples.next), head);
    this.stroke(samples, Math.max(from, turn), samples.next, head);
  }

  /** Draw samples [from, to), which lie on one page. */
  stroke(samples, from, to, head) {
    if (to - from < 1) return;
    const { ctx } = this.paper;
    const { pxPerS, lane, pxPerUv } = this;
    const perPx = samples.rateHz / pxPerS;
    const start = samples.time(from);
    const page = Math.floor(head / this.pageS) * this.pageS;
    const base =
      this.mode === "sweep"
        ? this.left + (start - (start < page - 1e-6 ? page - this.pageS : page)) * pxPerS
        : this.left + this.plotWidth - (head - start) * pxPerS;
    const step = pxPerS / samples.rateHz;
    ctx.save();
    ctx.beginPath();
    ctx.rect(this.left, TOP, this.plotWidth, this.plotHeight);
    ctx.clip();
    ctx.lineWidth = this.traces.length > 16 ? 0.9 : 1.1;
    ctx.lineJoin = "round";
    for (const poor of [true, false]) {
      ctx.beginPath();
      this.traces.forEach((trace, i) => {
        const isPoor = this.poor.has(trace.plus) || this.poor.has(trace.minus);
        if (isPoor !== poor) return;
        const shown = samples.shown[trace.at];
        if (!shown) return;
        const y0 = this.baseline(i);
        const most = lane * LANES_HIGH + 8;
        const pen = new Pen(ctx, y0, most, pxPerUv);
        if (perPx > 2.5) envelope(pen, shown.data, samples.size, from, to, base, step, 1 / this.ratio);
        else polyline(pen, shown.data, samples.size, from, to, base, step);
      });
      ctx.strokeStyle = colour(poor ? "trace-poor" : "trace");
      ctx.stroke();
    }
    ctx.restore();
  }

  drawMarks(samples, head) {
    const { ctx } = this.marks;
    const { left, plotWidth, plotHeight } = this;
    ctx.clearRect(0, 0, this.width, this.height);
    const gaps = samples.gaps.map(([from, to]) => [samples.time(from), samples.time(to)]);
    if (head > samples.newest + 0.02) gaps.push([samples.newest, head]);
    if (gaps.length) {
      this.hatched ??= hatch(ctx);
      for (const [from, to] of gaps) {
        for (const [a, b] of this.pieces(from, to, head)) {
          ctx.fillStyle = this.hatched;
          ctx.fillRect(a, TOP, b - a, plotHeight);
        }
      }
    }
    for (const { from, to } of this.spans()) {
      for (const [a, b] of this.pieces(from, Math.min(to, head), head)) {
        ctx.globalAlpha = 0.08;
        ctx.fillStyle = colour("high");
        ctx.fillRect(a, TOP, b - a, plotHeight);
        ctx.globalAlpha = 1;
        ctx.fillRect(a, TOP - 3, b - a, 3);
      }
    }
    if (this.mode === "sweep") {
      const x = this.x(head, head);
      ctx.fillStyle = colour("page");
      ctx.fillRect(x, TOP, Math.min(ERASED_S * this.pxPerS, left + plotWidth - x), plotHeight);
      ctx.fillStyle = colour("accent");
      ctx.fillRect(x - 1, TOP - 4, 2, plotHeight + 4);
    }
    this.drawTags(ctx, head);
    this.drawTimes(ctx, head);
  }

  drawTags(ctx, head) {
    ctx.font = `600 11.5px ${colour("font")}`;
    ctx.textAlign = "left";
    const placed = [];
    for (const { at, text, kind } of this.annotations()) {
      const x = this.x(at, head);
      if (!Number.isFinite(x)) continue;
      const [ink, paper, dash] = {
        onset: ["high-ink", "high-soft", []],
        raised: ["on-high", "high", [5, 3]],
        mark: ["on-accent", "accent", [2, 3]],
        artefact: ["ink", "note", null],
      }[kind];
      if (dash) {
        ctx.strokeStyle = colour(kind === "mark" ? "accent" : "high-ink");
        ctx.lineWidth = 1.3;
        ctx.setLineDash(dash);
        line(ctx, x, TOP - 3, x, TOP + this.plotHeight);
        ctx.setLineDash([]);
      }
      const width = ctx.measureText(text).width + 12;
      const isFree = (from) => from >= 0 && !placed.some(([a, b]) => from < b && from + width > a);
      const from = [Math.min(x, this.width - width), x - width].find(isFree);
      if (from === undefined) continue;
      placed.push([from, from + width]);
      ctx.fillStyle = colour(paper);
      ctx.beginPath();
      ctx.roundRect(from, 3, width, 18, 3);
      ctx.fill();
      ctx.fillStyle = colour(ink);
      ctx.fillText(text, from + 6, 16);
    }
  }

  drawTimes(ctx, head) {
    ctx.font = `11px ${colour("font")}`;
    const y = this.height - 6;
    const every = Math.ceil(76 / this.pxPerS);
    const page = Math.floor(head / this.pageS) * this.pageS;
    const seconds = [];
    if (this.mode === "sweep") {
      for (let i = 0; i < this.pageS; i += every) seconds.push(page + i > head ? page + i - this.pageS : page + i);
    } else {
      for (let t = Math.ceil((head - this.pageS) / every) * every; t <= head; t += every) seconds.push(t);
    }
    for (const time of seconds) {
      const x = this.mode === "sweep" ? this.left + (((time % this.pageS) + this.pageS) % this.pageS) * this.pxPerS : this.x(time, head);
      if (!Number.isFinite(x) || x > this.left + this.plotWidth - 110) continue;
      ctx.textAlign = x < this.left + 20 ? "left" : "center";
      ctx.fillStyle = colour(this.mode === "sweep" && time < page ? "edge" : "muted");
      ctx.fillText(hms(time), x, y);
    }
  }

  /** µV/mm at which what is shown just fits its lanes; NaN where nothing is. */
  fitting(samples) {
    const from = Math.max(samples.first, samples.next - Math.ceil(3 * samples.rateHz));
    const every = Math.max(1, Math.round(samples.rateHz / 90));
    const heights = this.traces
      .filter((trace) => !this.poor.has(trace.plus) && !this.poor.has(trace.minus) && samples.shown[trace.at])
      .map((trace) => {
        const seen = [];
        for (let i = from; i < samples.next; i += every) {
          const value = Math.abs(samples.shown[trace.at].data[i % samples.size]);
          if (value === value) seen.push(value);
        }
        return seen.sort((a, b) => a - b)[Math.floor(0.97 * seen.length)];
      })
      .filter((height) => height > 0)
      .sort((a, b) => a - b);
    if (!heights.length) return NaN;
    return (1.4 * heights[Math.floor(0.75 * heights.length)]) / Math.min(60, this.lane / PX_PER_MM);
  }

  /** The theme was changed. */
  repaint() {
    this.hatched = null;
    this.layOut();
  }
}

function line(ctx, x0, y0, x1, y1) {
  ctx.beginPath();
  ctx.moveTo(x0, y0);
  ctx.lineTo(x1, y1);
  ctx.stroke();
}

/** Draws one trace, negative up; where it leaves its lane it is left out, not drawn along the edge. */
class Pen {
  constructor(ctx, y0, most, pxPerUv) {
    Object.assign(this, { ctx, y0, most, pxPerUv, down: false, x: 0, edge: 0 });
  }

  to(x, value) {
    const away = value * this.pxPerUv;
    if (away !== away) {
      this.down = false; // a gap is never drawn through
      this.edge = 0;
    } else if (away > this.most || away < -this.most) {
      this.edge = Math.sign(away) * this.most;
      if (this.down) this.ctx.lineTo(x, this.y0 + this.edge);
      this.down = false;
    } else {
      if (!this.down && this.edge) this.ctx.moveTo(this.x, this.y0 + this.edge);
      if (this.down || this.edge) this.ctx.lineTo(x, this.y0 + away);
      else this.ctx.moveTo(x, this.y0 + away);
      this.down = true;
      this.edge = 0;
    }
    this.x = x;
  }
}

function polyline(pen, data, size, from, to, base, step) {
  let at = from % size;
  for (let i = from, x = base; i < to; i++, x += step) {
    pen.to(x, data[at]);
    if (++at === size) at = 0;
  }
}

/** More samples than pixels: of each column the lowest and the highest, in the order they came. */
function envelope(pen, data, size, from, to, base, step, column) {
  let i = from;
  while (i < to) {
    const x = base + (i - from) * step;
    const until = Math.min(to, i + Math.max(1, Math.ceil(column / step)));
    let low = NaN;
    let high = NaN;
    let lowAt = i;
    let highAt = i;
    for (; i < until; i++) {
      const value = data[i % size];
      if (!(value >= low)) {
        low = value === value ? value : low;
        lowAt = i;
      }
      if (!(value <= high)) {
        high = value === value ? value : high;
        highAt = i;
      }
    }
    pen.to(x, lowAt < highAt ? low : high);
    pen.to(x, lowAt < highAt ? high : low);
  }
}

/** No usable signal, as a pattern. */
export function hatch(ctx) {
  const tile = document.createElement("canvas");
  tile.width = tile.height = 8;
  const pen = tile.getContext("2d");
  pen.fillStyle = colour("note");
  pen.fillRect(0, 0, 8, 8);
  pen.strokeStyle = colour("edge");
  pen.lineWidth = 1.2;
  for (const k of [-8, 0, 8]) line(pen, k, 8, k + 8, 0);
  return ctx.createPattern(tile, "repeat");
}
