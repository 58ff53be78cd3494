"""The workshop of edgerec: data sets, honest metrics, simulation and reports. Nothing here runs on a device."""

__version__ = "0.1.0"
