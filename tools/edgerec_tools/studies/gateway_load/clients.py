"""A process of many devices. It says on stdout what was acknowledged, a JSON line each; stdin says what to do."""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import Any

from edgerec.bundle.federated import BlockSpec
from edgerec_tools.studies.gateway_load import hostile
from edgerec_tools.studies.gateway_load.sending import Sender, id_of, key_of, payload_of

AGAIN = 10
"""Every so many deltas, one is sent again later, as a device does that never saw the answer."""


def main() -> None:
    task: dict[str, Any] = json.loads(sys.stdin.readline())
    specs = tuple([BlockSpec.of(one) for one in task["specs"]])
    if task["role"] == "attacker":
        _attack(task, specs)
    else:
        _send(task, specs)


def _attack(task: dict[str, Any], specs: tuple[BlockSpec, ...]) -> None:
    sender = Sender(task["url"])
    for _ in range(task["cycles"]):
        for name, status in hostile.attacks(sender, task["version"], specs):
            _say(attack=name, status=status)
    sender.close()


def _send(task: dict[str, Any], specs: tuple[BlockSpec, ...]) -> None:
    lock, numbers = threading.Lock(), iter(range(task["first"], task["first"] + task["count"]))

    def taken() -> int | None:
        with lock:
            return next(numbers, None)

    def work() -> None:
        sender = Sender(task["url"])
        while (number := taken()) is not None:
            _one(sender, number, task["version"], specs)
        _say(retries=sender.retries)
        sender.close()

    threads = [threading.Thread(target=work) for _ in range(task["threads"])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _one(sender: Sender, number: int, version: int, specs: tuple[BlockSpec, ...]) -> None:
    key, body = key_of(number), payload_of(number, version, specs)
    enrolled = sender.enrol(key)
    began = time.perf_counter()
    status = sender.put(key, id_of(number), body)
    _say(delta=number, status=status, enrolled=enrolled, seconds=round(time.perf_counter() - began, 5))
    if number % AGAIN == 0:
        _say(again=number, status=sender.put(key, id_of(number), body))


def _say(**told: Any) -> None:
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
