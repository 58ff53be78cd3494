"""Rounds on Flower: the same result as without, whoever drops out or says nonsense, and nothing told to outsiders."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from flower_rig import fill, rig
from gateways import SPECS, WIDTH, Device, federated_bundle, federated_manifest, id_of, payload_of, row_of, serving

from edgerec.deltas import DeltaError
from edgerec.errors import ConfigError, MissingDistribution, StoreError
from edgerec.federation.shares import split
from edgerec_exporters.federation import results, rounds
from edgerec_exporters.federation.engine import aggregate
from edgerec_exporters.federation.journal import BudgetSpent, Journal
from edgerec_exporters.federation.rounds import Desk, run_round
from edgerec_exporters.federation.settings import PrivacySettings, RoundSettings
from edgerec_exporters.federation.sources import Folder, Waiting
from edgerec_exporters.flower import QUIET, asks
from edgerec_exporters.flower.asks import Ask, Part, Rows
from edgerec_exporters.flower.book import Book
from edgerec_exporters.flower.commands import APP, flower, flower_app, quiet_command
from edgerec_exporters.flower.holdings import Holdings, opened
from edgerec_exporters.flower.plans import load_plans
from edgerec_exporters.gateway.policy import Policy
from edgerec_exporters.gateway.settings import Settings
from edgerec_exporters.gateway.store import GatewayStore

needs_flower = pytest.mark.skipif(
    find_spec("flwr") is None, reason="needs Flower (pip install 'edgerec-exporters[flower]')"
)
pytestmark = pytest.mark.filterwarnings("ignore:'click.utils:DeprecationWarning")  # its typer is older than our click
LEFT, RIGHT = 1, 2
SETTINGS = RoundSettings("trimmed_mean", {"share": 0.2}, least_cohort=8)
RULES = [
    SETTINGS,
    RoundSettings("mean", least_cohort=8),
    RoundSettings("krum", {"hostile": 2}, least_cohort=8),
    RoundSettings("median", least_cohort=8, server="fedadam"),
]
NOW = 1_700_000_000.0


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return federated_bundle(tmp_path_factory.mktemp("flower") / "b.edgerec")


Shelf = Callable[..., Book]


@pytest.fixture
def shelf(bundle: Path, tmp_path: Path) -> Shelf:
    """Books on one folder."""
    return lambda settings=SETTINGS, **more: Book(bundle, tmp_path / "state", settings, clock=lambda: NOW, **more)


def holdings_of(folder: Path, numbers: Iterable[int]) -> Holdings:
    return Holdings(Folder(fill(folder, numbers)))


def one_round(book: Book, gateways: dict[int, Holdings], gone: Sequence[int] = ()) -> Any:
    """A round without Flower between; `gone` gateways offer, and do not answer."""
    number, ask = book.begin()
    asked = book.plan(number, ask, {node: one.waiting(ask) for node, one in gateways.items()})
    if book.split:
        return book.finish_split(number, asked, {node: gateways[node].total(one) for node, one in asked.items()})
    return book.finish(number, {node: gateways[node].rows(one) for node, one in asked.items() if node not in gone})


def local(settings: RoundSettings, numbers: Iterable[int]) -> Any:
    return aggregate(settings, SPECS, np.stack([row_of(number) for number in numbers]))


def same(one: Any, other: Any) -> bool:
    return all(np.array_equal(one.blocks[name], other.blocks[name]) for name in other.blocks)


# Without Flower: who is asked for what


@pytest.mark.parametrize("settings", RULES, ids=lambda one: one.aggregator)
def test_two_gateways_give_what_one_folder_of_all_deltas_gives(
    shelf: Shelf, bundle: Path, tmp_path: Path, settings: RoundSettings
) -> None:
    gateways = {LEFT: holdings_of(tmp_path / "l", range(9)), RIGHT: holdings_of(tmp_path / "r", range(7, 20))}
    done = one_round(shelf(settings), gateways)
    desk = Desk(bundle, Folder(fill(tmp_path / "all", range(20))), tmp_path / "other", settings, lambda: NOW)
    report = run_round(desk, tmp_path / "candidate.edgerec")
    alone = results.load(tmp_path / "other" / "results" / f"{report['round']}.npz")
    assert same(done.result, alone)
    assert same(done.result, local(settings, range(20)))
    made = tmp_path / "state" / "candidates" / f"{done.report['round']}.edgerec"
    assert made.read_bytes() == (tmp_path / "candidate.edgerec").read_bytes()


def test_no_delta_counts_twice_in_one_round_or_in_two(shelf: Shelf, tmp_path: Path) -> None:
    both = {LEFT: holdings_of(tmp_path / "l", range(10)), RIGHT: holdings_of(tmp_path / "r", range(5, 15))}
    assert one_round(shelf(), both).result.devices == 15
    with pytest.raises(DeltaError, match="0 deltas"):
        one_round(shelf(), both)
    fill(tmp_path / "r", range(15, 24))
    assert one_round(shelf(), both).result.devices == 9


def test_a_gateway_is_asked_for_no_more_than_it_may_give(shelf: Shelf, tmp_path: Path) -> None:
    gateways = {LEFT: holdings_of(tmp_path / "l", range(20)), RIGHT: holdings_of(tmp_path / "r", range(20, 24))}
    assert one_round(shelf(most=6), gateways).result.devices == 10


def test_a_gateway_that_drops_out_is_asked_for_the_same_again(shelf: Shelf, tmp_path: Path) -> None:
    gateways = {LEFT: holdings_of(tmp_path / "l", range(10)), RIGHT: holdings_of(tmp_path / "r", range(10, 20))}
    book = shelf()
    assert one_round(book, gateways, gone=[RIGHT]).result.devices == 10
    (owed,) = load_plans(tmp_path / "state" / "flower.json").open[RIGHT]
    assert set(owed.part.ids) == {id_of(number) for number in range(10, 20)}
    number, ask = shelf().begin()  # another process, after a crash
    asked = shelf().plan(number, ask, {RIGHT: gateways[RIGHT].waiting(ask)})
    assert asked[RIGHT].parts == (owed.part,)
    done = book.finish(number, {RIGHT: gateways[RIGHT].rows(asked[RIGHT])})
    assert same(done.result, local(SETTINGS, range(10, 20)))
    assert not load_plans(tmp_path / "state" / "flower.json").open


def test_what_never_comes_is_given_up(shelf: Shelf, tmp_path: Path) -> None:
    gateways = {LEFT: holdings_of(tmp_path / "l", range(10)), RIGHT: Holdings(Folder(tmp_path / "l"))}
    book = shelf()
    for _ in range(3):
        number, ask = book.begin()
        assert book.plan(number, ask, {LEFT: gateways[LEFT].waiting(ask)})[LEFT].parts[0].number == 3
    number, ask = book.begin()
    assert book.plan(number, ask, {LEFT: gateways[LEFT].waiting(ask)})[LEFT].parts[0].number == number


def test_too_few_devices_make_no_round_and_spend_nothing(shelf: Shelf, tmp_path: Path) -> None:
    with pytest.raises(DeltaError, match="7 deltas, at least 8"):
        one_round(shelf(), {LEFT: holdings_of(tmp_path / "l", range(7))})
    gateways = {LEFT: holdings_of(tmp_path / "l", range(7)), RIGHT: holdings_of(tmp_path / "r", range(7, 14))}
    with pytest.raises(DeltaError, match="7 deltas wait"):
        one_round(shelf(), gateways, gone=[RIGHT])
    with Journal(tmp_path / "state" / rounds.JOURNAL) as journal:
        assert journal.rounds() == []
    assert one_round(shelf(), gateways).result.devices == 14


def test_a_round_that_a_crash_left_is_ended_with_the_same_deltas(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateways = {LEFT: holdings_of(tmp_path / "l", range(12))}

    def crash(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(rounds, "aggregate", crash)
        with pytest.raises(KeyboardInterrupt):
            one_round(shelf(), gateways)
    fill(tmp_path / "l", range(12, 20))
    book = shelf()
    assert book.resume() is None  # its numbers were never computed
    done = one_round(book, gateways)
    assert done.report["repeated"] is True
    assert same(done.result, local(SETTINGS, range(12)))
    assert one_round(book, gateways).result.devices == 8


def test_a_round_whose_numbers_are_on_the_disk_is_ended_without_gateways(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(rounds, "_make", crash)
        with pytest.raises(KeyboardInterrupt):
            one_round(shelf(), {LEFT: holdings_of(tmp_path / "l", range(12))})
    done = shelf().resume()
    assert done is not None
    assert same(done.result, local(SETTINGS, range(12)))


def test_the_accountant_is_asked_before_any_gateway(shelf: Shelf, tmp_path: Path) -> None:
    privacy = PrivacySettings("central", epsilon=8.0, most_rounds=1)
    book = shelf(RoundSettings(least_cohort=8, privacy=privacy))
    one_round(book, {LEFT: holdings_of(tmp_path / "l", range(10))})
    with pytest.raises(BudgetSpent):
        book.begin()


def test_rows_that_are_not_finite_are_refused(shelf: Shelf, tmp_path: Path) -> None:
    gateway = holdings_of(tmp_path / "l", range(10))
    book = shelf()
    number, ask = book.begin()
    asked = book.plan(number, ask, {LEFT: gateway.waiting(ask)})
    found = gateway.rows(asked[LEFT])
    found.rows[3, 5] = np.nan
    done = book.finish(number, {LEFT: found})
    assert (done.result.devices, done.report["refused"]) == (9, {"not finite": 1})


def test_a_bundle_without_blocks_has_no_rounds(bundle_path: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no federated blocks"):
        Book(bundle_path, tmp_path, SETTINGS)


def test_plans_that_cannot_be_read_are_no_plans(shelf: Shelf, tmp_path: Path) -> None:
    book = shelf()
    (tmp_path / "state" / "flower.json").write_text('{"number": 1, "open": []}')
    with pytest.raises(StoreError, match="cannot be read"):
        book.begin()


# What a gateway answers from


def test_a_gateway_gives_what_its_devices_sent_over_http(shelf: Shelf, tmp_path: Path) -> None:
    place = tmp_path / "gateway.db"
    served(place, Policy(minimum_cohort=5), {number: payload_of(number) for number in range(12)}, tmp_path)
    with opened({"store": str(place)}) as gateway:
        done = one_round(shelf(), {LEFT: gateway})
        assert same(done.result, local(SETTINGS, range(12)))
        assert not gateway.waiting(shelf().begin()[1])


def test_deltas_below_the_cohort_of_a_gateway_stay_there(shelf: Shelf, tmp_path: Path) -> None:
    place = tmp_path / "gateway.db"
    served(place, Policy(minimum_cohort=20), {number: payload_of(number) for number in range(12)}, tmp_path)
    with opened({"store": str(place)}) as gateway:
        assert not gateway.waiting(shelf().begin()[1])


def test_two_gateways_with_shares_give_the_sum_and_nothing_else(shelf: Shelf, tmp_path: Path) -> None:
    policy = Policy("split", minimum_cohort=5)
    halves = {number: split(payload_of(number)) for number in range(12)}
    for side, name in enumerate(("l.db", "r.db")):
        served(tmp_path / name, policy, {number: half[side] for number, half in halves.items()}, tmp_path)
    book = shelf(RoundSettings(mode="split", least_cohort=8))
    with opened({"store": str(tmp_path / "l.db")}) as left, opened({"store": str(tmp_path / "r.db")}) as right:
        number, ask = book.begin()
        with pytest.raises(DeltaError, match="there must be two"):
            book.plan(number, ask, {LEFT: left.waiting(ask)})
        offers = {LEFT: left.waiting(ask), RIGHT: right.waiting(ask)}
        asked = book.plan(number, ask, offers)
        with pytest.raises(DeltaError, match="holds shares"):
            left.rows(asked[LEFT])
        with pytest.raises(DeltaError, match="did not come"):
            book.finish_split(number, asked, {LEFT: left.total(asked[LEFT])})
        number, ask = book.begin()
        again = book.plan(number, ask, {LEFT: left.waiting(ask), RIGHT: right.waiting(ask)})
        assert again == asked, "one of them has answered, and gives no other sum"
        done = book.finish_split(number, again, {LEFT: left.total(again[LEFT]), RIGHT: right.total(again[RIGHT])})
    mean = RoundSettings(least_cohort=8)
    assert all(np.allclose(done.result.blocks[name], block) for name, block in local(mean, range(12)).blocks.items())


@pytest.mark.parametrize("node", [{}, {"store": "a", "folder": "b"}, {"folder": 3}, {"store": "nowhere.db"}])
def test_a_supernode_must_say_where_its_deltas_are(node: dict[str, Any]) -> None:
    with pytest.raises(ConfigError), opened(node):
        pass


def test_a_part_whose_deltas_are_gone_is_left_out(tmp_path: Path) -> None:
    gateway = holdings_of(tmp_path / "l", range(4))
    gone, there = Part(3, 1, (id_of(9),)), Part(6, 1, (id_of(1), id_of(2)))
    found = gateway.rows(Ask((1,), SPECS, parts=(gone, there)))
    assert found.ids == there.ids
    assert np.array_equal(found.rows, np.stack([row_of(1), row_of(2)]))
    with pytest.raises(DeltaError, match="is gone"):
        gateway.rows(Ask((1,), SPECS, parts=(gone,)))
    with pytest.raises(DeltaError):
        gateway.total(Ask((1,), SPECS, True, (there,)))


# What is believed of a message


def test_asks_and_answers_are_read_back() -> None:
    ask = Ask((1, 2), (replace(SPECS[0], focus=(3, 1)), SPECS[1]), True, (Part(3, 2, (id_of(1),)),))
    assert asks.ask_of(asks.ask_text(ask)) == ask
    some = (Waiting(id_of(1), 1, 99, "7"), Waiting(id_of(2), 2, 99, None))
    assert asks.offer_of(asks.offer_text(some), ask) == some
    assert asks.ids_of(asks.ids_text([id_of(1)]), ask) == (id_of(1),)


NONSENSE: list[object] = [None, "text", b"", b"[]", b"{}", b"\xff", b"[" * 100_000, b'{"ids": 3, "waiting": 4}']


@pytest.mark.parametrize("text", [*NONSENSE, b'{"versions":[],"blocks":[],"split":false,"parts":[]}'], ids=range(9))
def test_an_ask_that_is_none_is_refused(text: object) -> None:
    with pytest.raises(DeltaError):
        asks.ask_of(text)


OFFERS = ["[[1,1,1,null]]", f'[["{id_of(1)}",true,1,null]]', f'[["{id_of(1)}",1,-1,null]]', f'[["{id_of(1)}",1,1,7]]']


@pytest.mark.parametrize("text", [*NONSENSE, *[f'{{"waiting":{one}}}'.encode() for one in OFFERS]], ids=range(12))
def test_an_offer_that_is_none_is_refused(text: object) -> None:
    with pytest.raises(DeltaError):
        asks.offer_of(text, Ask((1,), SPECS))


def test_an_answer_of_other_deltas_is_refused() -> None:
    ask = Ask((1,), SPECS, parts=(Part(3, 1, (id_of(1), id_of(2))),))
    for text in (*NONSENSE, asks.ids_text([id_of(3)]), asks.ids_text([id_of(1), id_of(1)]), asks.ids_text(["x"])):
        with pytest.raises(DeltaError):
            asks.ids_of(text, ask)


# The commands


def test_the_app_is_written_for_flwr_run(tmp_path: Path) -> None:
    done = CliRunner().invoke(flower_app, ["--out", str(tmp_path / "app"), "--json"])
    assert set(json.loads(done.output)["files"]) == {
        "pyproject.toml",
        *(f"edgerec_rounds/{name}.py" for name in ("__init__", "client", "server")),
    }
    assert (tmp_path / "app" / "pyproject.toml").read_bytes() == (APP / "pyproject.toml").read_bytes()
    again = CliRunner().invoke(flower_app, ["--out", str(tmp_path / "app")])
    assert isinstance(again.exception, ConfigError)


def test_without_flower_the_command_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgerec_exporters.flower.commands.find_spec", lambda name: None)
    done = CliRunner().invoke(flower, ["superlink"])
    assert isinstance(done.exception, MissingDistribution)
    assert "edgerec-exporters[flower]" in str(done.exception)


@needs_flower
def test_flowers_programs_start_with_nothing_that_calls_home() -> None:
    command, environment = quiet_command("superlink", ("--insecure",), {"PATH": "/bin", **dict.fromkeys(QUIET, "1")})
    assert environment.items() >= QUIET.items()
    assert environment["PATH"].endswith("/bin")
    assert command[1:] == ["--disable-runtime-dependency-installation", "--insecure"]


# With Flower, without its processes


class Fleet:
    """What the strategy needs of a Grid: nodes that answer by the ClientApp itself, or do not."""

    def __init__(self, nodes: dict[int, dict[str, Any]]) -> None:
        self.nodes = nodes
        self.silent: set[int] = set()
        self.spoil: Callable[[Any], Any] = lambda content: content

        from flwr.supercore.task_identity import TaskIdentity

        TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, 1

    def get_node_ids(self) -> list[int]:
        return list(self.nodes)

    def send_and_receive(self, messages: Iterable[Any], *, timeout: float) -> list[Any]:
        from flwr.app import Error, Message

        from edgerec_exporters.flower.client_app import app

        replies = []
        for message in messages:
            node = message.metadata.dst_node_id
            message.metadata.__dict__["_message_id"] = message.object_id
            if node in self.silent and message.metadata.message_type == "train":
                continue
            try:
                answer = app(message, SimpleNamespace(node_config=self.nodes[node]))  # type: ignore[arg-type]
                answer.content = self.spoil(answer.content)
            except Exception as error:
                answer = Message(Error(code=1, reason=str(error)), reply_to=message)
            replies.append(answer)
        return replies


def started(book: Book, fleet: Fleet, count: int = 1, **more: Any) -> Any:
    from flwr.app import ArrayRecord

    from edgerec_exporters.flower.strategy import DeviceRounds

    strategy = DeviceRounds(book, wait_s=0.0, timeout_s=5.0, **more)
    return strategy.start(fleet, ArrayRecord(), num_rounds=count, timeout=5.0)  # type: ignore[arg-type]


@needs_flower
@pytest.mark.parametrize("settings", RULES, ids=lambda one: one.aggregator)
def test_three_rounds_by_messages_equal_the_local_engine(shelf: Shelf, tmp_path: Path, settings: RoundSettings) -> None:
    left, right = fill(tmp_path / "l", range(30)), fill(tmp_path / "r", range(27, 60))
    done = started(shelf(settings, most=10), Fleet({LEFT: {"folder": str(left)}, RIGHT: {"folder": str(right)}}), 3)
    assert [one["devices"] for one in done.train_metrics_clientapp.values()] == [20, 20, 20]
    names = {id_of(number): number for number in range(60)}
    server, seen = None, set()
    with Journal(tmp_path / "state" / rounds.JOURNAL) as journal:
        for one in journal.rounds():
            numbers = [names[id_] for id_ in journal.ids(one.id)]
            seen.update(numbers)
            made = results.load(tmp_path / "state" / "results" / f"{one.id}.npz")
            alone = aggregate(settings, SPECS, np.stack([row_of(number) for number in numbers]), server=server)
            assert same(made, alone)
    assert seen == set(range(60))
    assert all(np.array_equal(done.arrays[name].numpy(), made.blocks[name]) for name in made.blocks)


@needs_flower
def test_a_gateway_that_is_silent_or_broken_does_not_stop_the_round(shelf: Shelf, tmp_path: Path) -> None:
    nodes = {LEFT: {"folder": str(fill(tmp_path / "l", range(10)))}, RIGHT: {"folder": str(tmp_path / "r")}, 3: {}}
    fill(tmp_path / "r", range(10, 20))
    fleet = Fleet(nodes)
    fleet.silent.add(RIGHT)
    assert same_arrays(started(shelf(), fleet), local(SETTINGS, range(10)))
    fleet.silent.clear()
    assert same_arrays(started(shelf(), fleet), local(SETTINGS, range(10, 20)))
    assert not started(shelf(), fleet).arrays, "nothing is left to count"


def same_arrays(done: Any, alone: Any) -> bool:
    return all(np.array_equal(done.arrays[name].numpy(), block) for name, block in alone.blocks.items())


@needs_flower
def test_an_answer_that_is_none_is_left_out() -> None:
    from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict

    from edgerec_exporters.flower import messages

    ask = Ask((1,), SPECS, parts=(Part(3, 1, (id_of(1), id_of(2))),))
    rows = np.stack([row_of(1), row_of(2)])
    assert np.array_equal(messages.rows_in(messages.with_rows(Rows(ask.ids, rows)), ask).rows, rows)
    with pytest.raises(DeltaError):
        messages.rows_in(RecordDict(), ask)
    for array in (rows[:, :-1], rows.astype(np.float64), rows[:1], np.zeros((2, WIDTH), np.int32), rows.ravel()):
        answer = messages.with_rows(Rows(ask.ids, rows))
        answer[messages.DELTAS] = ArrayRecord({"rows": Array(array)})
        with pytest.raises(DeltaError):
            messages.rows_in(answer, ask)
    pickled = Array("float32", (2, WIDTH), "numpy.ndarray", b"\x80\x04N." + bytes(2 * WIDTH * 4))
    answer[messages.DELTAS] = ArrayRecord({"rows": pickled})
    with pytest.raises(DeltaError, match="cannot be read"):
        messages.rows_in(answer, ask)
    total = messages.with_total(asks.Total(np.arange(WIDTH, dtype=np.uint32), 0.5), ask.ids)
    assert messages.total_in(total, ask).multiplier == 0.5
    total[messages.METRICS] = MetricRecord({"noise-multiplier": float("nan")})
    with pytest.raises(DeltaError, match="how much noise"):
        messages.total_in(total, ask)


@needs_flower
def test_the_engines_server_step_is_flowers_but_for_its_correction_of_the_first_rounds() -> None:
    """FedAdam of Flower scales by √(1 − β₂^(t+1)) / (1 − β₁^(t+1)), which one run after another would begin anew."""
    from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
    from flwr.serverapp.strategy import FedAdam

    from edgerec_exporters.federation.rules import fedadam

    constants = {"rate": 0.2, "beta1": 0.9, "beta2": 0.99, "tau": 0.01}
    theirs = FedAdam(eta=0.2, beta_1=0.9, beta_2=0.99, tau=0.01, min_train_nodes=1, min_available_nodes=1)
    draw, state, at = np.random.default_rng(5), None, np.zeros(8)
    for number in (1, 2, 3):
        change = draw.normal(size=8)
        step, state = fedadam(change, state, constants)
        theirs.configure_train(number, ArrayRecord({"x": Array(at)}), ConfigRecord(), Fleet({1: {}}))  # type: ignore[arg-type]
        asked = Message(RecordDict(), 1, "train")
        asked.metadata.__dict__["_message_id"] = "m"
        content = RecordDict({"a": ArrayRecord({"x": Array(at + change)}), "m": MetricRecord({"num-examples": 1})})
        arrays, _ = theirs.aggregate_train(number, [Message(content, reply_to=asked)])
        assert arrays is not None
        correction = np.sqrt(1 - 0.99 ** (number + 1)) / (1 - 0.9 ** (number + 1))
        assert np.allclose(arrays["x"].numpy() - at, step * correction, rtol=1e-12)
        at = arrays["x"].numpy()


@needs_flower
def test_masks_of_flowers_secure_aggregation_have_no_more_than_32_bits() -> None:
    """Why docs/flower.md does not offer SecAgg+: once this fails, it is to be looked at again."""
    from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen

    secret = os.urandom(32)
    another = secret[28:] + secret[4:28] + secret[:4]
    assert secret != another
    one, other = (pseudo_rand_gen(seed, 1 << 32, [(50,)])[0] for seed in (secret, another))
    assert np.array_equal(one, other)


@needs_flower
@pytest.mark.parametrize("app", ["client_app", "server_app"])
def test_an_app_refuses_a_process_whose_telemetry_is_on(app: str) -> None:
    script = f"import flwr.supercore.telemetry\nimport edgerec_exporters.flower.{app}"
    environment = {**os.environ, "FLWR_TELEMETRY_ENABLED": "1"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "telemetry is on in this process" in done.stderr
    quiet = f"import edgerec_exporters.flower.{app}, os; print(os.environ['RAY_USAGE_STATS_ENABLED'])"
    done = subprocess.run([sys.executable, "-c", quiet], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0"


def test_a_device_with_federation_never_loads_flower(tmp_path: Path, bundle: Path) -> None:
    script = (
        "import sys, edgerec\n"
        "config = {'federation': {'enabled': True, 'transport': 'folder', 'control_share': 0.0},\n"
        "          'transports': {'folder': {'path': sys.argv[3]}}}\n"
        "with edgerec.open(sys.argv[1], sys.argv[2], config=config) as rec:\n"
        "    rec.consent(True)\n    rec.record('i3', 'purchase')\n"
        "    rec.sync()\n"
        "print([name for name in ('flwr', 'grpc', 'ray', 'edgerec_exporters', 'torch') if name in sys.modules])\n"
    )
    places = [str(bundle), str(tmp_path / "state"), str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-c", script, *places], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert list((tmp_path / "out").glob("*.delta"))


# With all of its processes


@needs_flower
@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace (apt-get install strace)")
def test_a_round_over_tls_with_registered_supernodes_connects_nowhere_else(bundle: Path, tmp_path: Path) -> None:
    for name, numbers in (("left", range(12)), ("right", range(10, 25))):
        fill(tmp_path / "deltas" / name, numbers)
    (tmp_path / "round.toml").write_text('[round]\naggregator = "trimmed_mean"\nleast_cohort = 8\n')
    with rig(tmp_path, trace=True) as deployment:
        deployment.superlink()
        for name in ("left", "right"):
            deployment.register(name)
            deployment.supernode(name, f'folder="{tmp_path / "deltas" / name}"')
        config = {"bundle": str(bundle), "state": str(tmp_path / "state"), "settings": str(tmp_path / "round.toml")}
        log = deployment.run({**config, "gateways": 2, "timeout-s": 40.0})
    made = results.load(tmp_path / "state" / "results" / "3.npz")
    assert made is not None, log
    assert same(made, local(RoundSettings("trimmed_mean", least_cohort=8), range(25)))
    traces = [line for path in tmp_path.glob("trace-*") for line in path.read_text().splitlines() if "AF_INET" in line]
    assert traces, "the trap must have caught the connections between them"
    assert not [line for line in traces if "127.0.0.1" not in line and "::1" not in line]


@needs_flower
@pytest.mark.slow
def test_whole_deployments_survive_a_killed_gateway_and_give_what_the_engine_gives(tmp_path: Path) -> None:
    """What `make study-flower` measures: three rounds for each of three rules, a SuperNode killed and back."""
    from flower_study import measure, page

    found = measure(tmp_path)
    devices = {run: [one.devices for one in found.rounds if one.run == run] for run in ("mean", "killed")}
    assert (devices["mean"], devices["killed"][:3]) == ([40, 40, 40], [40, 20, 20])
    assert devices["killed"][3] >= 20, "the gateway that came back was not asked"
    assert max(one.difference for one in found.rounds) <= 1e-6
    assert found.stranger != 0, "a SuperNode that nobody registered was taken"
    assert found.device["device with federation"] < found.device["device"] + 10
    assert "| krum |" in page(found)


def served(place: Path, policy: Policy, payloads: dict[int, bytes], folder: Path) -> None:
    """Devices that deliver to a gateway, which then stops."""
    store = GatewayStore(place)
    store.configure(policy)
    store.open_bundles([federated_manifest(folder)])
    with serving(store, Settings(policy=policy)) as url:
        for number, payload in payloads.items():
            device = Device(url, number, store.clock)
            assert device.put_bytes(id_of(number), payload).status in (200, 201)
            device.close()
