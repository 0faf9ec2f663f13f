"""Arguments and options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

Source = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A YAML file, or the name of a bundled recipe.", show_default=False)
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="A setting over the recipe's, such as training.steps=500; repeatable."
    ),
]
Quick = Annotated[bool, typer.Option("--quick", help="A tenth of the steps and two seeds: to see that it works.")]
AllowCode = Annotated[bool, typer.Option("--allow-code", help="Let the recipe run Python code that it names.")]
RunFolder = Annotated[
    Path, typer.Argument(metavar="RUN", help="A run folder, such as runs/digits.", show_default=False)
]
