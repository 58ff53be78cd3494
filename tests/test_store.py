"""The store: whole transactions, bounded waits, states that survive bytes, schemas it must not touch."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import numpy as np
import pytest
import sqlite_utils
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgerec.errors import EventConflict, StoreBusy, StoreDamaged, StoreTooNew
from edgerec.store import Database, EventRow, EventTable, MetaTable, StateTable, decode_state, encode_state, migrations
from edgerec.store.database import SCHEMA
from edgerec.store.events import same_payload
from edgerec.store.salvage import salvage


def row(event_id: str = "e1", at: int = 5, **changes: object) -> EventRow:
    values = {"item": "a", "kind": "click", "value": None, "group": None, "recommendation_id": None, "context": None}
    return EventRow(0, event_id, at=at, received=at, **{**values, **changes})  # type: ignore[arg-type]


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(tmp_path / "edgerec.db")


def test_a_new_store_is_migrated_and_erases_what_is_deleted(database: Database) -> None:
    with database.read() as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (SCHEMA,)
        assert connection.execute("PRAGMA secure_delete").fetchone() == (1,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert {"events", "exposures", "states", "bundles", "meta"} <= tables


def test_events_come_back_as_they_went_in(database: Database) -> None:
    rows = [row("b", 9, value=1.5, context='{"a":1}'), row("a", 3, group="g")]
    with database.write() as connection:
        EventTable.insert(connection, rows)
    with database.read() as connection:
        stored = EventTable.after(connection)
        assert [r.payload() for r in stored] == [r.payload() for r in rows]
        assert EventTable.after(connection, stored[0].seq) == stored[1:]
        assert EventTable.find(connection, ["a", "zzz"]) == {"a": stored[1]}
        assert EventTable.find(connection, ["zzz"]) == {}


def test_a_future_event_counts_from_its_arrival() -> None:
    future = EventRow(0, "e", "a", "click", None, 99_000_000, None, None, None, received=5_000_000)
    assert (future.seconds, future.effective_seconds) == (99.0, 5.0)


def test_a_failed_transaction_leaves_nothing(database: Database) -> None:
    def fail() -> None:
        with database.write() as connection:
            EventTable.insert(connection, [row()])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with database.read() as connection:
        assert EventTable.count(connection) == 0


def test_a_writer_waits_a_bounded_time_for_another_process(tmp_path: Path) -> None:
    first, second = Database(tmp_path / "edgerec.db"), Database(tmp_path / "edgerec.db", wait_s=0.05)
    with second.read():
        pass
    with first.write(), pytest.raises(StoreBusy), second.write():
        pass
    with second.write() as connection:
        MetaTable.set(connection, "k", "v")
    with first.read() as connection:
        assert MetaTable.get(connection, "k") == "v"


def test_a_writer_waits_a_bounded_time_for_another_thread(tmp_path: Path) -> None:
    database = Database(tmp_path / "edgerec.db", wait_s=0.05)
    caught: list[BaseException] = []

    def write() -> None:
        try:
            with database.write():
                pass
        except StoreBusy as error:
            caught.append(error)

    with database.write():
        thread = threading.Thread(target=write)
        thread.start()
        thread.join()
    assert len(caught) == 1


def test_a_newer_schema_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "edgerec.db"
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA + 1}")
        connection.execute("CREATE TABLE later (x)")
    connection.close()
    with pytest.raises(StoreTooNew) as caught, Database(path).read():
        pass
    assert caught.value.exit_code == 52
    assert "update" in str(caught.value)
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (SCHEMA + 1,)
    connection.close()


@pytest.mark.parametrize("number", [0, 2, SCHEMA - 1])
def test_a_number_that_is_too_low_is_put_right(tmp_path: Path, number: int) -> None:
    """Or every open would look for migrations, which takes as long as opening."""
    database = Database(tmp_path / "edgerec.db")
    with database.write() as connection:
        EventTable.insert(connection, [row()])
        connection.execute(f"PRAGMA user_version = {number}")
    database.close()
    with database.read() as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (SCHEMA,)
        assert [one.event_id for one in EventTable.after(connection)] == ["e1"]


ODD = [
    row("zero", value=-0.0),
    row("whole", value=3.0, at=2**62),
    row("tiny", value=5e-324, at=-(2**62)),
    row("huge", value=1e308, item="\U0010ffff" * 256),
    row("after a NUL\0é", item="\0", group="g\0", context='{"a":"\\u0000"}'),
]


@pytest.mark.parametrize("schema", [1, 2, 3])  # the fourth brought them
def test_odd_values_of_older_schemas_get_checksums_that_hold(tmp_path: Path, schema: int) -> None:
    older = sqlite_utils.Database(sqlite3.connect(tmp_path / "edgerec.db"))
    later = [migration.name for migration in migrations.store.pending(older)][schema:]
    migrations.store.apply(older, stop_before=later[0])
    names = [name for name in EventRow.__match_args__ if name in older["events"].columns_dict and name != "seq"]
    older["events"].insert_all([{name: getattr(one, name) for name in names} for one in ODD])
    older.conn.close()
    database = Database(tmp_path / "edgerec.db")
    with database.read() as connection:
        stored = EventTable.after(connection)
    assert [one.payload() for one in stored] == [one.payload() for one in ODD]
    database.close()
    assert salvage(tmp_path / "edgerec.db", tmp_path / "none").rows == stored


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "edgerec.db"
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(StoreDamaged), Database(path).read():
        pass
    assert path.read_bytes().startswith(b"not a database")


def test_states_are_kept_per_plugin_name_and_bundle_version(database: Database) -> None:
    state = {"u": np.arange(3, dtype=np.float32)}
    with database.write() as connection:
        StateTable.save(connection, "sgd", "state", 1, 7, state)
        StateTable.save(connection, "sgd", "state", 2, 7, {"u": state["u"] * 2})
        StateTable.save(connection, "sgd", "state", 1, 8, state)
    with database.read() as connection:
        found = StateTable.load(connection, 7)
    assert set(found) == {("sgd", "state")}
    assert found["sgd", "state"][0] == 2
    np.testing.assert_array_equal(StateTable.decode(found["sgd", "state"])["u"], [0, 2, 4])


def test_the_same_event_twice_is_no_conflict_but_another_payload_is() -> None:
    assert same_payload(row(), row(), at_given=True)
    assert same_payload(row(at=1), row(at=2), at_given=False)
    with pytest.raises(EventConflict):
        same_payload(row(at=1), row(at=2), at_given=True)
    with pytest.raises(EventConflict):
        same_payload(row(item="a"), row(item="b"), at_given=False)


STORABLE = [np.float32, np.float64, np.int32, np.int64, np.uint8, np.bool_]
ARRAYS = st.sampled_from(STORABLE).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
)


@given(st.dictionaries(st.text(max_size=8), ARRAYS, max_size=4))
def test_a_state_survives_bytes(state: dict[str, np.ndarray]) -> None:
    back = decode_state(encode_state(state))
    assert list(back) == list(state)
    for name, array in state.items():
        assert back[name].dtype == array.dtype
        np.testing.assert_array_equal(back[name], array)
        assert not back[name].flags.writeable


@given(st.data())
def test_a_changed_byte_is_noticed(data: st.DataObject) -> None:
    blob = bytearray(encode_state({"u": np.arange(4, dtype=np.float32), "n": np.array(3)}))
    place = data.draw(st.integers(0, len(blob) - 1))
    blob[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(StoreDamaged):
        decode_state(bytes(blob))


@given(st.integers(0, 60))
def test_a_truncated_state_is_noticed(length: int) -> None:
    blob = encode_state({"u": np.arange(9, dtype=np.float32)})
    with pytest.raises(StoreDamaged):
        decode_state(blob[: min(length, len(blob) - 1)])


def test_a_state_of_other_dtypes_is_refused() -> None:
    with pytest.raises(ValueError, match="u"):
        encode_state({"u": np.array(["text"])})
