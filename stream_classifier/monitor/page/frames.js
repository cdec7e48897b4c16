// Frames of samples, as stream_classifier/monitor/wire.py lays them out.

const HEADER_BYTES = 32;

/** Read frames that lie end to end; what is left over at the end is no frame and is ignored. */
export function parseFrames(buffer) {
  const view = new DataView(buffer);
  const frames = [];
  let at = 0;
  while (at + HEADER_BYTES <= buffer.byteLength) {
    const nSamples = view.getUint32(at + 4, true);
    const nChannels = view.getUint32(at + 8, true);
    const end = at + HEADER_BYTES + 4 * nSamples * nChannels;
    if (end > buffer.byteLength) break;
    frames.push({
      seq: view.getUint32(at, true),
      nSamples,
      nChannels,
      firstIndex: view.getFloat64(at + 16, true),
      startUnix: view.getFloat64(at + 24, true),
      samples: new Float32Array(buffer, at + HEADER_BYTES, nSamples * nChannels),
    });
    at = end;
  }
  return frames;
}
