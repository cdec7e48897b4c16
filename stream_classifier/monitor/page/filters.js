// Filters for the view only: the classifier has its own. Second order, Butterworth (RBJ cookbook).

/** Coefficients [b0, b1, b2, a1, a2] of a "highpass", "lowpass" or "notch"; null: leave it out. */
export function design(kind, hz, rateHz) {
  if (!(hz > 0) || hz >= rateHz / 2) return null;
  const w = (2 * Math.PI * hz) / rateHz;
  const q = kind === "notch" ? 20 : Math.SQRT1_2;
  const alpha = Math.sin(w) / (2 * q);
  const cos = Math.cos(w);
  const a0 = 1 + alpha;
  const b = {
    highpass: [(1 + cos) / 2, -(1 + cos), (1 + cos) / 2],
    lowpass: [(1 - cos) / 2, 1 - cos, (1 - cos) / 2],
    notch: [1, -2 * cos, 1],
  }[kind];
  return [b[0] / a0, b[1] / a0, b[2] / a0, (-2 * cos) / a0, (1 - alpha) / a0];
}

/** A chain of filters with its memory; starts as if its first value had always been there. */
export class Chain {
  constructor(stages) {
    this.stages = stages.filter(Boolean).map((c) => ({ c, z1: 0, z2: 0 }));
    this.fresh = true;
  }

  restart() {
    this.fresh = true;
  }

  next(value) {
    if (!Number.isFinite(value)) {
      this.fresh = true;
      return NaN;
    }
    let x = value;
    for (const stage of this.stages) {
      const [b0, b1, b2, a1, a2] = stage.c;
      if (this.fresh) {
        const settled = (x * (b0 + b1 + b2)) / (1 + a1 + a2);
        stage.z2 = b2 * x - a2 * settled;
        stage.z1 = b1 * x - a1 * settled + stage.z2;
      }
      const y = b0 * x + stage.z1;
      stage.z1 = b1 * x - a1 * y + stage.z2;
      stage.z2 = b2 * x - a2 * y;
      x = y;
    }
    this.fresh = false;
    return x;
  }
}
