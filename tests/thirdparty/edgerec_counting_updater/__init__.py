"""The updater `counting`: the user vector is the mean vector of the items the user chose."""

import numpy as np

from edgerec.hookspecs import hookimpl


class Counting:
    """State: `count` int64 () and `total` float64 (dim,), the sum of the chosen items' vectors."""

    name = "counting"
    schema = 1
    item_space = True

    def __init__(self, settings):
        pass

    def initial(self, model):
        return {"count": np.zeros((), np.int64), "total": np.zeros(model.dim)}

    def update(self, state, batch):
        chosen = batch.rows[(batch.rows >= 0) & (batch.weight > 0)]
        return {
            "count": state["count"] + np.int64(len(chosen)),
            "total": state["total"] + batch.model.vectors[chosen].sum(axis=0),
        }

    def user_vector(self, state):
        return (state["total"] / max(int(state["count"]), 1)).astype(np.float32)

    def migrate(self, state, old_schema):
        raise ValueError(f"no state of schema {old_schema} was ever written")


@hookimpl
def edgerec_updaters():
    return {Counting.name: Counting}
