"""Streaming real-time EEG seizure classifier. For research; not a medical device.

    LSL outlet (headset or simulator)
        |  sources/lsl.py        one thread: pull, count, find gaps
        v
    Chunk -> detection/detector.py   same thread, pure and synchronous:
        |      resampler -> filters -> ring buffer -> quality -> scaler
        |      -> engines/ (LSTM over sliding 120-sample windows) -> smoother -> alarm
        v
    Prediction, AlertEvent -> pipeline.py   into asyncio, once per decision
        |
        v
    sinks/outbox.py (durable) -> sinks/mqtt.py -> MQTT broker -> subscribers

Start reading at :mod:`stream_classifier.pipeline`.
"""

__version__ = "0.1.0"
