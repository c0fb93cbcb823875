"""Naming conversations: once, in the background, and never in anybody's way."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kheishd.kernel.runtime import RouteSpec
from kheishd.objects.talk import session
from kheishd.workers.runs.worker import RunWorker
from kheishd.workers.titles import MAX_AT_ONCE, MAX_RUNS, Titles
from protocol.budget import Cost, Prices
from protocol.events.session import SessionRenamed
from protocol.objects.session import SessionRename
from protocol.transcript import Usage, text_of
from tests.support.desk import Desk, Gate, Scripted, fails, open_desk, says

LOCAL = {"local": RouteSpec("local", "openai", "m")}


@asynccontextmanager
async def named(directory: Path, models: Scripted, **runtime: Any) -> AsyncIterator[Desk]:
    """A desk whose conversations are named."""
    fields: dict[str, Any] = {"routes": LOCAL, "default_route": "local", "titles": True}
    async with open_desk(directory, models, **(fields | runtime)) as desk, trio.open_nursery() as nursery:
        titles = Titles(desk.state, desk.holder)
        worker = RunWorker(desk.state, desk.live, desk.holder, put_down=titles.consider)
        await nursery.start(titles.serve)
        await nursery.start(worker.serve)
        yield desk
        nursery.cancel_scope.cancel()


def titled(text: str = "Sailing a small boat") -> Scripted:
    """Models that give conversations this title."""
    return Scripted(summaries=[lambda request: says(text)])


async def title(desk: Desk, session_id: str) -> str | None:
    """A session's title, once everything has come to rest."""
    await wait_all_tasks_blocked()
    return desk.session(session_id).title


async def test_a_conversation_is_named_after_its_first_answer(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """By the model that answered, once; what it took is counted."""
    models = titled()
    async with named(tmp_path, models) as desk:
        session_id = (await desk.ask("How do I sail?")).session_id
        assert await title(desk, session_id) == "Sailing a small boat"
        (request,) = models.summed
        assert (request.purpose, request.pinned.model, request.tools) == ("title", "m", ())
        assert "User: How do I sail?" in text_of(request.messages[0].items)
        assert "Agent: You said: How do I sail?" in text_of(request.messages[0].items)
        assert desk.session(session_id).usage == Usage(1, 1) + Usage(1, 1)
        ((envelope, _),) = [
            found for found in desk.journal(session_id) if isinstance(found[1], SessionRenamed)
        ]
        assert (envelope.actor, envelope.run_id) == ("daemon", None)
        await desk.ask("And a large one?")
        assert len(models.summed) == 1


async def test_nobody_waits_for_a_title(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The next run goes on meanwhile; a title that somebody gave meanwhile stays."""
    gate = Gate("", "Sailing")
    models = Scripted(summaries=[gate])
    async with named(tmp_path, models) as desk:
        session_id = (await desk.ask("one")).session_id
        await gate.reached.wait()
        assert (await desk.ask("two")).status == "completed"
        assert len(models.summed) == 1
        await desk.do(session.rename, SessionRename(session_id=session_id, title="Mine"))
        gate.opened.set()
        assert await title(desk, session_id) == "Mine"


@pytest.mark.parametrize(
    "models",
    [
        Scripted(summaries=[lambda request: fails("overloaded")]),
        Scripted(summaries=[lambda request: says("word " * 50)]),
        Scripted(summaries=[Gate()]),
    ],
    ids=["a failure", "no title", "no answer"],
)
async def test_where_it_fails_nothing_is_said(
    tmp_path: Path, autojump_clock: MockClock, models: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    """It is tried again after the next runs, and then no more."""
    async with named(tmp_path, models) as desk:
        for number in range(MAX_RUNS + 2):
            session_id = (await desk.ask(str(number))).session_id
            await wait_all_tasks_blocked()
            autojump_clock.jump(100)
            await wait_all_tasks_blocked()
        assert desk.session(session_id).title is None
        assert len(models.summed) == MAX_RUNS
    assert caplog.messages == []


async def test_few_are_named_at_once(tmp_path: Path, autojump_clock: MockClock) -> None:
    """More than a few have no title yet; their next answer brings one."""
    gate = Gate("", "Sailing")
    models = Scripted(summaries=[gate])
    async with named(tmp_path, models) as desk:
        for number in range(MAX_AT_ONCE + 2):
            sent = await desk.ask("hello", sender=f"sender {number}")
        await wait_all_tasks_blocked()
        assert len(models.summed) == MAX_AT_ONCE
        gate.opened.set()
        await wait_all_tasks_blocked()
        assert desk.session(sent.session_id).title is None
        await desk.ask("again", sender=f"sender {MAX_AT_ONCE + 1}")
        assert await title(desk, sent.session_id) == "Sailing"


async def test_who_is_not_named(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A session with a title, one whose run failed, one of the offline stand-in, and all if it is off."""
    models = titled()
    models.to["fail"] = lambda request: fails("unauthorized", retryable=False)
    async with named(tmp_path / "a", models) as desk:
        await desk.ask("fail")
        await wait_all_tasks_blocked()
        assert models.summed == []
    offline: dict[str, Any] = {
        "routes": {"offline": RouteSpec("offline", "offline", "m")},
        "default_route": "offline",
    }
    for number, other in enumerate((offline, {"titles": False})):
        async with named(tmp_path / str(number), models, **other) as desk:
            assert await title(desk, (await desk.ask("hello")).session_id) is None
            assert models.summed == []


async def test_a_damaged_record_is_somebody_elses_to_find(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing comes of a run that cannot be read, or is not there."""
    async with named(tmp_path, titled()) as desk:
        sent = await desk.ask("hello")
        await wait_all_tasks_blocked()
        titles = Titles(desk.state, desk.holder)
        async with trio.open_nursery() as nursery:
            await nursery.start(titles.serve)
            titles.consider("run_none")
            await desk.spoil(sent.run_id)
            titles.consider(sent.run_id)
            nursery.cancel_scope.cancel()
    assert caplog.messages == []


async def test_what_a_title_costs_is_counted(tmp_path: Path, autojump_clock: MockClock) -> None:
    """With the session that has it, at the prices of the run it was asked with."""
    prices = Prices(currency="USD", input=3_000_000, output=4_000_000)
    routes = {"local": RouteSpec("local", "openai", "m", prices=prices)}
    async with named(tmp_path, titled(), routes=routes) as desk:
        session_id = (await desk.ask("How do I sail?")).session_id
        assert await title(desk, session_id) == "Sailing a small boat"
        assert desk.session(session_id).costs == [Cost(2 * (3 + 4), "USD")]
