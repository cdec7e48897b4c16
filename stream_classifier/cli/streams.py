"""``stream-classifier streams``: what Lab Streaming Layer shows."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stream_classifier.errors import printable

if TYPE_CHECKING:
    from stream_classifier.sources.discovery import StreamSeen

ANSWER_S = 1.5
"""How long a stream may take to describe itself."""

MAX_SHOWN = 60
"""Characters of a name in the table; names may be of any length."""

NOTHING = """\
No LSL stream was found within {wait:g} s. Try:
  - Is the device's program running, and streaming?
  - Is it on this network? LSL looks by UDP multicast on port 16571, which
    guest networks, VPNs, Docker and Hyper-V often block. Name its host in
    lsl_api.cfg: [lab] KnownPeers = {{host}}
  - Does a firewall, here or there, allow TCP and UDP 16572-16604 and
    UDP 16571?
  - stream-classifier doctor checks this machine;
    stream-classifier simulate starts a device."""


def streams(
    ctx: typer.Context,
    wait: Annotated[float, typer.Option(min=1.0, max=3600.0, help="Seconds to look.")] = 2.0,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON array.")] = False,
) -> None:
    """List what Lab Streaming Layer shows on this network. Exit code 4 if there is nothing."""
    from stream_classifier.sources.lsl_runtime import quiet_liblsl  # noqa: PLC0415

    quiet_liblsl(debug=bool((ctx.obj or {}).get("debug")))
    found = _survey(wait)
    if json_:
        print(json.dumps(found, indent=2))
    elif found:
        print("\n".join(_lines(found)))
    if not found:
        print(NOTHING.format(wait=wait), file=sys.stderr)
        raise typer.Exit(4)


def _survey(wait_s: float) -> list[dict[str, Any]]:
    """Look around, then ask every stream that is there for its description."""
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415

    from stream_classifier.sources.discovery import Lookout  # noqa: PLC0415

    with Lookout() as lookout:
        time.sleep(wait_s)
        seen = lookout.streams()
    with ThreadPoolExecutor(max_workers=16) as pool:
        return list(pool.map(_describe, seen))


def _describe(stream: StreamSeen) -> dict[str, Any]:
    from stream_classifier.sources.inlet import introduce  # noqa: PLC0415

    answer = introduce(stream, within_s=ANSWER_S)
    channels = answer.channels if answer else ()
    return {
        "name": stream.name,
        "type": stream.type,
        "source_id": stream.source_id,
        "n_channels": stream.n_channels,
        "rate_hz": stream.rate_hz,
        "format": stream.format,
        "host": stream.host,
        "uid": stream.uid,
        "answers": answer is not None,
        "age_s": None if answer is None or answer.age_s is None else round(answer.age_s, 1),
        "labels": [channel.label for channel in channels],
        "units": sorted({channel.unit for channel in channels}),
    }


def _lines(found: list[dict[str, Any]]) -> list[str]:
    """Return the table, one line a stream."""
    rows = [("name", "type", "channels", "rate", "unit", "age", "host", "source_id")]
    for stream in found:
        units = ", ".join(unit or "none" for unit in stream["units"]) or "none"
        rows.append(
            (
                stream["name"],
                stream["type"],
                str(stream["n_channels"]),
                f"{stream['rate_hz']:g} Hz" if stream["rate_hz"] else "irregular",
                units if stream["answers"] else "no answer",
                _age(stream["age_s"]),
                stream["host"],
                stream["source_id"] or "none",
            )
        )
    cells = [[_short(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]


def _short(text: str) -> str:
    """Return a name without what a terminal would obey, and not longer than fits."""
    clean = printable(text[: MAX_SHOWN + 1])
    return clean if len(clean) <= MAX_SHOWN else f"{clean[:MAX_SHOWN]}..."


def _age(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
