from edgerec_exporters.flower.client_app import app

__all__ = ["app"]
