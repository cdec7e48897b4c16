// The recent past in the browser: samples as they came, and as the view shows them.

import { Chain, design } from "/filters.js";

export const HELD_S = 62;
const MOST_GAPS = 60;

/** Samples by absolute index, in rings; missing ones are NaN and are listed as gaps. */
export class Samples {
  constructor(rateHz, nChannels, view) {
    this.rateHz = rateHz;
    this.nChannels = nChannels;
    this.size = Math.ceil(HELD_S * rateHz);
    this.raw = Array.from({ length: nChannels }, () => new Float32Array(this.size).fill(NaN));
    this.clear();
    this.setView(view);
  }

  clear() {
    this.first = 0;
    this.next = 0;
    this.origin = NaN; // Unix time of index 0
    this.gaps = []; // [from, to) by index
    this.empty = true;
  }

  time(index) {
    return this.origin + index / this.rateHz;
  }

  index(time) {
    return Math.round((time - this.origin) * this.rateHz);
  }

  get newest() {
    return this.empty ? NaN : this.time(this.next);
  }

  /** Take a frame. Returns false where it does not follow: all before is forgotten. */
  append(frame) {
    const origin = frame.startUnix - frame.firstIndex / this.rateHz;
    const follows = this.empty || (frame.firstIndex >= this.next && Math.abs(origin - this.origin) < 1);
    if (!follows) this.clear();
    if (this.empty) {
      this.first = this.next = frame.firstIndex;
      this.empty = false;
      this.restart();
    }
    this.origin = origin;
    if (frame.firstIndex > this.next) this.skip(frame.firstIndex);
    const { samples, nSamples, nChannels } = frame;
    for (let c = 0; c < this.nChannels; c++) {
      const ring = this.raw[c];
      let at = this.next % this.size;
      for (let i = c; i < samples.length; i += nChannels) {
        ring[at] = samples[i];
        if (++at === this.size) at = 0;
      }
    }
    this.derive(this.next, this.next + nSamples);
    this.next += nSamples;
    this.first = Math.max(this.first, this.next - this.size);
    return follows;
  }

  /** Missing samples: a hole, never a value. */
  skip(to) {
    this.gaps.push([this.next, to]);
    if (this.gaps.length > MOST_GAPS) this.gaps.shift();
    for (let i = Math.max(this.next, to - this.size); i < to; i++) {
      for (const ring of this.raw) ring[i % this.size] = NaN;
      for (const trace of this.shown) trace.data[i % this.size] = NaN;
    }
    this.next = to;
    this.restart();
  }

  /** view: {traces, highpass, lowpass, notch} */
  setView(view) {
    const stages = [
      design("highpass", view.highpass, this.rateHz),
      design("lowpass", view.lowpass, this.rateHz),
      design("notch", view.notch, this.rateHz),
    ];
    this.shown = view.traces.map((trace) => ({
      ...trace,
      chain: new Chain(stages),
      data: new Float32Array(this.size).fill(NaN),
    }));
    this.needsAverage = view.traces.some((trace) => trace.minus === "average");
    if (!this.empty) this.derive(this.first, this.next);
  }

  restart() {
    for (const trace of this.shown ?? []) trace.chain.restart();
  }

  derive(from, to) {
    const { size, raw } = this;
    const average = this.needsAverage ? this.average(from, to) : null;
    for (const { plus, minus, chain, data } of this.shown) {
      const a = raw[plus];
      const b = minus === null || minus === "average" ? null : raw[minus];
      let at = from % size;
      for (let i = 0; i < to - from; i++) {
        let value = a[at];
        if (b) value -= b[at];
        else if (minus === "average") value -= average[i];
        data[at] = chain.next(value);
        if (++at === size) at = 0;
      }
    }
  }

  average(from, to) {
    const mean = new Float32Array(to - from);
    for (let i = from; i < to; i++) {
      let sum = 0;
      let n = 0;
      for (const ring of this.raw) {
        const value = ring[i % this.size];
        if (Number.isFinite(value)) {
          sum += value;
          n++;
        }
      }
      mean[i - from] = n ? sum / n : NaN;
    }
    return mean;
  }

  /** Samples [from, to), as they came. */
  frame(from, to) {
    const { nChannels, size } = this;
    const samples = new Float32Array((to - from) * nChannels);
    for (let c = 0; c < nChannels; c++) {
      for (let i = from; i < to; i++) samples[(i - from) * nChannels + c] = this.raw[c][i % size];
    }
    return { samples, nSamples: to - from, nChannels, firstIndex: from, startUnix: this.time(from) };
  }

  /** A copy that stands still. */
  clone() {
    const copy = Object.create(Samples.prototype);
    Object.assign(copy, this);
    copy.raw = this.raw.map((ring) => ring.slice());
    copy.gaps = this.gaps.map((gap) => [...gap]);
    copy.shown = this.shown.map((trace) => ({
      ...trace,
      chain: new Chain(trace.chain.stages.map((stage) => stage.c)),
      data: trace.data.slice(),
    }));
    return copy;
  }
}
