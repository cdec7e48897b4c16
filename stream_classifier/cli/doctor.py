"""``stream-classifier doctor``: is this machine ready?"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from typing import Annotated, Any

import typer

from stream_classifier.cli.broker import CaFileOption, PasswordFileOption, UsernameOption
from stream_classifier.cli.config import ConfigOption


def doctor(
    ctx: typer.Context,
    broker: Annotated[
        str | None, typer.Option(help='MQTT broker to look for, or "embedded".')
    ] = None,
    username: UsernameOption = None,
    password_file: PasswordFileOption = None,
    ca_file: CaFileOption = None,
    bundle: Annotated[str | None, typer.Option(help="Model bundle: a name or a folder.")] = None,
    config: ConfigOption = None,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check this machine: Python, LSL, ports, broker, model, clock, disk. Exit code 1 on a failure.

    Takes some seconds; no check hangs.
    """
    from stream_classifier.config import MqttSettings, Settings, load  # noqa: PLC0415
    from stream_classifier.doctor import Finding, examine  # noqa: PLC0415
    from stream_classifier.errors import ConfigError, printable  # noqa: PLC0415

    flags: dict[str, Any] = {
        "mqtt": {
            "broker": broker,
            "username": username,
            "password_file": password_file,
            "ca_file": ca_file,
        },
        "model": {"bundle": bundle},
    }
    findings: list[Finding] = []

    def report(finding: Finding) -> None:
        findings.append(finding)
        if not json_:
            # Line by line: what was found may quote a stream or a broker.
            said = f"\n{'':<5} {'':<15} ".join(map(printable, finding.said.splitlines()))
            print(f"{finding.state:<5} {finding.check:<15} {said}")
            if finding.fix:
                print(f"{'':<5} {'':<15} try: {printable(finding.fix)}", flush=True)

    try:
        settings = load(config, flags)
    except ConfigError as error:
        report(Finding("configuration", "fail", str(error), "mend that setting"))
        settings = Settings.model_construct()  # the defaults, so that the rest can be checked
    chosen = settings.mqtt.broker != MqttSettings().broker or broker is not None
    debug = bool((ctx.obj or {}).get("debug"))
    # What a check finds is its finding; the log would say it a second time.
    logging.basicConfig(level=logging.DEBUG if debug else logging.CRITICAL)
    for finding in examine(settings, broker_is_chosen=chosen, debug=debug):
        report(finding)
    well = all(finding.state != "fail" for finding in findings)
    if json_:
        print(json.dumps({"ok": well, "checks": [asdict(f) for f in findings]}, indent=2))
    if not well:
        raise typer.Exit(1)
