"""The same job written plainly: MNE-LSL, torch and paho.

``python -m benchmarks.latency_peer SETTINGS.json``; started by ``benchmarks.latency``. Whenever a
hop of samples has come, the last 120 of each channel go through the network in torch, and the
highest p(seizure) is published with QoS 1. No filters, no quality gate, no smoothing, no outbox:
what is left out is in its favour. Every decision is published, so that there are enough of them.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import paho.mqtt.client as paho
import torch
from mne_lsl.stream import StreamLSL

from benchmarks.peers import PlainNetwork
from stream_classifier.bundle import load_bundle

HOP_SAMPLES = 8
LOOK_EVERY_S = 0.0005
"""How often it looks for new samples; MNE-LSL fetches them itself every millisecond."""


def main(settings_file: str) -> None:
    wanted = json.loads(Path(settings_file).read_text(encoding="utf-8"))
    bundle = load_bundle(wanted["bundle"])
    torch.set_num_threads(1)
    network = PlainNetwork(bundle).eval()
    client = paho.Client(paho.CallbackAPIVersion.VERSION2)
    client.connect("127.0.0.1", wanted["port"])
    client.loop_start()
    stream = StreamLSL(4.0, source_id=wanted["source_id"]).connect(timeout=20)
    topic, ends_s = wanted["topic"], time.monotonic() + wanted["seconds"]
    with torch.inference_mode():
        while time.monotonic() < ends_s:
            if stream.n_new_samples < HOP_SAMPLES:
                time.sleep(LOOK_EVERY_S)
                continue
            samples, stamps = stream.get_data(winsize=bundle.window_samples / bundle.rate_hz)
            windows = np.asarray(samples[:, -bundle.window_samples :], dtype=np.float32)
            z = (windows - np.float32(bundle.scaler_mean_uv)) / np.float32(bundle.scaler_std_uv)
            p = float(network(torch.from_numpy(z))[:, 0].max())
            client.publish(topic, json.dumps({"p": p, "stamp_s": float(stamps[-1])}), qos=1)
    stream.disconnect()
    client.disconnect()
    client.loop_stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
