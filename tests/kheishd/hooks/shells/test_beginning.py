"""A command for the background: a task in the commit of its call's result, and nothing before."""

from dataclasses import replace
from pathlib import Path
from typing import cast

import msgspec
import pytest

from kheishd.hooks.shells.beginning import begun
from kheishd.hooks.workdir import open_workdir
from kheishd.kernel.hook import Invocation, Outcome, ToolError
from kheishd.kernel.state import State
from kheishd.records.writer import SessionWriter
from kheishd.store.environment import Transaction
from kheishd.store.tables import SESSIONS
from kheishd.store.writer import Store
from protocol.events.session import SessionCreated
from protocol.events.task import TaskCreated
from protocol.limits.shell import MAX_SESSION_SHELLS
from tests.support.commands import Shell
from tests.support.histories import task_created
from tests.support.stores import update


def use(bare: Shell, store: Store) -> Invocation:
    """A call in a place that has a store."""
    return replace(bare.use("make"), context=replace(bare.place, state=State(store, lambda: 7)))


def outcome(bare: Shell, store: Store, workspace: Path, command: str = "make", title: str = "") -> Outcome:
    """What such a call gives."""
    workdir = open_workdir(str(workspace), ".")
    try:
        return begun(use(bare, store), command, title, workdir, boxed=True)
    finally:
        workdir.close()


def settled(given: Outcome, store: Store) -> tuple[Outcome, TaskCreated]:
    """What it is in the transaction that commits it, and the event of its task."""
    assert given.decide is not None
    with store.read() as snapshot:
        final = given.decide(snapshot)
    (event,) = final.events
    return final, cast("TaskCreated", event)


def test_the_task_says_what_will_run_and_where(bare: Shell, store: Store, workspace: Path) -> None:
    """By what was judged; its owner is who asked; the model is told its id and how to go on."""
    given = outcome(bare, store, workspace, "npm run dev", "The page\nfor Ada")
    assert given.events == ()
    final, event = settled(given, store)
    assert (event.kind, event.title, event.owner) == ("shell", "The page for Ada", bare.place.run.agent)
    assert event.shell is not None
    assert (event.shell.command, event.shell.sandboxed) == ("npm run dev", True)
    assert (event.shell.workdir, event.shell.workspace) == (str(workspace), str(workspace))
    assert event.shell.call_id == "call_1"
    said = msgspec.json.decode(final.text)
    assert (said["task_id"], said["status"]) == (event.task_id, "pending")
    assert "task_output" in said["note"]


def test_a_command_is_its_own_title(bare: Shell, store: Store, workspace: Path) -> None:
    """On one short line."""
    _, event = settled(outcome(bare, store, workspace, "make \\\n  " + "x" * 5000), store)
    assert event.title.startswith("make \\ xxx")
    assert len(event.title) < 100


def test_there_may_be_no_more(bare: Shell, store: Store, workspace: Path) -> None:
    """Which is found out when it is committed: others may have begun some meanwhile."""
    given = outcome(bare, store, workspace)
    session_id = bare.place.session.session_id

    def begin(tx: Transaction) -> None:
        fold = SessionWriter(tx, session_id, session=tx.get(SESSIONS, session_id))
        fold.append(SessionCreated(agent="default"))
        fold.append_all([task_created(f"t{number}", shell=True) for number in range(MAX_SESSION_SHELLS)])
        fold.write()

    update(store, begin)
    assert given.decide is not None
    with store.read() as snapshot, pytest.raises(ToolError, match="stop some first"):
        given.decide(snapshot)
