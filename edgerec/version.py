"""The runtime's version, which a bundle's `min_runtime` is compared with."""

__version__ = "0.1.0"
