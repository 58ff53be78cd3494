"""Checks of transports. Whether a payload arrives, only the transport's own tests can see."""

from __future__ import annotations

from edgerec.checks.cases import Case
from edgerec.checks.common import check_inputs_unchanged, check_interface, check_no_forbidden_import
from edgerec.checks.comparing import expect
from edgerec.checks.subjects import Subject
from edgerec.errors import EdgeRecError

PAYLOADS = {"delta-1": b"", "delta-2": bytes(range(256)) * 256}
ODD = ("", ".", "../elsewhere", "a/b", "a\\b", "nul\0", "line\n", "é" * 300)


def check_sent_twice(subject: Subject, case: Case) -> None:
    """The same delta may be sent again, by another instance too: nothing is returned or raised."""
    first, second = subject.make(), subject.make()
    for one in (first, first, second):
        for name, payload in PAYLOADS.items():
            given = one.send(payload, delta_id=name)
            expect(given is None, f"send must return nothing, not {given!r}")


def check_odd_id(subject: Subject, case: Case) -> None:
    """An id that is no plain name is sent like any other, or refused with an EdgeRecError."""
    one = subject.make()
    for name in ODD:
        try:
            one.send(b"delta", delta_id=name)
        except EdgeRecError:
            continue


TRANSPORT_CHECKS = (
    check_interface,
    check_inputs_unchanged,
    check_no_forbidden_import,
    check_sent_twice,
    check_odd_id,
)
