"""The user's SQLite file: events, learned states, exposures, installed bundles."""

from edgerec.store.blob import decode_state, encode_state
from edgerec.store.database import Database
from edgerec.store.events import EventRow, EventTable
from edgerec.store.outbox import CountedEvents, OutboxRow, OutboxTable
from edgerec.store.overlay import OverlayItem, OverlayTable
from edgerec.store.tables import BundleRow, BundleTable, ExposureTable, MetaTable, StateTable, TombstoneTable

__all__ = [
    "BundleRow",
    "BundleTable",
    "CountedEvents",
    "Database",
    "EventRow",
    "EventTable",
    "ExposureTable",
    "MetaTable",
    "OutboxRow",
    "OutboxTable",
    "OverlayItem",
    "OverlayTable",
    "StateTable",
    "TombstoneTable",
    "decode_state",
    "encode_state",
]
