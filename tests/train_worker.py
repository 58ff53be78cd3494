"""A process that trains on made-up purchases and writes what it learned; run by the tests, also by `torchrun`."""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import replace
from typing import Any

import numpy as np

from edgerec_exporters.distributed import started
from edgerec_exporters.encoder_fit import EncoderRecipe
from edgerec_exporters.interactions import Interactions
from edgerec_exporters.recipe import Recipe, recipe_for
from edgerec_exporters.sequence_fit import SequenceRecipe
from edgerec_exporters.train import train
from edgerec_exporters.trained import Trained

DAY = 86400.0
START = 1_600_000_000.0
CUTOFF = START + 100 * DAY
N_USERS, N_ITEMS, N_TASTES = 60, 40, 5


def shop(seed: int = 0) -> Interactions:
    """Users who buy within one of five disjoint groups of items."""
    rng = np.random.default_rng(seed)
    events = []
    for user in range(N_USERS):
        own = np.arange(N_ITEMS)[np.arange(N_ITEMS) % N_TASTES == user % N_TASTES]
        for at in rng.uniform(START, CUTOFF, 6):
            events += [(float(at), user, int(item)) for item in np.sort(rng.choice(own, 2, replace=False))]
    events.sort()
    at, user, item = (np.array(column) for column in zip(*events, strict=True))
    return Interactions(
        user=user.astype(np.int32),
        item=item.astype(np.int32),
        at=at,
        group=np.cumsum(np.diff(at, prepend=at[0]) > 0),
        kind=np.zeros(len(at), np.int64),
        value=np.ones(len(at), np.float32),
        n_users=N_USERS,
        items=[f"i{row}" for row in range(N_ITEMS)],
        titles=[f"i{row}" for row in range(N_ITEMS)],
        attributes=[{}] * N_ITEMS,
    )


def small_recipe(model: str, **changes: Any) -> Recipe:
    recipe = recipe_for(model)
    if isinstance(recipe.encoder, SequenceRecipe):
        encoder: Any = SequenceRecipe(epochs=4, validate_every=1, batch_size=16, n_negatives=20)
        recipe = replace(recipe, architecture={**recipe.architecture, "dropout": 0.0})
    else:
        encoder = EncoderRecipe(epochs=4, batch_size=32, n_negatives=20)
    sizes = {"dim": 8, "history_length": 16, "validation_days": 30.0}
    return replace(recipe, **sizes, encoder=replace(encoder, **changes))


def learned(trained: Trained) -> dict[str, np.ndarray]:
    """All that was trained, by name."""
    weights = {name: tensor.numpy() for name, tensor in trained.encoder.state_dict().items()}
    return {"vectors": trained.vectors, "bias": trained.bias, **weights}


def main(settings: dict[str, Any]) -> None:
    """`model`, `out`, and where wanted `checkpoint`, `die_at`: the progress at which this process kills itself."""
    model, die_at = settings["model"], settings.get("die_at")

    def progress(what: str, done: int, total: int) -> None:
        if die_at and [what, done] == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    with started("cpu") as ranks:
        trained = train(
            shop(settings.get("data", 0)),
            model=model,
            recipe=small_recipe(model, **settings.get("changes", {})),
            seed=settings.get("seed", 3),
            device="cpu",
            progress=progress,
            checkpoint=settings.get("checkpoint"),
            ranks=ranks,
        )
    if ranks.first:
        trained.save(settings["out"])
        print(json.dumps({"epochs": trained.metrics["epochs"], "ranks": ranks.size}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
