"""``python -m benchmarks NAME [--json]``."""

from __future__ import annotations

import argparse
import json
import sys

from benchmarks import (
    engine,
    footprint,
    gpu,
    latency,
    load,
    monitor,
    pictures,
    replay,
    soak,
    timeline,
)

COMMANDS = {
    "engine": engine,
    "footprint": footprint,
    "gpu": gpu,
    "latency": latency,
    "load": load,
    "monitor": monitor,
    "picture": pictures,
    "replay": replay,
    "soak": soak,
    "timeline": timeline,
}


def main() -> int:
    """Run one benchmark and print its figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, module in COMMANDS.items():
        command = commands.add_parser(name, help=module.__doc__.splitlines()[0])
        command.add_argument("--json", action="store_true", help="one JSON object on stdout")
        module.add_arguments(command)
        command.set_defaults(module=module)
    arguments = parser.parse_args()
    result = arguments.module.measure(arguments)
    print(json.dumps(result) if arguments.json else arguments.module.table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
