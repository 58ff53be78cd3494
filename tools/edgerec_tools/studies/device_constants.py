"""Which constants of learning on the device do best on the validation period, through the real simulator.

    edgerec train --data retail --cutoff 2011-06-01 --out val.model
    python -m edgerec_tools.studies.device_constants val.model

Every setting is exported as a bundle of its own and replayed on the same users from June to August 2011.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from edgerec.bundle.manifest import Scenario
from edgerec_tools.comparison import document
from edgerec_tools.datasets import load
from edgerec_tools.periods import Period, seconds
from edgerec_tools.studies.trials import replayed

if TYPE_CHECKING:
    from edgerec_exporters.trained import Trained

CUTOFF, UNTIL = "2011-06-01", "2011-09-01"


class Setting(NamedTuple):
    """One line of the study: the arm under trial, and what its bundle's constants are changed to."""

    arm: str
    title: str
    changes: Mapping[str, Any]


def _named(constants: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in constants.items())


def _sgd(*, learn_history: bool = False, **constants: Any) -> Setting:
    wide = {"max_step": 10.0, "max_norm": 50.0}  # the queries are about 12 long
    changes = {"updaters": {"sgd": wide | constants}, "guard": wide, "learn_history": learn_history}
    return Setting("personalised-blend", f"sgd {_named(constants)}{', history' * learn_history}", changes)


def _rivals(arm: str, n_rivals: int, **constants: Any) -> Setting:
    wide = {"max_step": 10.0, "max_norm": 50.0}
    own = {"sgd": wide | {"loss": "perceptron"} | constants}
    changes = {"n_rivals": n_rivals, "updaters": own, "guard": wide}
    return Setting(arm, f"perceptron, {n_rivals} rivals, {_named(constants)}", changes)


def _foldin(**constants: Any) -> Setting:
    return Setting("foldin", f"foldin {_named(constants)}", {"updaters": {"foldin": constants}})


def _blend(**constants: Any) -> Setting:
    return Setting("personalised-sgd", f"blend {_named(constants)}", {"blend": constants})


def _guard(**constants: Any) -> Setting:
    return Setting("personalised", f"guard {_named(constants)}", {"guard": constants})


def _updater(name: str, **constants: Any) -> Setting:
    wide = {"max_step": 10.0, "max_norm": 50.0}
    changes = {"updater": name, "updaters": {name: {"max_norm": 50.0} | constants}, "guard": wide}
    return Setting("personalised-blend", f"{name} {_named(constants)}", changes)


def _source(name: str, weight: float) -> Setting:
    return Setting("personalised-blend", f"source {name} {weight}", {"sources_beside": {name: weight}})


SETTINGS = (
    *(_sgd(rate=rate) for rate in (0.1, 1.0, 3.0, 10.0)),
    _sgd(rate=3.0, replay=0.0),
    _sgd(rate=3.0, pull=0.003),
    _sgd(rate=3.0, loss="bpr"),
    _sgd(rate=10.0, pull=0.003),
    _sgd(rate=30.0, pull=0.003),
    _sgd(rate=3.0, pull=0.003, learn_history=True),
    _sgd(rate=10.0, pull=0.001, learn_history=True),
    *(_rivals(arm, 30, rate=20.0, pull=0.003) for arm in ("personalised-blend", "personalised")),
    *(_foldin(l2=l2) for l2 in (1.0, 5.0, 20.0)),
    _foldin(l2=5.0, half_life_days=120.0),
    *(_blend(rate=rate) for rate in (0.02, 0.1, 0.3)),
    _blend(rate=0.1, share=0.1),
    *(_guard(window=window) for window in (20.0, 50.0)),
    _guard(min_count=5.0),
    _guard(margin=1.0),
    *(_updater("adagrad", rate=rate, pull=0.01) for rate in (0.1, 0.5)),
    _updater("ftrl", rate=0.1, l2=0.1),
    *(_updater("ftrl", rate=1.0, l2=l2) for l2 in (0.1, 1.0)),
    _updater("ftrl", rate=1.0, l2=0.1, l1=0.5),
    *(_source(name, weight) for name in ("recency", "bandit") for weight in (0.05, 0.15)),
)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--devices", type=click.IntRange(min=1), help="A random sample of so many users.")
@click.option("--only", help="Settings whose title begins so.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes; one per core by default.")
def study(model: Path, devices: int | None, only: str | None, workers: int | None) -> None:
    """Prints one line of a Markdown table per setting: NDCG@10, and its difference to `fresh`."""
    from edgerec_exporters.trained import load_trained

    trained, dataset = load_trained(model), load("retail")
    period = Period(seconds(CUTOFF), seconds(UNTIL))
    run = partial(replayed, dataset=dataset, period=period, devices=devices, workers=workers)

    fresh = run(trained, arms=("fresh",))  # nothing that is tried here changes it
    click.echo("| constants | arm | novel | − fresh | all | − fresh |\n| --- | --- | --- | --- | --- | --- |")
    for setting in SETTINGS:
        if only and not setting.title.startswith(only):
            continue
        trial = run(_changed(trained, setting.changes), arms=(setting.arm,))
        click.echo(_line(setting, document(replace(trial, arms=(*fresh.arms, *trial.arms)))))


def _changed(trained: Trained, changes: Mapping[str, Any]) -> Trained:
    """`sources_beside`: sources with their weights in every scenario; all else by the model's own names."""
    rest = {name: value for name, value in changes.items() if name != "sources_beside"}
    beside = changes.get("sources_beside", {})
    scenarios = {name: Scenario(of.seen, {**of.weights, **beside}) for name, of in trained.scenarios.items()}
    return replace(trained, scenarios=scenarios, **rest)


def _line(setting: Setting, result: Mapping[str, Any]) -> str:
    cells = []
    (arm,) = (arm for arm in result["arms"] if arm["name"] == setting.arm)
    for view in ("novel", "all"):
        versus = arm["vs"]["fresh"][view]
        low, high = versus["ci95"]
        cells += [f"{arm['views'][view]['ndcg@10']:.4f}", f"{versus['ndcg@10']:+.4f} [{low:+.4f}, {high:+.4f}]"]
    return f"| {setting.title} | {setting.arm} | {' | '.join(cells)} |"


if __name__ == "__main__":
    study()
