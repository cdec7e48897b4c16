// The alarm's sound: three soft tones every ten seconds, if a person switched it on.

const EVERY_MS = 10_000;

export class Sound {
  constructor() {
    this.on = false;
    this.lastAt = -Infinity;
  }

  toggle() {
    this.on = !this.on;
    this.context ??= new AudioContext(); // only now: browsers want a gesture first
    if (this.on) this.play(0.05);
    return this.on;
  }

  /** Called again and again while an alert wants to be heard. */
  due() {
    const now = performance.now();
    if (!this.on || now - this.lastAt < EVERY_MS) return;
    this.lastAt = now;
    this.play(0.25);
  }

  play(loudness) {
    [523, 659, 784].forEach((hz, i) => {
      const at = this.context.currentTime + 0.05 + 0.24 * i;
      const tone = this.context.createOscillator();
      const gain = this.context.createGain();
      tone.frequency.value = hz;
      gain.gain.setValueAtTime(0, at);
      gain.gain.linearRampToValueAtTime(loudness, at + 0.03);
      gain.gain.linearRampToValueAtTime(0, at + 0.2);
      tone.connect(gain).connect(this.context.destination);
      tone.start(at);
      tone.stop(at + 0.22);
    });
  }
}
