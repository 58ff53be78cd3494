"""A small encoder learns from a large one: beside the usual loss, to rank the shared candidates as its teacher does."""

from __future__ import annotations

import copy
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgerec.errors import TrainingError

if TYPE_CHECKING:
    from edgerec_exporters.encoder_fit import Taste
    from edgerec_exporters.trained import Trained

TIMED_QUERIES = 200


@dataclass(frozen=True, slots=True)
class DistilRecipe:
    """`share` of the loss that is the teacher's, the rest being the usual one; both see scores / `temperature`."""

    share: float = 0.5
    temperature: float = 1.0


def divergence(
    student: Tensor,
    teacher: Tensor,
    log_inclusion: Tensor,
    excluded: Tensor | None,
    weight: Tensor,
    temperature: float = 1.0,
) -> Tensor:
    """T² · KL(teacher ‖ student), the mean over rows weighed by `weight` (B,); a scalar (Hinton et al. 2015, §2).

    `student`, `teacher` logits (B, C) over the same candidates · `log_inclusion` (C,): a candidate stands for 1/π
    items in both, so that the softmax over the sample stands for that over the catalogue · `excluded` bool (B, C).
    """
    shift = log_inclusion if excluded is None else log_inclusion + torch.where(excluded, 1e9, 0.0)
    ours = torch.log_softmax(student / temperature - shift, 1)
    theirs = torch.log_softmax(teacher / temperature - shift, 1)
    apart = (theirs.exp() * (theirs - ours)).sum(1)
    total: Tensor = temperature**2 * (apart * weight).sum() / weight.sum().clamp(min=1e-9)
    return total


@dataclass(frozen=True, slots=True, eq=False)
class Teacher:
    """A trained encoder with its item vectors, fixed. `length`: the events of a history that it reads."""

    taste: Taste
    length: int
    recipe: DistilRecipe

    @classmethod
    def of(cls, taste: Taste, length: int, recipe: DistilRecipe, device: Any) -> Teacher:
        """Freezes `taste`."""
        return cls(taste.to(device).eval().requires_grad_(False), length, recipe)

    def logits(self, rows: Tensor, age_days: Tensor, kind: Tensor, mask: Tensor, among: Tensor) -> Tensor:
        """Scores of the candidates `among` (C,) after each history (B, L), as in `Taste.queries`; (B, C)."""
        with torch.no_grad():
            query = self.taste.queries(rows, age_days, kind, mask)
            return query @ self.taste.vectors[among].T + self.taste.bias[among]

    def logits_everywhere(self, rows: Tensor, asked: Tensor, among: Tensor) -> Tensor:
        """The same after every event that is `asked` (B, L), the history being the events up to it; (n_asked, C).

        Raises TrainingError where the encoder can only be asked at the end.
        """
        from edgerec_exporters.models import SequenceEncoder

        encoder, vectors = self.taste.encoder, self.taste.vectors
        if not isinstance(encoder, SequenceEncoder):
            raise TrainingError("the teacher's encoder cannot be asked after every event")
        with torch.no_grad():
            states = encoder.states(vectors[rows] * asked.unsqueeze(-1), asked)[asked]
            return states @ vectors[among].T + self.taste.bias[among]


def taste_of(trained: Trained, log_prior: NDArray[np.float32] | np.float32) -> Taste:
    """The taste part of a trained model, as it was trained: with `log_prior` (n_items,) back in its biases."""
    from edgerec_exporters.encoder_fit import Taste

    return Taste(copy.deepcopy(trained.encoder), trained.vectors, trained.bias + log_prior)


def compare(teacher: Trained, student: Trained) -> dict[str, dict[str, Any]]:
    """Size, speed and metric of both: {"teacher": {…}, "student": {…}} as `measured`."""
    return {"teacher": measured(teacher), "student": measured(student)}


def measured(trained: Trained) -> dict[str, Any]:
    """`bytes` of the exported encoder and the item vectors · `query_ms`: median time of onnxruntime on one thread for
    one full history · `ndcg@10` of taste alone on the validation period, by the model that had not seen it."""
    from edgerec_exporters.onnx_export import export_encoder

    dim, length = int(trained.vectors.shape[1]), trained.history_length
    onnx_bytes, inputs = export_encoder(trained.encoder, length, dim, len(trained.event_kinds))
    validation = trained.metrics.get("validation", {})
    return {
        "model": trained.model,
        "dim": dim,
        "parameters": sum(parameter.numel() for parameter in trained.encoder.parameters()),
        "bytes": {"encoder": len(onnx_bytes), "vectors": int(trained.vectors.nbytes)},
        "query_ms": round(_median_ms(onnx_bytes, inputs, trained), 4),
        "ndcg@10": dict(validation.get("sources", {}).get("taste", {})),
    }


def _median_ms(onnx_bytes: bytes, inputs: tuple[str, ...], trained: Trained) -> float:
    from edgerec.bundle.sessions import Encoder

    dim, length = int(trained.vectors.shape[1]), trained.history_length
    rows = np.random.default_rng(0).integers(0, len(trained.items), length).astype(np.int32)
    age, kind = np.zeros(length, np.float32), np.zeros(length, np.int64)
    spent = []
    with tempfile.TemporaryDirectory(prefix="edgerec-distil-") as folder:
        path = Path(folder) / "encoder.onnx"
        path.write_bytes(onnx_bytes)
        encoder = Encoder(path, inputs, length, dim)
        for _ in range(TIMED_QUERIES):
            started = time.perf_counter()
            encoder.encode(trained.vectors, rows, age, kind)
            spent.append(time.perf_counter() - started)
    return 1000 * float(np.median(spent))
