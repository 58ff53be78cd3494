"""The strategy of the ServerApp: gateways' deltas are joined, and aggregated over devices by the engine.

It derives from Flower's FedAvg for its messages, its reading of error replies and its loop. Flower's own rules stay
unused: they average one array per node, so a trimmed mean or Krum of theirs would defend against gateways, not devices;
and FedAdam keeps its moments in memory, which do not outlast the week between two rounds. The engine has both, with
equal numbers in `edgerec round`; tests/test_flower.py compares its step with Flower's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from logging import INFO, WARNING
from typing import TypeVar

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from flwr.supercore import log

from edgerec.deltas import DeltaError
from edgerec_exporters.flower.asks import Ask
from edgerec_exporters.flower.book import Book, Done
from edgerec_exporters.flower.messages import OFFER, asking, offered, rows_in, total_in

T = TypeVar("T")

POLL_S = 0.5


class DeviceRounds(FedAvg):
    """`gateways`: without so many connected a round waits, at most `wait_s` · `timeout_s`: for each of its answers."""

    def __init__(self, book: Book, *, gateways: int = 1, wait_s: float = 60.0, timeout_s: float = 120.0) -> None:
        super().__init__(fraction_train=1.0, fraction_evaluate=0.0, min_train_nodes=1, min_available_nodes=gateways)
        self.book = book
        self.wait_s, self.timeout_s = wait_s, timeout_s
        self._number = 0
        self._asks: dict[int, Ask] = {}

    def summary(self) -> None:
        """Into the run's log; no value of any delta."""
        settings = self.book.settings
        log(INFO, "\t├──> bundle version %d, mode %s", self.book.version, settings.mode)
        log(INFO, "\t├──> aggregator %s, server step %s", settings.aggregator, settings.server)
        log(INFO, "\t└──> at least %d devices, privacy %s", settings.least_cohort, settings.privacy.kind)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Asks the accountant, then the gateways what they hold; messages to those whose deltas are to count, none
        where they are too few. Raises BudgetSpent, which ends the run.
        """
        self._asks = {}
        self._number, ask = self.book.begin()
        asked = dict.fromkeys(self._nodes(grid), ask)
        replies = grid.send_and_receive(self._messages(asked, OFFER), timeout=self.timeout_s)
        offers = self._read(offered, self._sound(replies, asked), asked)
        try:
            self._asks = self.book.plan(self._number, ask, offers)
        except DeltaError as error:
            log(WARNING, "round %d: %s", self._number, error)
        return self._messages(self._asks, MessageType.TRAIN)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The round's result, its blocks as arrays float64 (size,); None where it came to none. A gateway that did not
        answer, or not sensibly, is left out.
        """
        if not self._asks:
            return None, None
        try:
            done = self._finished(self._sound(replies, self._asks))
        except DeltaError as error:
            log(WARNING, "round %d: %s", self._number, error)
            return None, None
        made = done.result
        log(INFO, "round %s: %d devices, refused %s", done.report["round"], made.devices, dict(done.report["refused"]))
        arrays = ArrayRecord({name: Array(np.asarray(block)) for name, block in made.blocks.items()})
        return arrays, MetricRecord({"devices": made.devices})

    def _finished(self, replies: Mapping[int, Message]) -> Done:
        if self.book.split:
            return self.book.finish_split(self._number, self._asks, self._read(total_in, replies, self._asks))
        return self.book.finish(self._number, self._read(rows_in, replies, self._asks))

    def _read(
        self, reader: Callable[[RecordDict, Ask], T], replies: Mapping[int, Message], asks: Mapping[int, Ask]
    ) -> dict[int, T]:
        """Node → what its reply says; who says nothing sensible is left out of the round."""
        found = {}
        for node, reply in replies.items():
            try:
                found[node] = reader(reply.content, asks[node])
            except DeltaError as error:
                log(WARNING, "round %d: gateway %d is left out: %s", self._number, node, error)
        return found

    def _nodes(self, grid: Grid) -> list[int]:
        """Gateways that are connected, once there are enough or the wait is over."""
        until = time.monotonic() + self.wait_s
        while len(nodes := sorted(grid.get_node_ids())) < self.min_available_nodes and time.monotonic() < until:
            time.sleep(POLL_S)
        return nodes

    def _messages(self, asks: Mapping[int, Ask], kind: str) -> list[Message]:
        """What nobody answers in time must not be claimed later: a message dies with the wait for it."""
        return [Message(asking(ask), node, kind, ttl=self.timeout_s) for node, ask in asks.items()]

    def _sound(self, replies: Iterable[Message], asks: Mapping[int, Ask]) -> dict[int, Message]:
        """Node → its reply, of those who were asked; Flower's own hand logs the errors."""
        valid, _ = self._check_and_log_replies(list(replies), is_train=True, validate=False)
        return {reply.metadata.src_node_id: reply for reply in valid if reply.metadata.src_node_id in asks}
