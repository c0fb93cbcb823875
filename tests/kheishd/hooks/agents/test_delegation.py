"""The tools by which agents delegate, used by runs of a daemon that is served inside the test."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from kheishd.config.sections.agents import AgentsSection
from kheishd.config.sections.config import Config
from kheishd.config.sections.runs import RunsSection
from kheishd.hooks.agents.delegation import Delegation
from kheishd.hooks.composite import CompositeHook
from kheishd.kernel.runtime import ModelEvent, ModelRequest
from protocol.transcript import ToolCall, ToolResult, text_of
from tests.support.desk import Gate, gives, says
from tests.support.families import root, until, until_closed
from tests.support.household import Household, household

Answer = Callable[[ModelRequest], AsyncIterator[ModelEvent]]


def use(tool: str, /, **arguments: Any) -> Answer:
    """Return an answer that calls a tool."""
    return lambda request: gives(ToolCall("c1", tool, arguments), stop_reason="tool_calls")


def results(request: ModelRequest) -> list[Any]:
    """Return the results that the model has not answered yet, decoded if they are JSON."""
    newest = [message for message in request.messages[-2:] if message.role != "assistant"]
    items = [item for message in newest for item in message.items if isinstance(item, ToolResult)]
    return [item.text if item.is_error else msgspec.json.decode(item.text) for item in items]


class Team:
    """A daemon whose agents delegate. ``orders`` are the answers to messages, by their texts."""

    def __init__(self, house: Household) -> None:
        self.house = house
        self.reports: list[Any] = []
        self.house.models.answers = [self._answer]
        self.orders: dict[str, Answer] = {}

    def _answer(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        framed = text_of(request.messages[-1].items)
        # The task of a child is framed as one that an agent gives.
        text = framed.split(">", 1)[1].rsplit("<", 1)[0].strip() if framed.startswith("<task") else framed
        if text in self.orders:
            return self.orders[text](request)
        if reports := results(request):
            self.reports += reports
            return says("done")
        return says(f"did {text}")

    async def order(self, session_id: str, answer: Answer) -> Any:
        """Let a session's model answer a message by a call; return the call's result."""
        self.orders["go"] = answer
        await self.house.call("session.send", session_id=session_id, content="go", wait="settled")
        return self.reports.pop()


CONFIG = Config(
    # A single slot: a parent that kept it while it waits would wait for ever.
    runs=RunsSection(max_active=1),
    agents=AgentsSection(max_spawns_per_run=20, max_children=20),
)


def form_team(house: Household) -> Team:
    """Give a daemon's agents the tools."""
    hooks = CompositeHook([Delegation(house.server.services)])
    house.holder.replace(replace(house.holder.current(), generation=2, load_hooks=lambda: hooks))
    return Team(house)


@pytest.fixture
async def team(tmp_path: Path) -> AsyncIterator[Team]:
    """Provide a daemon whose agents delegate."""
    async with household(tmp_path, config=CONFIG) as house:
        yield form_team(house)


async def test_an_agent_waits_for_its_child_and_gives_its_slot_away(team: Team) -> None:
    """With a single slot for runs, the child runs while its parent waits; the result is its output."""
    parent = await root(team.house)
    result = await team.order(parent, use("spawn_agent", name="Scout", prompt="look", wait=True))
    assert (result["path"], result["status"], result["final_output"]) == (
        f"{parent}/scout",
        "idle",
        "did look",
    )
    assert result["outcome"] == "completed"


async def test_a_task_is_a_text_or_texts_in_order(team: Team) -> None:
    """The child reads the items as one task, in their order."""
    items = [{"kind": "text", "text": text} for text in ("first, ", "then")]
    result = await team.order(
        await root(team.house), use("spawn_agent", name="x", input_items=items, wait=True)
    )
    (received,) = await team.house.events(session_id=result["agent_id"], types=["input_received"])
    assert received["items"] == items


async def test_a_child_in_the_background_does_not_hold_its_parent_up(team: Team) -> None:
    """The result says which run it began; the child is listed, shown and waited for later."""
    parent = await root(team.house)
    result = await team.order(parent, use("spawn_agent", name="scout", prompt="look"))
    assert result["status"] in ("queued", "running")
    assert "final_output" not in result
    waited = await team.order(parent, use("wait_agent", agent="scout"))
    assert waited["final_output"] == "did look"
    shown = await team.order(parent, use("get_agent", agent=result["nickname"]))
    assert shown["final_output"] == "did look"
    listed = await team.order(parent, use("list_agents"))
    assert [row["path"] for row in listed["agents"]] == [parent, f"{parent}/scout"]


async def test_tasks_are_done_at_once_and_reported_in_their_order(team: Team) -> None:
    """Each task has an agent of its own, which closes once it has settled; a refused one is reported."""
    parent = await root(team.house)
    tasks = [{"name": f"part {n}", "prompt": f"part {n}"} for n in range(3)]
    tasks.insert(1, {"name": "odd", "prompt": "x", "agent": "nobody"})
    result = await team.order(parent, use("delegate", tasks=tasks))
    outputs = [row.get("final_output") for row in result["results"]]
    assert outputs == ["did part 0", None, "did part 1", "did part 2"]
    assert "there is no agent 'nobody'" in result["results"][1]["problem"]
    for row in (result["results"][0], *result["results"][2:]):
        await until_closed(team.house, row["agent_id"])


async def test_a_call_that_a_restart_interrupted_finds_its_agents(tmp_path: Path) -> None:
    """The call is run again with the same key, so no agent is spawned twice."""
    async with household(tmp_path, work=False, config=CONFIG) as house:
        team = form_team(house)
        parent = await root(house)
        gate = team.orders["look"] = Gate()
        team.orders["go"] = use("spawn_agent", name="scout", prompt="look", wait=True)
        async with house.working():
            await house.call("session.send", session_id=parent, content="go")
            await gate.reached.wait()
        gate.opened.set()
        async with house.working():
            await until(house, parent, "idle")
        assert team.reports.pop()["final_output"] == "so far and so on"
        assert len((await house.call("agent.list"))["agents"]) == 1
        assert (await house.kinds(session_id=parent)).count("tool_called") == 2


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (use("spawn_agent", name="x", prompt="x", mode="bypassPermissions"), "permission_mode:"),
        (use("spawn_agent", name="x", prompt="x", agent="nobody"), "agent: there is no agent 'nobody'"),
        (use("spawn_agent", name="x", prompt="x", cwd="/etc"), "workspace:"),
        (use("spawn_agent", name="x"), "prompt: the agent has no task"),
        (
            use("spawn_agent", name="x", prompt="x", input_items=[{"kind": "text", "text": "x"}]),
            "prompt: give either 'prompt' or 'input_items'",
        ),
        (
            use(
                "spawn_agent",
                name="x",
                input_items=[{"kind": "text", "text": "x"}, {"kind": "asset", "asset_id": "a"}],
            ),
            "input_items[1].kind: this version takes only items of kind 'text'",
        ),
        (use("spawn_agent", name="x", prompt="x", scope={"tools": ["bash", "spawn_agent"]}), "scope.tools:"),
        (
            use("delegate", tasks=[{"name": "x", "prompt": "x", "agent": "nobody"}]),
            "task 'x': agent: there",
        ),
        (use("spawn_agent", name="x", prompt="x", nickname="x" * 65), "length <= 64 - at `$.nickname`"),
        (use("spawn_agent", name="x", prompt="x", nickname="\x1b[2J"), "nickname: a nickname is printable"),
        (use("spawn_agent", name="x", prompt="x", model="m\x1b[0m"), "at `$.model`"),
        (use("spawn_agent", name="x", prompt="x", model="m\n"), "at `$.model`"),
        (use("spawn_agent", name="x", prompt="x", model="m" * 257), "at `$.model`"),
        (use("spawn_agent", name="x", prompt="x", route="r\u202e"), "at `$.route`"),
        (use("delegate", tasks=[{"name": "x", "prompt": "x", "agent": "a" * 5000}]), "at `$.agent`"),
        (use("wait_agent", agent="nobody"), "there is no agent 'nobody' in this tree"),
        (use("get_agent", agent="nobody"), "there is no agent 'nobody' in this tree"),
    ],
)
async def test_a_refusal_names_the_argument(team: Team, answer: Answer, problem: str) -> None:
    """The model learns what it may not do, and goes on."""
    parent = await root(team.house, scope={"tools": ["spawn_agent", "delegate", "wait_agent", "get_agent"]})
    assert problem in await team.order(parent, answer)


async def test_agents_of_another_tree_and_above_are_out_of_reach(team: Team) -> None:
    """An agent waits for and closes agents below it only."""
    parent, other = await root(team.house), await root(team.house)
    stranger = await team.order(other, use("spawn_agent", name="stranger", prompt="look", wait=True))
    child = await team.order(parent, use("spawn_agent", name="scout", prompt="look", wait=True))
    for name in ("wait_agent", "close_agent"):
        for address in (stranger["agent_id"], stranger["nickname"]):
            assert "in this tree" in await team.order(parent, use(name, agent=address))
        for address in (parent, child["agent_id"]):
            assert "not an agent below you" in await team.order(child["agent_id"], use(name, agent=address))


async def test_an_agent_closes_an_agent_below_it(team: Team) -> None:
    """The close is that of a client: all agents below are closed, too."""
    parent = await root(team.house)
    child = await team.order(parent, use("spawn_agent", name="scout", prompt="look", wait=True))
    closing = await team.order(parent, use("close_agent", agent="scout", note="enough"))
    assert closing["state"] == "closing"
    closed = await until_closed(team.house, child["agent_id"])
    assert closed["close_note"] == "enough"
    # Once closed, it stays so, and the result says it.
    again = await team.order(parent, use("close_agent", agent=child["agent_id"]))
    assert again["state"] == "closed"
    rows = await team.house.events(session_id=child["agent_id"])
    assert rows[-3]["actor"] == f"agent:{parent}"


async def test_a_wait_ends_when_its_time_is_over_or_a_person_speaks(tmp_path: Path) -> None:
    """The state so far is returned, truthfully."""
    async with household(tmp_path) as house:
        team = form_team(house)
        parent = await root(house)
        gate = team.orders["slow"] = Gate()
        spawn = use("spawn_agent", name="s", prompt="slow", wait=True, timeout_s=0.01)
        spawned = await team.order(parent, spawn)
        assert spawned["status"] in ("queued", "running")
        await gate.reached.wait()
        team.orders["go"] = use("wait_agent", agent="s", timeout_s=3600)
        await house.call("session.send", session_id=parent, content="go")
        await until(house, parent, "running")
        await house.call("session.steer", session_id=parent, content="hurry")
        await until(house, parent, "idle")
        assert team.reports.pop()["status"] == "running"
        gate.opened.set()
        await until(house, spawned["agent_id"], "idle")


# Budgets.


async def test_agents_get_parts_of_the_budget(team: Team) -> None:
    """A task gets the tokens that are asked for, or a share; one that asks for too many is refused."""
    parent = await root(team.house, budget={"max_tokens": 10_000})
    tasks = [{"name": "a", "prompt": "a", "max_tokens": 500}, {"name": "b", "prompt": "b"}]
    tasks.append({"name": "c", "prompt": "c", "max_tokens": 50_000})
    report = await team.order(parent, use("delegate", tasks=tasks))
    assert "the budget 'max_tokens' of the session" in str(report)
    children = (await team.house.call("session.list", parent_session_id=parent, sidechains=True))["sessions"]
    given = sorted(child["budget"]["max_tokens"] for child in children)
    assert len(given) == 2
    assert 400 < given[0] < 500 == given[1]
    session = await team.house.call("session.get", session_id=parent)
    assert session["budget_use"]["left"]["tokens"] < 10_000


@pytest.mark.parametrize(
    "look",
    [use("wait_agent", agent="reader"), use("get_agent", agent="reader"), use("list_agents")],
    ids=["wait_agent", "get_agent", "list_agents"],
)
async def test_the_texts_of_an_agent_keep_their_origins(team: Team, look: Answer) -> None:
    """A run that reads an agent by a tool has the origins of everything that this agent has read."""
    parent = await root(team.house)
    spawned = await team.order(parent, use("spawn_agent", name="reader", prompt="be ready", wait=True))
    evil = {"content": "from outside", "origin": "connector"}
    await team.house.call("session.send", session_id=spawned["agent_id"], wait="settled", **evil)
    assert "connector" not in (await team.house.call("session.get", session_id=parent))["origins"]
    await team.order(parent, look)
    assert "connector" in (await team.house.call("session.get", session_id=parent))["origins"]
    (run, *_) = (await team.house.call("run.list", session_id=parent))["runs"]
    assert "connector" in (await team.house.call("run.get", run_id=run["run_id"]))["origins"]
