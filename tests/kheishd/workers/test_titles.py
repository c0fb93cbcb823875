"""Titles: a session is named once, in the background, without delaying its runs."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kheishd.config.sections.titles import TitlesSection
from kheishd.core.run.budget import calculate_cost
from kheishd.kernel.runtime import ModelEvent, ModelRequest, RouteSpec
from kheishd.objects.talk import session
from kheishd.workers.runs.worker import RunWorker
from kheishd.workers.titles import MAX_AT_ONCE, MAX_RUNS, TitleWorker
from protocol.budget import Cost, Prices
from protocol.events.session import SessionRenamed
from protocol.objects.session import CredentialScope, SessionRename, SessionUpdate
from protocol.transcript import Usage, text_of
from tests.support.desk import Desk, Gate, Scripted, fails, open_desk, says

LOCAL = {"local": RouteSpec("local", "openai", "m")}


@asynccontextmanager
async def naming(directory: Path, models: Scripted, **runtime: Any) -> AsyncIterator[Desk]:
    """Open a desk with a run worker and a title worker."""
    fields: dict[str, Any] = {"routes": LOCAL, "default_route": "local", "titles": TitlesSection(auto=True)}
    async with open_desk(directory, models, **(fields | runtime)) as desk, trio.open_nursery() as nursery:
        titles = TitleWorker(desk.services)
        await nursery.start(titles.serve)
        await nursery.start(RunWorker(desk.services, on_release=titles.consider).serve)
        yield desk
        nursery.cancel_scope.cancel()


def titling(text: str = "Sailing a small boat") -> Scripted:
    """Models that give every session this title."""
    return Scripted(summary_answers=[lambda request: says(text)])


async def final_title(desk: Desk, session_id: str) -> str | None:
    """Return a session's title once every task is idle."""
    await wait_all_tasks_blocked()
    return desk.session(session_id).title


async def test_a_session_is_named_after_its_first_answer(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The model that answered names the session, once, and the usage of the call is counted."""
    models = titling()
    async with naming(tmp_path, models) as desk:
        session_id = (await desk.ask("How do I sail?")).session_id
        assert await final_title(desk, session_id) == "Sailing a small boat"
        (request,) = models.summary_requests
        assert (request.purpose, request.pinned.model, request.tools) == ("title", "m", ())
        assert "User: How do I sail?" in text_of(request.messages[0].items)
        assert "Agent: You said: How do I sail?" in text_of(request.messages[0].items)
        assert desk.session(session_id).usage == Usage(1, 1) + Usage(1, 1)
        ((envelope, _),) = [
            entry for entry in desk.journal(session_id) if isinstance(entry[1], SessionRenamed)
        ]
        assert (envelope.actor, envelope.run_id) == ("daemon", None)
        await desk.ask("And a large one?")
        assert len(models.summary_requests) == 1


async def test_a_title_delays_no_run(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The next run starts before the title is there; a title that a client set meanwhile stays."""
    gate = Gate("", "Sailing")
    models = Scripted(summary_answers=[gate])
    async with naming(tmp_path, models) as desk:
        session_id = (await desk.ask("one")).session_id
        await gate.reached.wait()
        assert (await desk.ask("two")).status == "completed"
        assert len(models.summary_requests) == 1
        await desk.do(session.rename, SessionRename(session_id=session_id, title="Mine"))
        gate.opened.set()
        assert await final_title(desk, session_id) == "Mine"


@pytest.mark.parametrize(
    "models",
    [
        Scripted(summary_answers=[lambda request: fails("overloaded")]),
        Scripted(summary_answers=[lambda request: says("word " * 50)]),
        Scripted(summary_answers=[Gate()]),
    ],
    ids=["a failure", "no title", "no answer"],
)
async def test_a_failure_is_silent_and_retried_a_few_times(
    tmp_path: Path, autojump_clock: MockClock, models: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    """Each of the first few runs tries to name the session; later runs do not."""
    async with naming(tmp_path, models) as desk:
        for number in range(MAX_RUNS + 2):
            session_id = (await desk.ask(str(number))).session_id
            await wait_all_tasks_blocked()
            autojump_clock.jump(100)
            await wait_all_tasks_blocked()
        assert desk.session(session_id).title is None
        assert len(models.summary_requests) == MAX_RUNS
    assert caplog.messages == []


async def test_few_sessions_are_named_at_once(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A session beyond the limit stays untitled until its next answer."""
    gate = Gate("", "Sailing")
    models = Scripted(summary_answers=[gate])
    async with naming(tmp_path, models) as desk:
        for number in range(MAX_AT_ONCE + 2):
            sent = await desk.ask("hello", sender=f"sender {number}")
        await wait_all_tasks_blocked()
        assert len(models.summary_requests) == MAX_AT_ONCE
        gate.opened.set()
        await wait_all_tasks_blocked()
        assert desk.session(sent.session_id).title is None
        await desk.ask("again", sender=f"sender {MAX_AT_ONCE + 1}")
        assert await final_title(desk, sent.session_id) == "Sailing"


async def test_some_sessions_are_not_named(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A failed run, the offline model, a disabled configuration and a forbidden route lead to no title."""
    models = titling()
    models.answers_to["fail"] = lambda request: fails("unauthorized", retryable=False)
    async with naming(tmp_path / "a", models) as desk:
        await desk.ask("fail")
        await wait_all_tasks_blocked()
        assert models.summary_requests == []
    offline: dict[str, Any] = {
        "routes": {"offline": RouteSpec("offline", "offline", "m")},
        "default_route": "offline",
    }
    for number, runtime in enumerate((offline, {"titles": TitlesSection()})):
        async with naming(tmp_path / str(number), models, **runtime) as desk:
            assert await final_title(desk, (await desk.ask("hello")).session_id) is None
            assert models.summary_requests == []
    async with naming(tmp_path / "routes", models) as desk:
        sent = await desk.send("hello")
        scope = CredentialScope(routes=[])
        await desk.do(session.update, SessionUpdate(session_id=sent.session_id, credential_scope=scope))
        assert await final_title(desk, sent.session_id) is None


async def test_an_unreadable_or_missing_run_is_ignored(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The title worker raises nothing about a damaged store, which is logged once."""
    async with naming(tmp_path, titling()) as desk:
        sent = await desk.ask("hello")
        await wait_all_tasks_blocked()
        titles = TitleWorker(desk.services)
        async with trio.open_nursery() as nursery:
            await nursery.start(titles.serve)
            titles.consider("run_none")
            await desk.corrupt_run(sent.run_id)
            titles.consider(sent.run_id)
            nursery.cancel_scope.cancel()
    assert len(caplog.messages) == 1
    assert "the store is damaged" in caplog.messages[0]


async def test_the_cost_of_a_title_is_counted(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The session bears the cost, at the prices that its run pinned."""
    prices = Prices(currency="USD", input=3_000_000, output=4_000_000)
    routes = {"local": RouteSpec("local", "openai", "m", prices=prices)}
    async with naming(tmp_path, titling(), routes=routes) as desk:
        session_id = (await desk.ask("How do I sail?")).session_id
        assert await final_title(desk, session_id) == "Sailing a small boat"
        assert desk.session(session_id).costs == [Cost(2 * (3 + 4), "USD")]


async def test_another_route_gives_the_title(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A title falls over as a run does; its cost is that of the route that answered."""
    prices = Prices(currency="EUR", input=1_000_000, output=1_000_000)
    routes = {
        "local": RouteSpec(
            "local", "openai", "m", prices=Prices(currency="EUR", input=5, output=5), fallback=("spare",)
        ),
        "spare": RouteSpec("spare", "openai", "n", prices=prices),
    }

    def busy(request: ModelRequest) -> AsyncIterator[ModelEvent]:
        return fails("overloaded", status=529) if request.pinned.route == "local" else says("Sailing")

    models = Scripted(summary_answers=[busy])
    async with naming(tmp_path, models, routes=routes) as desk:
        session_id = (await desk.ask("How do I sail?")).session_id
        assert await final_title(desk, session_id) == "Sailing"
        assert [request.pinned.route for request in models.summary_requests] == ["local", "spare"]
        (renamed,) = [event for _, event in desk.journal(session_id) if isinstance(event, SessionRenamed)]
        assert renamed.cost == calculate_cost(renamed.usage, prices)
