// The link to the classifier: connects, connects again, and says how it stands.

import { parseFrames } from "/frames.js";

const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 5000;
const WHY = {
  1012: "the classifier has stopped",
  4403: "the classifier refuses this page: open the address that it printed",
  4429: "too many viewers are connected already",
  4008: "this page asked for too much",
};

export class Connection {
  /** on: {said(kind, data), frame(frame), up(), down(why)} */
  constructor(on) {
    this.on = on;
    this.waitMs = FIRST_WAIT_MS;
    this.bytes = 0;
    this.connect();
  }

  connect() {
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(`${scheme}//${location.host}/live`);
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    socket.onopen = () => {
      this.waitMs = FIRST_WAIT_MS;
    };
    socket.onmessage = ({ data }) => {
      if (typeof data === "string") {
        this.bytes += data.length;
        const { kind, data: said } = JSON.parse(data);
        if (kind === "hello") this.on.up();
        this.on.said(kind, said);
      } else {
        this.bytes += data.byteLength;
        for (const frame of parseFrames(data)) this.on.frame(frame);
      }
    };
    socket.onclose = ({ code, reason }) => {
      this.on.down(reason || WHY[code] || null);
      setTimeout(() => this.connect(), this.waitMs);
      this.waitMs = Math.min(LONGEST_WAIT_MS, 2 * this.waitMs);
    };
  }

  /** Ask for something; false where nobody listens. */
  ask(what) {
    if (this.socket.readyState !== WebSocket.OPEN) return false;
    this.socket.send(JSON.stringify(what));
    return true;
  }

  /** Fetch the frames between two Unix times. */
  async samples(from, to) {
    const answer = await fetch(`/samples?from=${from}&to=${to}`);
    if (!answer.ok) throw new Error(await answer.text());
    return parseFrames(await answer.arrayBuffer());
  }
}
