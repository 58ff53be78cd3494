"""Bundles: verify, unpack, map. `load_bundle` is the door; docs/bundle.md writes the format down."""

from __future__ import annotations

from edgerec.bundle.catalogue import Catalogue, Column, Flags, Labels, Numbers, Tags
from edgerec.bundle.manifest import FileEntry, Manifest
from edgerec.bundle.opened import Bundle, Neighbours
from edgerec.bundle.reader import load_bundle, verify
from edgerec.bundle.sessions import Encoder, Retriever

__all__ = [
    "Bundle",
    "Catalogue",
    "Column",
    "Encoder",
    "FileEntry",
    "Flags",
    "Labels",
    "Manifest",
    "Neighbours",
    "Numbers",
    "Retriever",
    "Tags",
    "load_bundle",
    "verify",
]
