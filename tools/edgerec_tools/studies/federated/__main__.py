"""Studies of federation on Online Retail's validation period; each prints Markdown, and draws what it can.

    python -m edgerec_tools.studies.federated --study poisoning --seeds 3

The model, trained before June 2011, is kept in `build/federated`; training it takes two minutes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import click

from edgerec_tools.progress import bars
from edgerec_tools.studies.federated import reports, trade_offs
from edgerec_tools.studies.federated.harness import Field, stored

STUDIES: Mapping[str, Callable[[Field, int, Path | None, reports.Tell], str]] = {
    "poisoning": reports.poisoning_report,
    "shares": reports.shares_report,
    "membership": reports.membership_report,
    "privacy": trade_offs.privacy_report,
    "dropout": trade_offs.dropout_report,
    "settings": trade_offs.settings_report,
}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--study", type=click.Choice(list(STUDIES)), required=True)
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option(
    "--model",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("build/federated/retail.model"),
    show_default=True,
    help="Of edgerec train; trained and kept there where it is missing.",
)
@click.option("--plot", type=click.Path(path_type=Path), help="An SVG file, for the studies that have a plot.")
def study(study: str, seeds: int, model: Path, plot: Path | None) -> None:
    """Prints the tables of one study."""
    with bars() as progress:
        text = STUDIES[study](stored(model), seeds, plot, lambda done, whole: progress(study, done, whole))
    click.echo(text)


if __name__ == "__main__":
    study()
