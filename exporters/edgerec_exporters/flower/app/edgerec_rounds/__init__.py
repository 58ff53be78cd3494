"""The Flower app of edgerec's rounds; all of it lives in the package edgerec_exporters.flower."""
