"""Which runtime is whose: replaced ones live exactly as long as somebody uses them."""

import pytest

from kheishd.kernel.holder import RuntimeHolder
from kheishd.kernel.runtime import Runtime
from tests.support.runtimes import make_runtime


def holder() -> tuple[RuntimeHolder, list[int]]:
    """A holder of generation 1, and the generations it retires."""
    retired: list[int] = []

    def retire(runtime: Runtime) -> None:
        retired.append(runtime.generation)

    return RuntimeHolder(make_runtime(1), retire), retired


def test_new_work_takes_the_newest() -> None:
    """After a replacement, ``current`` and ``hold`` give the new one."""
    runtimes, _ = holder()
    runtimes.replace(make_runtime(2))
    assert runtimes.current().generation == 2
    with runtimes.hold() as runtime:
        assert runtime.generation == 2


def test_an_unused_one_is_retired_at_once() -> None:
    """Nobody used it: there is nothing to wait for."""
    runtimes, retired = holder()
    runtimes.replace(make_runtime(2))
    assert retired == [1]


def test_a_used_one_is_retired_with_its_last_user() -> None:
    """Two users of the old, one leaves: it lives. The other leaves, even by an error: it is retired."""
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


def test_the_newest_is_never_retired_by_its_users() -> None:
    """It is still needed when the last run ends; the daemon closes it when it stops."""
    runtimes, retired = holder()
    with runtimes.hold():
        pass
    assert retired == []
