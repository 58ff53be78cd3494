"""Checks of event filters."""

from __future__ import annotations

from edgerec.checks.cases import Case
from edgerec.checks.common import COMMON, check_no_memory
from edgerec.checks.comparing import expect
from edgerec.checks.subjects import Subject


def check_verdict(subject: Subject, case: Case) -> None:
    """A verdict is None, or a text that says why."""
    one = subject.make()
    for place in range(1, len(case.arrivals)):
        verdict = one.review(case.arrivals[place], case.arrivals[:place])
        told = verdict is None or (isinstance(verdict, str) and verdict.strip())
        expect(told, f"review must return a reason or None, not {verdict!r}")


def check_empty_earlier(subject: Subject, case: Case) -> None:
    """It judges a user's first event, whatever its kind."""
    one = subject.make()
    for arrival in case.arrivals:
        one.review(arrival, ())
        one.review(arrival._replace(kind="heard of by nobody"), [])


FILTER_CHECKS = (*COMMON, check_no_memory, check_verdict, check_empty_earlier)
