"""Central training in PyTorch, and the export of what was trained as a bundle for devices."""

__version__ = "0.1.0"
