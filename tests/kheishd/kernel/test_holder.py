"""The holder of runtimes: a replaced runtime lives exactly as long as it has users."""

import pytest

from kheishd.kernel.holder import RuntimeHolder
from kheishd.kernel.runtime import Runtime
from tests.support.runtimes import make_runtime


def holder() -> tuple[RuntimeHolder, list[int]]:
    """Return a holder of generation 1, and the list of the generations that it retires."""
    retired: list[int] = []

    def retire(runtime: Runtime) -> None:
        retired.append(runtime.generation)

    return RuntimeHolder(make_runtime(1), retire), retired


def test_new_work_gets_the_newest_runtime() -> None:
    """After a replacement, ``current`` and ``hold`` return the new runtime."""
    runtimes, _ = holder()
    runtimes.replace(make_runtime(2))
    assert runtimes.current().generation == 2
    with runtimes.hold() as runtime:
        assert runtime.generation == 2


def test_an_unused_runtime_is_retired_at_once() -> None:
    """A replaced runtime without users is retired by the replacement."""
    runtimes, retired = holder()
    runtimes.replace(make_runtime(2))
    assert retired == [1]


def test_a_used_runtime_is_retired_with_its_last_user() -> None:
    """A replaced runtime lives until its last user leaves, be it by an error."""
    runtimes, retired = holder()
    with runtimes.hold() as first:

        def replace_and_fail() -> None:
            with runtimes.hold():
                runtimes.replace(make_runtime(2))
                raise KeyError

        with pytest.raises(KeyError):
            replace_and_fail()
        with runtimes.hold():
            assert runtimes.held() == [1, 2]
        assert (first.generation, retired) == (1, [])
    assert (retired, runtimes.held()) == ([1], [])


def test_the_current_runtime_is_not_retired_by_its_users() -> None:
    """The current runtime stays open without users; the daemon closes it when it stops."""
    runtimes, retired = holder()
    with runtimes.hold():
        pass
    assert retired == []


def test_changes_are_announced() -> None:
    """A task that waits for another current runtime is woken by a replacement and by other definitions."""
    runtimes, _ = holder()
    for change in (runtimes.replace, runtimes.amend):
        changed = runtimes.changed
        change(make_runtime(2))
        assert changed.is_set()
        assert not runtimes.changed.is_set()
