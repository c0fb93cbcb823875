"""Every outcome of every method has its test."""

from pathlib import Path

from protocol.rpc.catalogue import METHODS
from tests.house.sources import all_tests, functions

PROVEN_ONCE = {"storage_full"}
"""Refusals that the dispatcher or the store give for every method alike, tested there once."""


def names() -> set[str]:
    """Return the names of all tests of the daemon."""
    return {
        function.name
        for path in all_tests()
        if path.parts[:2] == ("tests", "kheishd") and path.name.startswith("test_")
        for function in functions(path)
        if function.name.startswith("test_")
    }


def wanted() -> dict[str, Path]:
    """Yield the required test of each outcome, and the file that should hold it."""
    found = {}
    for method in METHODS.values():
        where = Path("tests/kheishd/objects") / f"test_{method.name.split('.')[0]}.py"
        outcomes = ["ok", *(refusal.reason for refusal in method.errors)]
        for outcome in outcomes:
            if outcome not in PROVEN_ONCE:
                found[f"test_{method.name.replace('.', '_')}_{outcome}"] = where
    return found


def test_every_outcome_is_tested() -> None:
    """run.cancel has test_run_cancel_ok and test_run_cancel_run_not_found; more words may follow."""
    have = names()
    missing = [
        f"{where}: {name}"
        for name, where in wanted().items()
        if name not in have and not any(other.startswith(name + "_") for other in have)
    ]
    assert not missing, f"{len(missing)} outcomes without a test:\n" + "\n".join(missing)
