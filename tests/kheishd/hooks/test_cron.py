"""The tools by which agents wake themselves: what they create, and the limits."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from msgspec.structs import replace

from kheishd.hooks import cron as tools
from kheishd.hooks.composite import CompositeHook
from kheishd.kernel.hook import RunContext
from kheishd.objects.wake.cron import create_cron
from kheishd.store.tables import CRONS, RUNS, SESSIONS
from kheishd.workers.cron import CronWorker
from protocol.events.cron import CronCreated
from protocol.limits.wake import MAX_WAKE_PROMPT_BYTES
from protocol.objects.cron import Cron
from protocol.objects.wake import WakeTarget
from protocol.transcript import ToolCall, ToolResult, text_of
from tests.support.clocks import SetClock
from tests.support.desk import Desk, gives, open_desk, says, working


@asynccontextmanager
async def waking(directory: Path) -> AsyncIterator[Desk]:
    """Provide a desk with the tools of schedules, and the worker that fires them."""
    clock = SetClock()
    async with (
        open_desk(directory, hooks=CompositeHook((tools.CronTools(offered=True),))) as desk,
        working(desk),
        trio.open_nursery() as nursery,
    ):
        clock.govern(desk)
        await nursery.start(CronWorker(desk.services, lambda now_ms: clock).serve)
        yield desk
        nursery.cancel_scope.cancel()


async def call(desk: Desk, tool: str, **arguments: Any) -> str:
    """Return the result of a call in a run; an approval is given."""
    use = ToolCall("c1", tool, arguments)
    desk.models.answers = [lambda request: gives(use), lambda request: says("ok")]
    sent = await desk.ask("go")
    if sent.status == "waiting_for_approval":
        await desk.allow(sent.run_id)
    (result,) = desk.models.requests[-1].messages[-1].items
    assert isinstance(result, ToolResult)
    return result.text


def entries(desk: Desk) -> list[Cron]:
    """Return all entries."""
    with desk.state.read() as store:
        return [cron for _, cron in store.scan(CRONS)]


async def test_an_agent_wakes_itself_later(tmp_path: Path, autojump_clock: Any) -> None:
    """It is woken in its own session with its task, as a delegated one; the entry is gone then."""
    async with waking(tmp_path) as desk:
        made = msgspec.json.decode(await call(desk, "wake_after", seconds=600, prompt="look again"))
        (cron,) = entries(desk)
        assert made["schedule_id"] == cron.cron_id
        assert (cron.source, cron.authority, cron.origins) == ("agent", "agent", ["person", "agent"])
        assert cron.root_session_id == cron.owner_session_id == cron.target.session_id
        await desk.until(lambda: not entries(desk))
        message = desk.models.requests[-1].messages[-1]
        assert text_of(message.items) == f'<task source="cron:{cron.cron_id}">\nlook again\n</task>'
        run_id = desk.session(cron.target.session_id or "").session_id
        assert run_id
        at = datetime.fromtimestamp(desk.state.now_ms() / 1000 + 90_000, UTC).isoformat(timespec="minutes")
        assert "schedule_id" in await call(desk, "wake_at", time=at, prompt="x", timezone="Europe/Paris")


async def test_an_agent_keeps_a_schedule(tmp_path: Path, autojump_clock: Any) -> None:
    """A person approves it; the agent lists and deletes it, and no other entry."""
    async with waking(tmp_path) as desk:
        made = msgspec.json.decode(await call(desk, "schedule_create", schedule="every 30m", prompt="look"))
        listed = msgspec.json.decode(await call(desk, "schedule_list"))["schedules"]
        assert [entry["schedule_id"] for entry in listed] == [made["schedule_id"]]
        await desk.until(lambda: [row.outcome for row in entries(desk)[0].recent] == ["completed"])
        other = CronCreated(
            cron_id="other",
            schedule="@daily",
            target=WakeTarget(agent="default", prompt="x"),
            next_due_ms=None,
        )
        await desk.state.update(lambda tx: create_cron(tx, other))
        assert "you have no schedule 'other'" in await call(desk, "schedule_delete", schedule_id="other")
        assert "is deleted" in await call(desk, "schedule_delete", schedule_id=made["schedule_id"])
        assert [cron.cron_id for cron in entries(desk)] == ["other"]


@pytest.mark.parametrize(
    ("tool", "arguments", "words"),
    [
        ("schedule_create", {"schedule": "every 30s", "prompt": "x"}, "the shortest period is 60 s"),
        ("schedule_create", {"schedule": "* * *", "prompt": "x"}, "3 fields"),
        ("schedule_create", {"schedule": "@daily", "prompt": "x", "timezone": "Mars/Base"}, "no time zone"),
        ("schedule_create", {"schedule": "@daily", "prompt": "x", "wake_parent": True}, "no parent"),
        ("wake_at", {"time": "2001-01-01T00:00", "prompt": "x"}, "has passed"),
        ("wake_after", {"seconds": 59, "prompt": "x"}, "60"),
        ("wake_after", {"seconds": 60, "prompt": " "}, "blank"),
        ("wake_after", {"seconds": 60, "prompt": "ä" * (MAX_WAKE_PROMPT_BYTES - 1)}, "takes more than"),
    ],
)
async def test_bad_schedules_are_errors_for_the_model(
    tmp_path: Path, autojump_clock: Any, tool: str, arguments: dict[str, Any], words: str
) -> None:
    """The message says what to do instead, and nothing is created."""
    async with waking(tmp_path) as desk:
        assert words in await call(desk, tool, **arguments)
        assert entries(desk) == []


async def test_a_tree_has_a_maximum_of_schedules(
    tmp_path: Path, autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agents of one tree share the limit."""
    async with waking(tmp_path) as desk:
        monkeypatch.setattr(tools, "MAX_CRONS_OF_TREE", 1)
        assert "schedule_id" in await call(desk, "wake_after", seconds=10**6, prompt="x")
        assert "the maximum" in await call(desk, "wake_after", seconds=10**6, prompt="x")


async def test_the_entries_of_an_ended_session_go(tmp_path: Path, autojump_clock: Any) -> None:
    """Nobody is to be told of them: they are completed, and deleted."""
    async with waking(tmp_path) as desk:
        await call(desk, "schedule_create", schedule="every 30m", prompt="look")
        (cron,) = entries(desk)

        def end(tx: Any) -> None:
            session = tx.need(SESSIONS, cron.owner_session_id)
            tx.put(SESSIONS, session.session_id, value=replace(session, status="ended"))

        await desk.state.update(end)
        await desk.until(lambda: not entries(desk))


async def test_the_tools_are_offered_to_agents_that_name_them(tmp_path: Path) -> None:
    """A prompt without them is as short as before; the setting offers them to all."""
    for offered, named, count in ((False, None, 0), (False, ["wake_at"], 1), (True, None, 5)):
        async with open_desk(tmp_path / f"{offered}{named}") as desk:
            sent = await desk.send()
            context = RunContext(
                desk.session(sent.session_id),
                desk.run(sent.run_id),
                replace(desk.pinned(sent.run_id), tools=named),
                "/",
                "off",
                desk.state,
            )
            assert len(tools.CronTools(offered=offered).offer(context)) == count


async def test_a_wake_does_not_end_the_chain_of_events(tmp_path: Path, autojump_clock: Any) -> None:
    """The run that an agent's entry wakes is one hop deeper than its creator; none comes within a minute."""
    async with waking(tmp_path) as desk:
        await call(desk, "wake_after", seconds=60, prompt="again")
        assert entries(desk)[0].hops == 1
        await desk.until(lambda: not entries(desk))
        with desk.state.read() as store:
            assert sorted(run.hops for _, run in store.scan(RUNS)) == [0, 1]
        soon = datetime.fromtimestamp(desk.state.now_ms() / 1000 + 30, UTC).isoformat(timespec="seconds")
        assert "less than a minute" in await call(desk, "wake_at", time=soon, prompt="x")
