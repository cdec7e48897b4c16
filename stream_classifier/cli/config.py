"""``stream-classifier config show | init``: the settings as they are resolved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from stream_classifier.errors import ConfigError

app = typer.Typer(no_args_is_help=True)

ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="Configuration file (TOML).", show_default=False)
]


@app.command()
def show(config: ConfigOption = None) -> None:
    """Print every setting as file and environment resolve it; secrets are masked."""
    from stream_classifier import config as settings  # noqa: PLC0415

    file = settings.find_config(config)
    Console(stderr=True).print(
        f"configuration file: {file or 'none found'}", highlight=False, markup=False, soft_wrap=True
    )
    print(json.dumps(settings.shown(settings.load(config)), indent=2))


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="Where to write it.")] = Path(
        "stream-classifier.toml"
    ),
) -> None:
    """Write a configuration file that holds every setting, its meaning and its default."""
    from stream_classifier import config as settings  # noqa: PLC0415

    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(settings.template())
    except FileExistsError as error:
        raise ConfigError(f"{path} exists already. Try: another path, or edit it") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error
    Console(stderr=True).print(f"wrote {path}", highlight=False, markup=False, soft_wrap=True)
