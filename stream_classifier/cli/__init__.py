"""The commands. The only place that prints results or decides an exit code.

Exit codes: 0 done, 1 another failure, 2 usage, 3 configuration or data set, 4 no
source within ``--wait``, an ambiguous one, or a recording that cannot be played, 5 broker
refused the credentials, 6 model, 130 interrupted.
"""

from __future__ import annotations

import sys
import traceback
from typing import Annotated

import typer

from stream_classifier import __version__
from stream_classifier.cli import (
    ack,
    calibrate,
    compare,
    config,
    crossval,
    dataset,
    demo,
    doctor,
    evaluate,
    export,
    heads,
    infer,
    model,
    report,
    run,
    simulate,
    status,
    streams,
    study,
    subscribe,
    test_alarm,
    train,
    watch,
)
from stream_classifier.errors import StreamClassifierError, printable

app = typer.Typer(
    name="stream-classifier",
    help="Streaming real-time EEG seizure classifier. For research; not a medical device.",
    epilog="Exit codes: 0 done, 2 usage, 3 configuration or data, 4 no or ambiguous source, or no "
    "usable recording, 5 broker refused the credentials, 6 model, 130 interrupted, 1 any other.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _common(
    ctx: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Tracebacks and all chatter.")] = False,
    _version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print and exit.")
    ] = False,
) -> None:
    ctx.obj = {"debug": debug}


for command in (
    demo.demo,
    run.run,
    calibrate.calibrate,
    simulate.simulate,
    streams.streams,
    subscribe.subscribe,
    watch.watch,
    status.status,
    ack.ack,
    export.export,
    test_alarm.test_alarm,
    train.train,
    evaluate.evaluate,
    report.report,
    heads.heads,
    crossval.crossval,
    compare.compare,
    study.study,
    infer.infer,
    doctor.doctor,
):
    app.command(command.__name__.replace("_", "-"))(command)
app.add_typer(dataset.app, name="dataset", help="The Epileptic Seizure Recognition data set.")
app.add_typer(model.app, name="model", help="Model bundles.")
app.add_typer(config.app, name="config", help="Settings.")


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        app(arguments, prog_name="stream-classifier")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except StreamClassifierError as error:
        if "--debug" in arguments:
            traceback.print_exc()
        said = "\n".join(map(printable, str(error).splitlines()))
        print(f"stream-classifier: {said}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if "--debug" in arguments:
            raise
        print(
            f"stream-classifier: unexpected {type(error).__name__}: {error}. This is a defect of "
            "the program. Try: the same command with --debug behind stream-classifier, and report "
            "what it prints",
            file=sys.stderr,
        )
        return 1
    return 0
