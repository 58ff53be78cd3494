"""Every operation that is killed, by name."""

from __future__ import annotations

from collections.abc import Mapping

from edgerec.store.database import SCHEMA
from faults.operations import (
    Checkpoint,
    Close,
    FirstOpen,
    Install,
    InstallFolder,
    Learn,
    Migrate,
    Operation,
    Pause,
    RecordOne,
    RecordPage,
    Reopen,
    Resume,
    Rollback,
    TellItems,
    Upgrade,
)
from faults.profiles import Export, ForgetAll, ForgetItem, Import, Repair, Retain
from faults.syncs import Sync

OPERATIONS: Mapping[str, Operation] = {
    each.name: each
    for each in (
        RecordOne(),
        RecordPage(),
        Learn(),
        Checkpoint(),
        FirstOpen(),
        Reopen(),
        *[Migrate(schema) for schema in range(1, SCHEMA)],
        Install(),
        InstallFolder(),
        Upgrade(),
        Rollback(),
        TellItems(),
        Pause(),
        Resume(),
        Close(),
        ForgetAll(),
        ForgetItem(),
        Export(),
        Import(),
        Retain(),
        Sync(),
        Repair("the header"),
        Repair("an index"),
    )
}
