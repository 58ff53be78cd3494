"""The conformance kit: what every implementation of an interface must do, tried on small made-up data.

    from edgerec.checks import conformance

    TestMine = conformance(MyUpdater)          # in a pytest file: one test for each check

Outside pytest, `edgerec plugins check NAME` does the same for an installed plugin.
"""

from edgerec.checks.running import CheckResult, check_names, conformance, run_checks

__all__ = ["CheckResult", "check_names", "conformance", "run_checks"]
