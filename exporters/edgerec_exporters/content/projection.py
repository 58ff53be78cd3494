"""Fits the road from content into a trained item space: ridge for vectors, principal directions for codes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgerec.bundle.content import ContentModel, ContentRule, Modality, Sparse, centre, to_csr, to_list, unit
from edgerec.errors import TrainingError
from edgerec_exporters.content.vectors import Content

if TYPE_CHECKING:
    from edgerec_exporters.trained import Trained

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Csr = tuple[NDArray[np.int32], NDArray[np.int32], Float32]

MIN_ITEMS = 10


@dataclass(frozen=True, slots=True)
class ContentRecipe:
    """Constants, chosen on Online Retail's validation period (docs/results/cold-items.md).

    `l2`: ridge penalty for inputs of mean square length 1 · `count_power`: an item counts as its number of events to
    that power when vectors are fitted (bias and popularity are fitted unweighted) · `most_stretch`: what shrinkage is
    undone at most, for content that tells nothing · `code_length`: at most.
    """

    l2: float = 10.0
    count_power: float = 0.0
    most_stretch: float = 3.0
    code_length: int = 64
    rule: ContentRule = field(default_factory=ContentRule)


@dataclass(frozen=True, slots=True, eq=False)
class Space:
    """What was trained: `vectors` float32 (n, dim) · `bias`, `popularity` float32 (n,) · `neighbours` CSR."""

    vectors: Float32
    bias: Float32
    popularity: Float32
    neighbours: Csr | None


def fit(content: Content, space: Space, count: NDArray[np.int64], recipe: ContentRecipe | None = None) -> ContentModel:
    """Learns from the items that have both events (`count` int64 (n,) > 0) and content. Deterministic.

    Raises TrainingError where hardly any item has both.
    """
    recipe = recipe or ContentRecipe()
    warm = count > 0
    known = warm & content.given()
    if int(known.sum()) < MIN_ITEMS:
        raise TrainingError(
            f"only {int(known.sum())} items have both events and content", hint="are the ids those of the data set?"
        )
    means, inputs, scales = {}, [], {}
    for name, values in content.arrays.items():
        has = ~np.isnan(values[:, 0])
        means[name] = values[known & has].mean(0) if (known & has).any() else np.zeros(values.shape[1], np.float32)
        centred, _ = centre(name, values, means[name])
        scales[name] = float(np.sqrt(np.square(centred[known & has]).sum(1).mean())) if (known & has).any() else 0.0
        inputs.append(centred / np.float32(max(scales[name], 1e-9)))
    x = np.concatenate(inputs, axis=1)
    targets = np.column_stack([space.vectors, space.bias, space.popularity])[known]
    weights, offset = _maps(x[known], targets, count[known], recipe)
    modalities, first = [], 0
    for name, values in content.arrays.items():
        part = weights[first : first + values.shape[1]] / max(scales[name], 1e-9)
        modalities.append(_modality(name, values, means[name], warm, part.astype(np.float32), recipe.code_length))
        first += values.shape[1]
    return ContentModel(tuple(modalities), offset.astype(np.float32), recipe.rule)


def _maps(x: Float32, targets: Float32, count: NDArray[np.int64], recipe: ContentRecipe) -> tuple[Float64, Float64]:
    """The map float64 (d, dim + 2), and what an item without content gets: no vector, but the mean of the others.

    Ridge shrinks: the vectors it predicts are stretched to the mean square length of the learned ones, so that new
    items score neither lower nor higher than others for that alone.
    """
    dim = targets.shape[1] - 2
    offset = np.r_[np.zeros(dim), targets[:, dim:].mean(0, dtype=np.float64)]
    weight = count.astype(np.float64) ** recipe.count_power
    vectors = ridge(x, targets[:, :dim], weight / weight.mean(), recipe.l2)
    learned, predicted = np.square(targets[:, :dim]).sum(), np.square(x @ vectors).sum()
    vectors *= min(np.sqrt(learned / max(predicted, 1e-30)), recipe.most_stretch)
    others = ridge(x, targets[:, dim:] - offset[dim:], np.ones(len(x)), recipe.l2)
    return np.concatenate([vectors, others], axis=1), offset


def ridge(x: Float32, y: Float32 | Float64, weight: Float64, l2: float) -> Float64:
    """argmin_M Σ_i w_i ‖y_i − x_i M‖² + l2 ‖M‖² = (Xᵀ W X + l2 I)⁻¹ Xᵀ W Y, float64 (d, k)."""
    wide: Float64 = x.astype(np.float64)
    weighted: Float64 = wide * weight[:, None]
    gram: NDArray[Any] = wide.T @ weighted
    gram[np.diag_indices_from(gram)] += l2
    solution: Float64 = np.linalg.solve(gram, weighted.T @ y)
    return solution


def _modality(
    name: str, values: Float32, mean: Float32, warm: NDArray[np.bool_], weights: Float32, code_length: int
) -> Modality:
    centred, _ = centre(name, values, mean)
    spread = centred[warm].astype(np.float64)
    found, directions = np.linalg.eigh(spread.T @ spread)
    basis: Float64 = directions[:, np.argsort(-found)[:code_length]]
    # the sign of an eigenvector is the library's whim
    basis *= np.sign(basis[np.abs(basis).argmax(0), np.arange(basis.shape[1])])
    codes = unit((centred @ basis).astype(np.float32))
    codes[~warm] = 0  # what has no events has nothing to lend
    return Modality(name, mean.astype(np.float32), basis.astype(np.float32), codes, weights)


def fill(model: ContentModel, content: Content, space: Space, cold: NDArray[np.bool_]) -> Space:
    """The space with the `cold` items (bool (n,)) that have content placed in it. What item-to-item weights they have
    is kept, and added to."""
    rows = np.flatnonzero(cold & content.given())
    if not len(rows):
        return space
    n = len(space.vectors)
    links = to_list(*space.neighbours) if space.neighbours else Sparse(*(np.zeros(0, t) for t in "qqf"))
    among_warm = ~cold[links.source] & ~cold[links.target]
    known = Sparse(links.source[among_warm], links.target[among_warm], links.weight[among_warm])
    placed = model.place({name: values[rows] for name, values in content.arrays.items()}, known, n)
    vectors, bias, popularity = space.vectors.copy(), space.bias.copy(), space.popularity.copy()
    vectors[rows], bias[rows], popularity[rows] = placed.vectors, placed.bias, placed.popularity
    real = np.r_[np.arange(n), rows]
    both = Sparse(
        np.r_[links.source, real[placed.links.source]],
        np.r_[links.target, real[placed.links.target]],
        np.r_[links.weight, placed.links.weight],
    )
    return Space(vectors, bias, popularity, to_csr(both, n))


def with_content(
    trained: Trained, content: Content, count: NDArray[np.int64], recipe: ContentRecipe | None = None
) -> Trained:
    """The trained model with its items without events (`count` int64 (n_items,)) placed by their content, and with
    what places further ones on a device. Raises TrainingError where hardly any item has both events and content."""
    content = content.of(trained.items)
    space = Space(trained.vectors.copy(), trained.bias.copy(), trained.popularity, trained.neighbours)
    cold = count == 0
    space.vectors[cold], space.bias[cold] = 0, 0  # whatever training left of where it started from
    model = fit(content, space, count, recipe)
    filled = fill(model, content, space, cold)
    told = {
        "modalities": {name: int((~np.isnan(values[:, 0])).sum()) for name, values in content.arrays.items()},
        "placed": int((cold & content.given()).sum()),
    }
    return replace(
        trained,
        vectors=filled.vectors,
        bias=filled.bias,
        popularity=filled.popularity,
        neighbours=filled.neighbours,
        content=model,
        metrics={**trained.metrics, "content": told},
    )
