"""Every outcome of every method has its test."""

from protocol.rpc.catalogue import METHODS
from tests.house.sources import all_tests, functions

TESTED_ONCE = {"storage_full"}
"""Refusals that the dispatcher or the store raises for all methods alike, tested there once."""


def test_every_outcome_is_tested() -> None:
    """``run.cancel`` has ``test_run_cancel_ok`` and ``test_run_cancel_run_not_found``, or longer names."""
    names = {
        function.name
        for path in all_tests()
        if path.parts[:2] == ("tests", "kheishd")
        for function in functions(path)
    }
    expected = [
        f"test_{method.name.replace('.', '_')}_{outcome}"
        for method in METHODS.values()
        for outcome in ("ok", *(refusal.reason for refusal in method.errors))
        if outcome not in TESTED_ONCE
    ]
    missing = [
        name
        for name in expected
        if name not in names and not any(other.startswith(f"{name}_") for other in names)
    ]
    assert not missing, f"{len(missing)} outcomes without a test:\n" + "\n".join(missing)
