"""A simulated device that is ready to start at once: on the first line that it is told.

``simulate`` takes seconds to start. Prints the time of its first sample.
"""

import sys
import time

from simulators.device import Device
from simulators.scenario import load, play


def main(source_id, scenario, labels, rate_hz):
    names = tuple(labels.split(","))
    blocks = play(load(scenario), n_channels=len(names), loop=True)
    device = Device(
        name=source_id,
        source_id=source_id,
        labels=names,
        played="a test",
        rate_hz=float(rate_hz),
    )
    print("ready", flush=True)
    sys.stdin.readline()
    with device:
        print(f"started {time.time()}", flush=True)
        device.stream(blocks)


if __name__ == "__main__":
    main(*sys.argv[1:])
