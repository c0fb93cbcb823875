"""The slots of active runs: closed without a worker."""

from kheishd.kernel.slots import RunSlots


def test_without_a_worker_no_run_starts_at_its_acceptance() -> None:
    """The slots are closed, and a run that is accepted is left to the next worker."""
    slots = RunSlots()
    assert not slots.is_open
    slots.take_up("run_1")
