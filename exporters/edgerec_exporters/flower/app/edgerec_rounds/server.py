from edgerec_exporters.flower.server_app import app

__all__ = ["app"]
