"""The updater `counting`: the user vector is the mean vector of the items the user chose."""

from collections.abc import Mapping

import numpy as np

from edgerec.hookspecs import hookimpl
from edgerec.interfaces import Settings, UpdaterFactory
from edgerec.types import Float32, LearningBatch, Model, State


class Counting:
    """State: `count` int64 () and `total` float64 (dim,), the sum of the chosen items' vectors."""

    name = "counting"
    schema = 1
    item_space = True

    def __init__(self, settings: Settings) -> None:
        pass

    def initial(self, model: Model) -> State:
        return {"count": np.zeros((), np.int64), "total": np.zeros(model.dim)}

    def update(self, state: State, batch: LearningBatch) -> State:
        chosen = batch.rows[(batch.rows >= 0) & (batch.weight > 0)]
        return {
            "count": np.asarray(state["count"] + len(chosen)),
            "total": state["total"] + batch.model.vectors[chosen].sum(axis=0),
        }

    def user_vector(self, state: State) -> Float32:
        mean: Float32 = (state["total"] / max(int(state["count"]), 1)).astype(np.float32)
        return mean

    def migrate(self, state: State, old_schema: int) -> State:
        raise ValueError(f"no state of schema {old_schema} was ever written")


@hookimpl
def edgerec_updaters() -> Mapping[str, UpdaterFactory]:
    return {Counting.name: Counting}
