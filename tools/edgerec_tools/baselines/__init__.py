"""Baselines that a model must beat: small, deterministic, each in one file, all behind one interface (`base`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgerec.errors import RequestError
from edgerec_tools.baselines.base import Baseline, Evidence, Learned
from edgerec_tools.baselines.ease import Ease, EaseRecency
from edgerec_tools.baselines.ials import IAls
from edgerec_tools.baselines.itemknn import ItemKNN
from edgerec_tools.baselines.markov import Markov
from edgerec_tools.baselines.pasts import Pasts
from edgerec_tools.baselines.popular import Popular

__all__ = ["BASELINES", "Baseline", "Evidence", "Learned", "Pasts", "choose"]

BASELINES: Mapping[str, Baseline] = {
    one.name: one for one in (Popular(), ItemKNN(), Ease(), EaseRecency(), Markov(), IAls())
}


def choose(names: Sequence[str]) -> list[Baseline]:
    """The baselines of those names, each once. Raises RequestError for an unknown one."""
    unknown = [name for name in names if name not in BASELINES]
    if unknown:
        raise RequestError(f"there is no baseline {unknown[0]!r}", hint=f"baselines: {', '.join(BASELINES)}, or none")
    return [BASELINES[name] for name in dict.fromkeys(names)]
