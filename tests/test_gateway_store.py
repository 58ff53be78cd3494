"""The gateway's store: each delta is counted once, whoever crashes; fewer than the minimum cohort never leave it."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from gateways import BLOCKS, SPECS, WIDTH, federated_manifest, id_of, key_of, payload_of, row_of
from postgres import PostgreSQL
from sqlalchemy import text
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable

from edgerec.errors import BundleInvalid, ConfigError, MissingDistribution, StoreBusy, StoreError, StoreTooNew
from edgerec.federation.shares import signed, split
from edgerec_exporters.gateway import inbox, schema, tokens
from edgerec_exporters.gateway.errors import RoundRefused, TooFewDevices, UnknownRound
from edgerec_exporters.gateway.inbox import Arrival, Enrolment, Outcome
from edgerec_exporters.gateway.policy import Policy
from edgerec_exporters.gateway.store import GatewayStore

NOW = 1_700_000_000
DAY = 86_400.0
OPEN = Policy(minimum_cohort=3)
SPLIT = Policy(mode="split", minimum_cohort=3)


class Clock:
    now = float(NOW)

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


Maker = Callable[..., GatewayStore]
Placer = Callable[[str], "Path | str"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], PostgreSQL]]:
    """Starts PostgreSQL, once; the test that asks is skipped where there is none."""
    started: list[PostgreSQL] = []

    def one() -> PostgreSQL:
        if not started:
            started.append(PostgreSQL())
        return started[0]

    yield one
    for running in started:
        running.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path, server: Callable[[], PostgreSQL]) -> Placer:
    """Where the store of a name is: the same place whenever this test asks."""
    if request.param == "sqlite":
        return lambda name: tmp_path / name
    prefix = f"t{sha256(str(tmp_path).encode()).hexdigest()[:12]}"
    return lambda name: server().database(f"{prefix}_{Path(name).stem}")


@pytest.fixture
def make(tmp_path: Path, clock: Clock, place: Placer) -> Iterator[Maker]:
    made: list[GatewayStore] = []

    def one(policy: Policy = OPEN, name: str = "gateway.db", versions: tuple[int, ...] = (1,)) -> GatewayStore:
        store = GatewayStore(place(name), clock=clock)
        made.append(store)
        store.configure(policy)
        store.open_bundles([federated_manifest(tmp_path, version) for version in versions])
        return store

    yield one
    for store in made:
        store.close()


def raw(number: int) -> bytes:
    return key_of(number).public_key().public_bytes_raw()


def enrol(store: GatewayStore, number: int, token: str | None = None, *, required: bool = False) -> Enrolment:
    with store.writing() as connection:
        return inbox.enrol(connection, raw(number), token, required=required, now=int(store.clock()))


def arrive(
    store: GatewayStore,
    number: int,
    device: int | None = None,
    *,
    payload: bytes | None = None,
    nonce: int | None = None,
    version: int = 1,
) -> Outcome:
    """Delta `number` of its own device, or of another's, kept as the server would."""
    body = payload_of(number, version) if payload is None else payload
    device = number if device is None else device
    enrol(store, device)
    arrival = Arrival(
        key=raw(device),
        nonce=sha256(os.urandom(8) if nonce is None else bytes((nonce,))).digest()[:16],
        nonce_expires=int(store.clock()) + 300,
        id=id_of(number),
        bundle_version=version,
        kind=body[5],
        digest=sha256(body).digest(),
        payload=body,
        arrived=int(store.clock()),
    )
    with store.writing() as connection:
        return inbox.accept(connection, arrival, store.policy.most_per_round)


def filled(store: GatewayStore, numbers: range, share: int | None = None) -> GatewayStore:
    for number in numbers:
        payload = payload_of(number)
        if share is not None:
            payload = split(payload, sha256(b"seed %d" % number).digest())[share]
        assert arrive(store, number, payload=payload) is Outcome.STORED
    return store


SQLITE = pytest.mark.parametrize("place", ["sqlite"], indirect=True)
"""For what is asked of SQLite, or of files, alone."""


# What comes in


def test_a_delta_is_kept_once_under_its_id(make: Maker) -> None:
    store = make()
    assert arrive(store, 1) is Outcome.STORED
    assert arrive(store, 1) is Outcome.SAME
    assert arrive(store, 1, payload=payload_of(2)) is Outcome.CONFLICT
    assert arrive(store, 1, device=2) is Outcome.CONFLICT, "another key must not learn that it guessed the bytes"
    assert store.status()["waiting"] == 1


def test_a_nonce_is_used_up_whatever_becomes_of_the_delta(make: Maker) -> None:
    store = make()
    assert arrive(store, 1, nonce=7) is Outcome.STORED
    assert arrive(store, 1, nonce=7) is Outcome.REPLAYED
    assert arrive(store, 2, device=1, nonce=8) is Outcome.FULL
    assert arrive(store, 2, device=1, nonce=8) is Outcome.REPLAYED
    assert arrive(store, 3, device=3, nonce=7) is Outcome.STORED, "another key has nonces of its own"


def test_a_key_has_so_many_deltas_in_a_round_and_then_as_many_in_the_next(make: Maker) -> None:
    store = make(Policy(minimum_cohort=1, most_per_round=2))
    found = [arrive(store, number, device=1) for number in (1, 2, 3)]
    assert found == [Outcome.STORED, Outcome.STORED, Outcome.FULL]
    store.take(1, 1)
    assert arrive(store, 3, device=1) is Outcome.STORED


def test_a_blocked_key_is_refused_and_what_waited_of_it_is_out(make: Maker) -> None:
    store = filled(make(), range(4))
    assert store.block(id_of(2))
    assert not store.block(id_of(99))
    assert arrive(store, 9, device=2) is Outcome.BLOCKED
    assert enrol(store, 2) is Enrolment.BLOCKED
    assert id_of(2) not in store.take(1, 1)[0]


def test_enrolment_tokens_are_used_up_and_expire(make: Maker, clock: Clock) -> None:
    store = make()
    token, brief = store.new_token(uses=2), store.new_token(uses=5, days=1)
    assert enrol(store, 1, required=True) is Enrolment.REFUSED
    assert enrol(store, 1, "edgerec-enrol-guessed", required=True) is Enrolment.REFUSED
    assert enrol(store, 1, token, required=True) is Enrolment.ENROLLED
    assert enrol(store, 1, token, required=True) is Enrolment.KNOWN, "a key that is known uses nothing up"
    assert enrol(store, 2, token, required=True) is Enrolment.ENROLLED
    assert enrol(store, 3, token, required=True) is Enrolment.REFUSED
    clock.now += 2 * DAY
    assert enrol(store, 3, brief, required=True) is Enrolment.REFUSED
    assert enrol(store, 3, store.new_token("operator"), required=True) is Enrolment.REFUSED


@SQLITE
def test_only_digests_of_tokens_are_kept(make: Maker, tmp_path: Path) -> None:
    store = make()
    made = [store.new_token(), store.new_token("operator")]
    with store.reading() as connection:
        assert tokens.is_operator(connection, made[1], NOW)
        assert not tokens.is_operator(connection, made[0], NOW)
    store.close()
    kept = b"".join(path.read_bytes() for path in tmp_path.glob("gateway.db*"))
    assert not any(token.removeprefix("edgerec-").encode() in kept for token in made)
    with pytest.raises(ConfigError):
        store.new_token("root")


# Rounds


def test_a_round_gives_the_deltas_as_rows_and_the_next_one_none_of_them(make: Maker) -> None:
    store = filled(make(), range(5))
    ids, rows = store.take(1, 1)
    assert ids == tuple(map(id_of, range(5)))
    assert rows.dtype == np.float32
    assert np.array_equal(rows, np.stack([row_of(number) for number in range(5)]))
    with pytest.raises(TooFewDevices):
        store.take(2, 1)
    filled(store, range(5, 8))
    assert store.take(2, 1)[0] == tuple(map(id_of, range(5, 8)))


def test_a_round_that_is_asked_for_again_gives_the_same_and_not_what_came_later(make: Maker) -> None:
    store = filled(make(), range(4))
    ids, rows = store.take(1, 1)
    filled(store, range(10, 14))
    again, same = store.take(1, 1)
    assert again == ids
    assert np.array_equal(rows, same)


def test_what_waits_can_be_looked_at_without_being_claimed(make: Maker) -> None:
    store = filled(make(), range(6))
    ids, _ = store.validated(1)
    assert ids == store.validated(1)[0] == tuple(map(id_of, range(6)))
    later, rows = store.validated(1, after=id_of(2))
    assert later == tuple(map(id_of, (3, 4, 5)))
    assert np.array_equal(rows[0], row_of(3))
    with pytest.raises(TooFewDevices):
        store.validated(1, after=id_of(3))
    with pytest.raises(RoundRefused, match="not known"):
        store.validated(1, after=id_of(77))


def test_a_round_over_named_deltas_leaves_the_others_waiting(make: Maker) -> None:
    store = filled(make(), range(7))
    store.open_round(1, 1)
    chosen = [id_of(number) for number in (5, 1, 3)]
    assert set(store.close_round(1, chosen)) == set(chosen)
    assert store.rows_of(1)[0] == tuple(map(id_of, (1, 3, 5))), "in the order of their arrival"
    store.open_round(2, 1)
    assert store.ids_of(2) == tuple(map(id_of, (0, 2, 4, 6)))
    for wrong in ([*chosen, id_of(0)], [id_of(99), id_of(0), id_of(2)], [id_of(0), id_of(2), id_of(0)]):
        with pytest.raises(RoundRefused):
            store.close_round(2, wrong)
    assert len(store.close_round(2)) == 4, "a refused round claimed nothing"
    with pytest.raises(RoundRefused, match="closed with other"):
        store.close_round(1, chosen[:2])


def test_the_minimum_cohort_counts_devices_not_deltas(make: Maker) -> None:
    store = make(Policy(minimum_cohort=3, most_per_round=10))
    for number in range(8):
        arrive(store, number, device=number % 2)
    with pytest.raises(TooFewDevices, match="2 devices"):
        store.take(1, 1)
    with pytest.raises(TooFewDevices):
        store.validated(1)
    arrive(store, 9)
    with pytest.raises(TooFewDevices):
        store.take(1, 1, minimum=4)
    assert len(store.take(1, 1)[0]) == 9


def test_rounds_are_opened_on_one_version_that_was_here(make: Maker) -> None:
    store = make(versions=(1, 2))
    assert store.open_round(1, 1) == store.open_round(1, 1) == store.round(1)
    for number, version, said in ((1, 2, "version 1"), (2, 3, "never had"), (0, 1, "number")):
        with pytest.raises(RoundRefused, match=said):
            store.open_round(number, version)
    with pytest.raises(UnknownRound):
        store.close_round(5)
    with pytest.raises(RoundRefused, match="still open"):
        store.rows_of(1)


def test_rounds_at_the_same_time_share_no_delta(make: Maker) -> None:
    """Two stores on one file, as the server and an operator's process have, each closing rounds over all that waits."""
    store, other = filled(make(), range(30)), make()
    taken: list[tuple[str, ...]] = []

    def close(mine: GatewayStore, first: int) -> None:
        for number in range(first, first + 5):
            waiting = mine.validated(1)[0][:3]
            mine.open_round(number, 1)
            try:
                taken.append(mine.close_round(number, waiting))
            except RoundRefused:
                continue

    threads = [threading.Thread(target=close, args=(one, at)) for one, at in ((store, 1), (other, 101))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    flat = [one for ids in taken for one in ids]
    assert len(flat) == len(set(flat)) == store.status()["counted"] >= 15


KILLED = """
import os, signal, sys
from edgerec_exporters.gateway.store import GatewayStore
store = GatewayStore(sys.argv[1], clock=lambda: 1.7e9)
store.open_round(1, 1)
if sys.argv[2] == "after":
    store.close_round(1)
    os.kill(os.getpid(), signal.SIGKILL)
with store.writing() as connection:
    from edgerec_exporters.gateway import rounds
    rounds.closed(connection, 1, None, 3, 1700000000)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("when", ["within", "after"])
def test_a_crash_around_the_claim_counts_nothing_twice(make: Maker, place: Placer, when: str) -> None:
    store = filled(make(), range(4))
    done = subprocess.run([sys.executable, "-c", KILLED, str(place("gateway.db")), when], check=False)
    assert done.returncode == -signal.SIGKILL
    filled(store, range(4, 6))
    ids, rows = store.take(1, 1)
    assert len(ids) == len(rows) == (6 if when == "within" else 4)
    assert store.status()["counted"] == len(ids)


# Shares


def test_two_gateways_sums_of_shares_are_the_sum_of_the_deltas(make: Maker) -> None:
    left = filled(make(SPLIT, "left.db"), range(5), share=0)
    right = filled(make(SPLIT, "right.db"), range(1, 6), share=1)
    for store in (left, right):
        store.open_round(1, 1)
    both = sorted(set(left.ids_of(1)) & set(right.ids_of(1)))
    assert len(both) == 4
    total = signed(left.sum_of(both, 1) + right.sum_of(both, 1))
    units = np.concatenate([np.full(spec.size, spec.unit) for spec in SPECS])
    assert np.allclose(total * units, sum(row_of(number) for number in range(1, 5)), atol=1e-9)
    assert left.ids_of(1) == tuple(map(id_of, range(1, 5)))


def test_a_share_says_nothing_by_itself_and_no_rows_leave(make: Maker) -> None:
    store = filled(make(SPLIT), range(4), share=0)
    store.open_round(1, 1)
    store.close_round(1)
    for leak in (lambda: store.rows_of(1), lambda: store.validated(1)):
        with pytest.raises(RoundRefused, match="only sums"):
            leak()
    with pytest.raises(RoundRefused, match="not shares"):
        make(OPEN).sum_of([id_of(0)], 1)


def test_no_two_sums_can_be_subtracted(make: Maker) -> None:
    store = filled(make(SPLIT), range(8), share=0)
    for number in (1, 2):
        store.open_round(number, 1)
    ids = list(map(id_of, range(4)))
    first = store.sum_of(ids, 1)
    assert np.array_equal(store.sum_of(ids[::-1], 1), first)
    for number, asked in ((1, ids[:3]), (2, ids), (2, [id_of(9), *ids[:3]]), (2, [*ids[:1], id_of(5), id_of(6)])):
        with pytest.raises(RoundRefused):
            store.sum_of(asked, number)
    with pytest.raises(TooFewDevices):
        store.sum_of([id_of(5), id_of(6)], 2)
    assert store.status()["waiting"] == 4


def test_a_sum_carries_its_own_noise_and_always_the_same(make: Maker) -> None:
    pytest.importorskip("opendp")
    noisy = filled(make(Policy("split", 3, 1, noise_multiplier=1.0), "noisy.db"), range(4), share=0)
    plain = filled(make(SPLIT, "plain.db"), range(4), share=0)
    for store in (noisy, plain):
        store.open_round(1, 1)
    ids = list(map(id_of, range(4)))
    first = noisy.sum_of(ids, 1)
    assert np.array_equal(first, noisy.sum_of(ids, 1)), "answers that differ could be averaged"
    noise = signed(first - plain.sum_of(ids, 1)).astype(float)
    for block, start in zip(SPECS, (0, 60), strict=True):
        drawn = noise[start : start + block.size] / (block.bound / block.unit)
        assert 0.6 < drawn.std() < 1.5
    assert len(noise) == WIDTH


def test_noise_belongs_to_split_mode() -> None:
    with pytest.raises(ConfigError):
        Policy(noise_multiplier=1.0)
    with pytest.raises(ConfigError):
        Policy(mode="closed")


# The store itself


def test_what_is_counted_is_deleted_after_a_while_and_still_not_counted_again(make: Maker, clock: Clock) -> None:
    store = filled(make(), range(4))
    store.take(1, 1)
    filled(store, range(4, 6))
    assert store.prune() == {"nonces": 0, "payloads": 0, "dropped": 0, "ids": 0}
    clock.now += 8 * DAY
    assert store.prune() == {"nonces": 6, "payloads": 4, "dropped": 0, "ids": 0}
    with pytest.raises(RoundRefused, match="pruned"):
        store.rows_of(1)
    assert arrive(store, 1) is Outcome.SAME
    clock.now += 30 * DAY
    assert store.prune()["dropped"] == 2
    assert arrive(store, 4) is Outcome.SAME, "what was dropped is not taken again"
    assert store.status()["waiting"] == 0


def test_ids_of_a_closed_version_are_known_for_a_long_time(make: Maker, tmp_path: Path, clock: Clock) -> None:
    store = filled(make(), range(4))
    store.open_bundles([federated_manifest(tmp_path, 2)])
    assert list(store.bundles()) == [2]
    assert list(store.bundles(only_open=False)) == [1, 2]
    assert store.prune()["dropped"] == 0, "a last round on it may still come"
    assert len(store.take(1, 1)[0]) == 4
    clock.now += 399 * DAY
    assert (store.prune()["payloads"], store.prune()["ids"]) == (4, 0)
    assert arrive(store, 1) is Outcome.SAME
    clock.now += 2 * DAY
    assert store.prune()["ids"] == 4


def test_what_waits_of_an_old_version_keeps_nothing_of_a_new_one_out(make: Maker) -> None:
    store = make(versions=(1, 2))
    assert arrive(store, 1) is Outcome.STORED
    assert arrive(store, 2, device=1) is Outcome.FULL
    assert arrive(store, 3, device=1, version=2) is Outcome.STORED


def test_a_version_keeps_its_blocks(make: Maker, tmp_path: Path) -> None:
    store = make()
    other = [{**BLOCKS[0], "bound": 2.0}, BLOCKS[1]]
    (tmp_path / "other").mkdir()
    with pytest.raises(BundleInvalid, match="other blocks"):
        store.open_bundles([federated_manifest(tmp_path / "other", 1, blocks=other)])
    with pytest.raises(BundleInvalid, match="no federated blocks"):
        store.open_bundles([federated_manifest(tmp_path / "other", 3, blocks=[])])
    assert store.bundles()[1].specs == SPECS


def test_the_policy_is_the_stores_whoever_opens_it(make: Maker, place: Placer) -> None:
    make(Policy(minimum_cohort=7))
    with GatewayStore(place("gateway.db")) as store:
        assert store.policy == Policy(minimum_cohort=7)
        with pytest.raises(TooFewDevices, match="7"):
            store.take(1, 1)


@SQLITE
def test_a_commit_survives_power_loss_and_the_file_is_private(make: Maker, tmp_path: Path) -> None:
    store = make()
    with store.reading() as connection:
        found = {
            name: connection.execute(text(f"PRAGMA {name}")).scalar()
            for name in ("journal_mode", "synchronous", "secure_delete", "foreign_keys")
        }
    assert found == {"journal_mode": "wal", "synchronous": 2, "secure_delete": 1, "foreign_keys": 1}
    for path in tmp_path.glob("gateway.db*"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path.name


@SQLITE
def test_another_writer_is_waited_for_and_no_longer(make: Maker, tmp_path: Path) -> None:
    store = make()
    with GatewayStore(tmp_path / "gateway.db", wait_s=0.05) as other, store.writing():
        assert other.status()["waiting"] == 0, "reading waits for nobody"
        with pytest.raises(StoreBusy):
            other.new_token()


@SQLITE
def test_stores_that_cannot_be_used(make: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make()
    with store.writing() as connection:
        connection.execute(text("UPDATE meta SET value = '2' WHERE name = 'schema'"))
    with pytest.raises(StoreTooNew):
        GatewayStore(tmp_path / "gateway.db")
    (tmp_path / "text.db").write_text("no database at all" * 99)
    for place in (tmp_path / "text.db", tmp_path / "nowhere" / "gateway.db"):
        with pytest.raises(StoreError):
            GatewayStore(place)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingDistribution, match="psycopg"):
        GatewayStore("postgresql://localhost/edgerec")
    for url in ("nosuch://user:secret@localhost/db", "://"):
        with pytest.raises(ConfigError) as refused:
            GatewayStore(url)
        assert "secret" not in str(refused.value)


def test_the_tables_can_be_made_on_postgresql() -> None:
    dialect = postgresql.dialect()
    for table in schema.metadata.sorted_tables:
        made = str(CreateTable(table).compile(dialect=dialect))
        assert "CREATE TABLE" in made
        for index in table.indexes:
            assert str(CreateIndex(index).compile(dialect=dialect))
    assert "BIGSERIAL" in str(CreateTable(schema.deltas).compile(dialect=dialect))
