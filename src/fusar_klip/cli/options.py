"""Options and arguments that several verbs have."""

from pathlib import Path
from typing import Annotated

import typer

JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object when done, and nothing else.")
]
ConfigOption = Annotated[Path | None, typer.Option("--config", help="TOML file with settings.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One setting; may be repeated.")
]
DatasetArgument = Annotated[Path, typer.Argument(help="A data set's folder.")]
