"""Small recordings, written as other programs write them."""

from __future__ import annotations

import struct

import numpy as np

from stream_classifier.engines.reference import classify_windows

RATE_HZ = 178.0
BACKGROUND_S, SEIZURE_S = 15.0, 12.0


def signal_uv(bundle, *, n_channels=2, around_s=BACKGROUND_S, seizure_s=SEIZURE_S):
    """Background, a seizure, background, at 178 Hz, the same on all channels: µV.

    Made of the bundle's own self-test windows, so that it needs no data set.
    """
    windows = bundle.selftest_windows.reshape(len(bundle.selftest_windows), -1)
    p = classify_windows(bundle, windows)[..., 0].ravel()
    parts = [
        np.resize(windows[chosen].ravel(), round(seconds * RATE_HZ))
        for chosen, seconds in ((p < 0.1, around_s), (p > 0.9, seizure_s), (p < 0.1, around_s))
    ]
    return np.repeat(np.concatenate(parts)[:, None], n_channels, axis=1).astype(np.float32)


def write_edf(
    path, samples, *, rate_hz=RATE_HZ, labels=None, unit="uV", bdf=False, annotations=None,
    range_uv=(-3000, 3000),
):  # fmt: skip
    """Write whole seconds of µV as EDF or BDF, in ``unit``."""
    import edfio

    signal, recording = (edfio.BdfSignal, edfio.Bdf) if bdf else (edfio.EdfSignal, edfio.Edf)
    per_unit = {"uV": 1.0, "mV": 1e3, "V": 1e6}.get(unit, 1.0)
    whole = int(len(samples) // rate_hz * rate_hz)
    more = {"digital_range": (-8388608, 8388607)} if bdf else {}
    recording(
        [
            signal(
                np.clip(samples[:whole, n].astype(float), *range_uv) / per_unit,
                rate_hz,
                label=label,
                physical_dimension=unit,
                physical_range=tuple(limit / per_unit for limit in range_uv),
                **more,
            )
            for n, label in enumerate(labels or [f"C{n + 3}" for n in range(samples.shape[1])])
        ],
        data_record_duration=1,
        annotations=None
        if annotations is None
        else [edfio.EdfAnnotation(*annotation) for annotation in annotations],
    ).write(path)
    return path


def with_gap(path, *, after_record, seconds):
    """Make an EDF+D of an EDF+C of records of 1 s: time is missing after some record."""
    raw = path.read_bytes()
    n_signals = int(raw[252:256])
    at = 256 + 216 * n_signals
    samples = [int(raw[at + 8 * n : at + 8 * n + 8]) for n in range(n_signals)]
    record, notes = 2 * sum(samples), 2 * samples[-1]
    head, body = raw[: 256 * (n_signals + 1)], bytearray(raw[256 * (n_signals + 1) :])
    for number in range(after_record, len(body) // record):
        stop = (number + 1) * record
        text = f"+{number + seconds}\x14\x14\0".encode()
        body[stop - notes : stop] = text.ljust(notes, b"\0")
    path.write_bytes(head.replace(b"EDF+C", b"EDF+D") + bytes(body))
    return path


def write_csv(path, samples, *, labels, top="", delimiter=","):
    """Write samples as they are, under a header."""
    rows = [delimiter.join(f"{value:.6g}" for value in row) for row in np.asarray(samples).tolist()]
    path.write_text("\n".join([*([top] if top else []), delimiter.join(labels), *rows]) + "\n")
    return path


def write_xdf(path, streams):
    """Write streams of ``(name, type, rate_hz, labels, unit, samples, stamps)``, one chunk each."""
    raw = b"XDF:" + _chunk(1, b"<?xml version='1.0'?><info><version>1.0</version></info>")
    for number, (name, kind, rate_hz, labels, unit, samples, stamps) in enumerate(streams, 1):
        channels = "".join(
            f"<channel><label>{label}</label><unit>{unit}</unit><type>EEG</type></channel>"
            for label in labels
        )
        info = (
            f"<?xml version='1.0'?><info><name>{name}</name><type>{kind}</type>"
            f"<channel_count>{len(labels)}</channel_count><nominal_srate>{rate_hz}</nominal_srate>"
            f"<channel_format>float32</channel_format><source_id>x</source_id>"
            f"<desc><channels>{channels}</channels></desc></info>"
        )
        stream = struct.pack("<I", number)
        raw += _chunk(2, stream + info.encode())
        if len(samples):
            content = b"".join(
                b"\x08" + struct.pack("<d", stamp) + row.tobytes()
                for stamp, row in zip(stamps, np.asarray(samples, "<f4"), strict=True)
            )
            raw += _chunk(3, stream + b"\x04" + struct.pack("<I", len(samples)) + content)
    path.write_bytes(raw)
    return path


def _chunk(tag, content):
    return b"\x04" + struct.pack("<IH", len(content) + 2, tag) + content
