"""Every error edgerec raises on purpose: one root, a hint for the reader, an exit code for scripts.

EdgeRecError                    1
├── BundleError                20
│   ├── BundleNotFound         21   no such file or folder
│   ├── BundleInvalid          22   damaged, hostile or inconsistent
│   ├── BundleUnsupported      23   a newer format, or it asks for a newer runtime
│   ├── BundleRefused          24   sound, but worse than what runs, or rolled back before
│   ├── GoldenMismatch         25   this host computes something else than the exporter did
│   └── ChannelError           26   a channel that cannot be reached, or not trusted
├── EventError                 30
│   ├── UnknownEventKind       31
│   ├── InvalidEvent           32   NaN, naive datetime, oversized context …
│   └── EventConflict          33   one event_id, two payloads
├── RequestError               40   n <= 0, bad filter value …
│   ├── UnknownScenario        41
│   ├── UnknownAttribute       42
│   └── UnknownItem            43
├── StoreError                 50
│   ├── StoreBusy              51   another writer held the store too long
│   ├── StoreTooNew            52   written by a newer edgerec
│   ├── StoreDamaged           53
│   ├── ForgetPending          54   forgotten, but another process keeps the old bytes alive
│   └── ProfileInvalid         55   a profile file that cannot be imported
├── ConfigError                60
├── PluginError                70
│   ├── PluginNotFound         71
│   ├── PluginTimeout          70   a call outlasted its budget (in edgerec.isolation)
│   ├── DeltaError             70   a delta that may not be sent or aggregated, too few for a round (in edgerec.deltas)
│   │   └── RoundRefused       70   a gateway's round that cannot be as asked (in edgerec_exporters.gateway.errors)
│   │       ├── UnknownRound   70
│   │       └── TooFewDevices  70   fewer than the minimum cohort; the round stays open
│   └── TransportError         70   a delta that did not get through (in edgerec.deltas)
│       └── DeltaRefused       70   … or was refused for good
├── BudgetSpent                70   a round beyond somebody's privacy budget (in edgerec_exporters.federation.journal)
├── JournalError               50   rounds' journal cannot be used, or says otherwise (in the same)
├── DataError                  80   a data set that cannot be read, fetched or verified
├── TrainingError              84
├── ExportError                85   the bundle would not equal the trained model
├── SimulationError            86   a worker process died (in edgerec_tools.simulate)
└── MissingDistribution        90   the command lives in a package that is not installed
"""

from __future__ import annotations


class EdgeRecError(Exception):
    """Root of all errors of edgerec. `hint` says what to do about it, `exit_code` is the CLI's."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint

    def __str__(self) -> str:
        message = str(self.args[0]) if self.args else type(self).__name__
        return f"{message} ({self.hint})" if self.hint else message


class BundleError(EdgeRecError):
    """Something about a bundle."""

    exit_code = 20


class BundleNotFound(BundleError):
    """There is no bundle at that place."""

    exit_code = 21


class BundleInvalid(BundleError):
    """The bundle is damaged, hostile or contradicts itself; it was not loaded."""

    exit_code = 22


class BundleUnsupported(BundleError):
    """The bundle asks for a newer format or runtime than this one."""

    exit_code = 23


class BundleRefused(BundleError):
    """The bundle is sound but was not taken: worse for this user, or rolled back before."""

    exit_code = 24


class GoldenMismatch(BundleError):
    """This host computes something else from the golden inputs than the exporter did."""

    exit_code = 25


class ChannelError(BundleError):
    """A channel cannot be reached, trusted or published to; what runs, and what is trusted, stays as it was."""

    exit_code = 26


class EventError(EdgeRecError):
    """An event that cannot be recorded. Nothing was stored."""

    exit_code = 30


class UnknownEventKind(EventError):
    """The bundle declares no event kind of that name."""

    exit_code = 31


class InvalidEvent(EventError):
    """A field of the event has a value that cannot be stored."""

    exit_code = 32


class EventConflict(EventError):
    """The event_id was used before with another payload."""

    exit_code = 33


class RequestError(EdgeRecError):
    """A request for recommendations that cannot be answered as asked."""

    exit_code = 40


class UnknownScenario(RequestError):
    """The bundle declares no scenario of that name."""

    exit_code = 41


class UnknownAttribute(RequestError):
    """A filter names an attribute that no item of the catalogue has."""

    exit_code = 42


class UnknownItem(RequestError):
    """The catalogue has no such item."""

    exit_code = 43


class StoreError(EdgeRecError):
    """Something about the SQLite store."""

    exit_code = 50


class StoreBusy(StoreError):
    """Another writer held the store for longer than `store.wait_s`."""

    exit_code = 51


class StoreTooNew(StoreError):
    """The store was written by a newer edgerec."""

    exit_code = 52


class StoreDamaged(StoreError):
    """SQLite or a checksum says that the store is damaged."""

    exit_code = 53


class ForgetPending(StoreError):
    """All is out of the store, but bytes of it remain in its file or log until the next open."""

    exit_code = 54


class ProfileInvalid(StoreError):
    """A profile file is damaged, cut short, of a newer format or locked by another passphrase; nothing was imported."""

    exit_code = 55


class ConfigError(EdgeRecError):
    """A setting has an unknown name or an impossible value."""

    exit_code = 60


class PluginError(EdgeRecError):
    """A plugin could not be loaded or used."""

    exit_code = 70


class PluginNotFound(PluginError):
    """No loaded plugin registers an implementation of that name."""

    exit_code = 71


class DataError(EdgeRecError):
    """A data set cannot be read, fetched or verified."""

    exit_code = 80


class TrainingError(EdgeRecError):
    """Training cannot start or did not converge to finite numbers."""

    exit_code = 84


class ExportError(EdgeRecError):
    """The exported bundle does not equal the trained model; nothing was written."""

    exit_code = 85


class MissingDistribution(EdgeRecError):
    """The command lives in a distribution that is not installed."""

    exit_code = 90
