"""Runs checks: as a class of pytest, or one after the other with results."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from traceback import walk_tb
from typing import Any

from edgerec.checks.aggregators import AGGREGATOR_CHECKS
from edgerec.checks.cases import Case
from edgerec.checks.comparing import CheckFailed
from edgerec.checks.delta_filters import DELTA_FILTER_CHECKS
from edgerec.checks.filters import FILTER_CHECKS
from edgerec.checks.rerankers import RERANKER_CHECKS
from edgerec.checks.sources import SOURCE_CHECKS
from edgerec.checks.subjects import KINDS, Subject, factory_of, kind_of
from edgerec.checks.transports import TRANSPORT_CHECKS
from edgerec.checks.updaters import UPDATER_CHECKS
from edgerec.errors import PluginError
from edgerec.interfaces import FAILURES, Settings, Updater
from edgerec.isolation import Isolation
from edgerec.records import record

Check = Callable[[Subject, Case], None]
_OWN = str(Path(__file__).parents[1])
"""Where edgerec lies."""
CHECKS: Mapping[str, Sequence[Check]] = {
    "updater": UPDATER_CHECKS,
    "source": SOURCE_CHECKS,
    "reranker": RERANKER_CHECKS,
    "filter": FILTER_CHECKS,
    "delta_filter": DELTA_FILTER_CHECKS,
    "transport": TRANSPORT_CHECKS,
    "aggregator": AGGREGATOR_CHECKS,
}


@record
class CheckResult:
    """What came of one check: its name, and why it failed."""

    check: str
    ok: bool
    reason: str = ""


def check_names(kind: str) -> list[str]:
    """The checks of a kind: "updater", "source", "reranker", "filter", "delta_filter", "transport" or "aggregator"."""
    return [_name(check) for check in _checks(kind)]


def run_checks(
    kind: str,
    factory: Callable[[Settings], Any],
    settings: Settings | None = None,
    *,
    updater: Callable[[], Updater] | None = None,
    only: Sequence[str] | None = None,
    seconds: float | None = None,
) -> list[CheckResult]:
    """Every check of that kind, or `only` some, on what the factory makes.

    `updater` makes the updater whose state a source reads · `seconds`: the longest a check may take; each then runs on
    a thread of its own and is left to itself when it is over time.
    """
    subject = Subject(kind, factory, settings or {}, updater)
    _known(kind, only or ())
    wanted = [check for check in _checks(kind) if only is None or _name(check) in only]
    isolation = Isolation()
    try:
        return [_result(check, subject, isolation, seconds) for check in wanted]
    finally:
        isolation.close()


def conformance(
    given: object,
    *,
    settings: Settings | Sequence[Settings] | None = None,
    xfail: Mapping[str, str] | None = None,
    kind: str | None = None,
    updater: Callable[[], Updater] | None = None,
) -> type[Any]:
    """A class with one test for each check; bind it to a name that begins with Test, and pytest finds it.

    `given`: a class, a factory, or an object, which is copied · `settings`: what it is made with; of several, each has
    tests of its own, numbered from 0 · `xfail`: check → why it fails. It must fail then: a check that passes although
    it was not expected to is a failure · `kind`: only where it is not plain to see from the methods · `updater` makes
    the updater whose state a source reads.

    Raises PluginError for a check that does not exist, or a reason that says nothing.
    """
    factory = factory_of(given)
    several = [dict(settings or {})] if settings is None or isinstance(settings, Mapping) else list(settings)
    if not several:
        raise PluginError("there are no settings to check it with", hint="leave them out to check it without any")
    kind = kind or kind_of(given, factory, several[0])
    expected = dict(xfail or {})
    _known(kind, expected)
    if empty := [name for name, reason in expected.items() if not str(reason).strip()]:
        raise PluginError(f"xfail does not say why {empty[0]!r} fails", hint=f"{{{empty[0]!r}: 'the reason'}}")
    body: dict[str, Any] = {"__doc__": f"The checks of {kind} {getattr(given, '__name__', type(given).__name__)}."}
    for n, each in enumerate(several):
        subject = Subject(kind, factory, each, updater)
        for check in _checks(kind):
            name = f"test_{_name(check)}" + (f"_{n}" if len(several) > 1 else "")
            body[name] = _method(name, check, subject, expected.get(_name(check)))
    return type("Conformance", (), body)


def _method(name: str, check: Check, subject: Subject, reason: str | None) -> Callable[[Any], None]:
    def test(self: Any) -> None:
        if reason is None:
            _tried(check, subject)
            return
        try:
            _tried(check, subject)
        except FAILURES:
            _expected(reason)
            return
        raise CheckFailed(f"{_name(check)} passes, but was expected to fail ({reason}): take it out of xfail")

    test.__name__ = name
    test.__doc__ = check.__doc__
    return test


def _tried(check: Check, subject: Subject) -> None:
    try:
        check(subject, subject.case())
    except FAILURES as error:
        if isinstance(error, Exception):
            raise
        raise CheckFailed(f"raises {type(error).__name__}: {error}") from error  # and does not end the test run


def _expected(reason: str) -> None:
    """Tells pytest, where it runs, that the test failed as it was expected to."""
    pytest = sys.modules.get("pytest")
    if pytest is not None:
        pytest.xfail(reason)


def _result(check: Check, subject: Subject, isolation: Isolation, seconds: float | None) -> CheckResult:
    name = _name(check)
    try:
        if seconds is None:
            _tried(check, subject)
        else:
            isolation.call(name, _tried, check, subject, seconds=seconds)
    except CheckFailed as failed:
        return CheckResult(name, False, str(failed))
    except FAILURES as error:
        return CheckResult(name, False, f"raises {type(error).__name__}: {error}{_place(error)}")
    return CheckResult(name, True)


def _place(error: BaseException) -> str:
    """The last line in the implementation's own file on the way to the error: " (updater.py, line 52)"."""
    lines = [(frame.f_code.co_filename, number) for frame, number in walk_tb(error.__traceback__)]
    outside = [(file, number) for file, number in lines if not file.startswith(_OWN)]
    found = [number for file, number in outside if file == outside[0][0]]
    return f" ({Path(outside[0][0]).name}, line {found[-1]})" if found else ""


def _checks(kind: str) -> Sequence[Check]:
    if kind not in CHECKS:
        raise PluginError(f"there are no checks of {kind!r}", hint=f"kinds: {', '.join(KINDS)}")
    return CHECKS[kind]


def _known(kind: str, names: Mapping[str, str] | Sequence[str]) -> None:
    known = check_names(kind)
    if unknown := [name for name in names if name not in known]:
        raise PluginError(f"there is no check {unknown[0]!r} of {kind}s", hint=f"checks: {', '.join(known)}")


def _name(check: Check) -> str:
    return check.__name__.removeprefix("check_")
