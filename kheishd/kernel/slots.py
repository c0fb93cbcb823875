"""The slots of active runs, for the transactions that accept runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class RunSlots:
    """The run worker, as a transaction that accepts a run sees it.

    ``is_open``: runs may start in the transactions that accept them, as far as the slots suffice. The worker
    opens the slots once all ready runs have an executor and none of them must execute alone, and closes them
    while a ready run waits, and when it stops. It is written on the loop and read on the writer thread, so a
    run may start while the worker closes the slots: the worker then waits for the queued transactions.
    ``take_up`` is called on the loop with the id of an accepted run, right after the commit.
    """

    def __init__(self) -> None:
        self.is_open = False
        self.take_up: Callable[[str], None] = lambda run_id: None
