"""What the studies of a trained model share: it becomes a bundle that devices run."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgerec_tools.datasets import Dataset
from edgerec_tools.periods import Period
from edgerec_tools.simulate import Simulation, simulate

if TYPE_CHECKING:
    from edgerec_exporters.trained import Trained


def exported(model: Trained, folder: Path, version: int = 1) -> Path:
    """The model as a bundle in `folder`, named after its version."""
    from edgerec_exporters.bundle_writer import export

    bundle = folder / f"{version}.edgerec"
    export(model, bundle, name=model.name, version=version, metrics=model.metrics)
    return bundle


def replayed(model: Trained, dataset: Dataset, period: Period, **options: Any) -> Simulation:
    """The period, replayed on devices that run the model; `options` as in `simulate`."""
    with tempfile.TemporaryDirectory() as folder:
        return simulate(dataset, exported(model, Path(folder)), period, **options)
