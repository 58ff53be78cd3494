"""edgerec: recommendations inside your app, offline, learning on the device.

    import edgerec

    with edgerec.open("shop.edgerec", data_dir="state") as rec:
        page = rec.recommend(10)
        rec.record(page[0].item, "click", recommendation_id=page.id)

Models are trained centrally (`edgerec-exporters`) and shipped as bundles; `edgerec-tools` replays real users
through this runtime.
"""

from edgerec.bundle import Bundle, load_bundle
from edgerec.config import Config
from edgerec.errors import EdgeRecError
from edgerec.runtime import Recommender, open
from edgerec.types import Event, Explanation, Influence, Page, Receipt, Recommendation
from edgerec.version import __version__ as __version__

__all__ = [
    "Bundle",
    "Config",
    "EdgeRecError",
    "Event",
    "Explanation",
    "Influence",
    "Page",
    "Receipt",
    "Recommendation",
    "Recommender",
    "load_bundle",
    "open",
]
