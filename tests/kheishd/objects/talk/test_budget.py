"""Budgets down the tree: reserved before a child starts, settled after it ends, and never exceeded."""

import tempfile
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from hypothesis.strategies import booleans, data, integers, sampled_from

from kheishd.core.run.commands import AcceptAnswer, BeginModelCall, FailModelCall, Start
from kheishd.objects.agents.spawn import prepare_spawn, spawn
from kheishd.objects.talk.budget import has_open_children, reserve, settle
from kheishd.records.doctor import examine_whole
from kheishd.records.writer import SessionWriter
from kheishd.store.environment import Transaction
from kheishd.store.tables import RUNS, SESSIONS
from protocol.budget import Budget
from protocol.errors.budget import BudgetExhausted
from protocol.errors.rpc import InvalidParams
from protocol.errors.token import ScopeWouldWiden
from protocol.events.run import InputReceived
from protocol.events.session import SessionCreated, SessionEnded
from protocol.objects.agent import SpawnRequest
from protocol.objects.session import Session
from protocol.transcript import Text, Usage
from tests.support.families import root, until, until_closed
from tests.support.families import spawn as spawn_agent
from tests.support.household import Household, household
from tests.support.machine import ERROR, acceptance
from tests.support.runtimes import make_runtime
from tests.support.stores import open_inline, update


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[Household]:
    """Serve a daemon with workers; each answer takes as many tokens as it has characters, and one."""
    async with household(tmp_path) as house:
        yield house


async def budget_of(house: Household, session_id: str) -> Any:
    """Return the use of a session's budget."""
    return (await house.call("session.get", session_id=session_id)).get("budget_use")


async def count_tokens(house: Household, session_id: str) -> int:
    """Return the tokens that a session's own calls took."""
    usage = (await house.call("session.get", session_id=session_id))["usage"]
    return int(usage["input_tokens"] + usage["output_tokens"])


async def send(house: Household, session_id: str, content: str = "hello", **params: Any) -> Any:
    """Send a message and wait until its run has settled."""
    return await house.call("session.send", session_id=session_id, content=content, wait="settled", **params)


# A session.


async def test_a_session_counts_its_calls(house: Household) -> None:
    """Tokens of each answer count against the budget, and session.get shows what is left."""
    session_id = await root(house, budget={"max_tokens": 100, "max_work_s": 60})
    sent = await send(house, session_id)
    tokens = sent["usage"]["input_tokens"] + sent["usage"]["output_tokens"]
    use = await budget_of(house, session_id)
    assert use["given"] == {"max_tokens": 100, "max_work_s": 60}
    assert use["used"]["tokens"] == tokens
    assert use["left"]["tokens"] == 100 - tokens
    assert use["left"]["work_ms"] <= 60_000
    assert await budget_of(house, await root(house)) is None


async def test_no_call_begins_without_budget(house: Household) -> None:
    """The call that uses up the budget is the last one; later runs fail and say why."""
    session_id = await root(house, budget={"max_tokens": 2})
    assert (await send(house, session_id))["status"] == "completed"
    use = await budget_of(house, session_id)
    assert use["left"]["tokens"] <= 0
    calls = len(house.models.requests)
    sent = await send(house, session_id)
    assert (sent["status"], sent["error"]["reason"]) == ("failed", "session_token_budget")
    assert len(house.models.requests) == calls
    assert await budget_of(house, session_id) == use


async def test_the_last_answer_is_cut_off_where_the_budget_ends(house: Household) -> None:
    """The model is told how much it may answer: what the prompt leaves of the budget."""
    session_id = await root(house, budget={"max_tokens": 100_000})
    await send(house, session_id)
    limit = house.models.requests[-1].max_answer_tokens
    assert limit is not None
    assert 50_000 < limit < 100_000
    await send(house, await root(house))
    assert house.models.requests[-1].max_answer_tokens is None


async def test_the_working_time_of_a_session_is_limited(house: Household) -> None:
    """A run is stopped when the session's time is used up, and its answer until then is kept."""
    session_id = await root(house, budget={"max_work_s": 0.02})
    house.gate("hello")
    sent = await send(house, session_id)
    assert (sent["status"], sent["error"]["reason"]) == ("failed", "session_time_budget")
    assert (await budget_of(house, session_id))["left"]["work_ms"] <= 0


async def test_session_update_budget_exhausted(house: Household) -> None:
    """A budget is not narrowed below what is used already."""
    session_id = await root(house, budget={"max_tokens": 1000})
    await send(house, session_id)
    refusal = await house.refusal_of("session.update", session_id=session_id, budget={"max_tokens": 1})
    assert (type(refusal), refusal.field) == (BudgetExhausted, "$.params.budget.max_tokens")
    updated = await house.call("session.update", session_id=session_id, budget={"max_tokens": 500})
    assert updated["budget"] == {"max_tokens": 500}


async def test_a_root_gets_a_budget_later(house: Household) -> None:
    """It counts from then on; not while children run for which nothing is reserved."""
    session_id = await root(house)
    await send(house, session_id)
    await house.call("session.update", session_id=session_id, budget={"max_tokens": 100})
    assert (await budget_of(house, session_id))["used"] == {}
    child = await root(house, parent_session_id=session_id)
    refusal = await house.refusal_of("session.update", session_id=session_id, budget={"max_work_s": 5})
    assert (type(refusal), refusal.field) == (InvalidParams, "$.params.budget.max_work_s")
    await house.call("session.end", session_id=child)
    await house.call("session.update", session_id=session_id, budget={"max_work_s": 5})


# Children.


async def test_session_create_budget_exhausted(house: Household) -> None:
    """A child session gets a share, or what it asks for if that is left; its end returns the rest."""
    parent = await root(house, budget={"max_tokens": 700})
    first = await house.call("session.create", parent_session_id=parent)
    assert first["budget"] == {"max_tokens": 100}
    second = await house.call(
        "session.create", session_id="second", parent_session_id=parent, budget={"max_tokens": 500}
    )
    repeated = await house.call("session.create", session_id="second", parent_session_id=parent)
    assert repeated == second
    head = house.head()
    refusal = await house.refusal_of("session.create", parent_session_id=parent, budget={"max_tokens": 101})
    assert (type(refusal), refusal.field) == (BudgetExhausted, "$.params.budget.max_tokens")
    assert f"session {parent} has 100 tokens left, and the child asks for 101" in refusal.message
    assert house.head() == head
    sent = await send(house, "second")
    tokens = sent["usage"]["input_tokens"] + sent["usage"]["output_tokens"]
    await house.call("session.end", session_id="second")
    use = await budget_of(house, parent)
    assert use["reserved"] == {"tokens": 100}
    assert use["delegated"]["tokens"] == tokens
    assert use["left"]["tokens"] == 600 - tokens


async def test_a_childs_budget_only_narrows(house: Household) -> None:
    """What a parent has given is no child's to change."""
    parent = await root(house, budget={"max_tokens": 700})
    child = await root(house, parent_session_id=parent)
    for budget in (None, {"max_tokens": 101}, {}):
        refusal = await house.refusal_of("session.update", session_id=child, budget=budget)
        assert (type(refusal), refusal.field) == (ScopeWouldWiden, "$.params.budget.max_tokens")
    await house.call("session.update", session_id=child, budget={"max_tokens": 50})


async def test_session_fork_budget_exhausted(house: Household) -> None:
    """A fork of a child is one more child, with as much of its parent's budget."""
    parent = await root(house, budget={"max_tokens": 1000})
    child = await root(house, parent_session_id=parent, budget={"max_tokens": 400})
    fork = await house.call("session.fork", session_id=child)
    assert fork["budget"] == {"max_tokens": 400}
    refusal = await house.refusal_of("session.fork", session_id=child)
    assert type(refusal) is BudgetExhausted
    assert (await house.call("session.fork", session_id=parent))["budget"] == {"max_tokens": 1000}


# Agents.


async def test_agent_spawn_budget_exhausted(house: Household) -> None:
    """A spawn reserves before the agent starts, and its refusal and its dry run name the remainder."""
    parent = await root(house, budget={"max_tokens": 1000})
    request = {"parent": parent, "name": "scout", "prompt": "look", "budget": {"max_tokens": 1001}}
    refusal = await house.refusal_of("agent.spawn", **request)
    assert (type(refusal), refusal.field) == (BudgetExhausted, "$.params.budget.max_tokens")
    assert f"session {parent} has 1000 tokens left" in refusal.message
    explained = await house.call("agent.explain", spawn=request)
    assert (explained["allowed"], explained["reason"]) == (False, "budget_exhausted")
    refusal = await house.refusal_of("agent.spawn", **(request | {"budget": {"max_cost": 1}}))
    assert (type(refusal), refusal.field) == (InvalidParams, "$.params.budget.max_cost")


async def test_agents_of_a_tree_show_their_budgets(house: Household) -> None:
    """Each node states what it was given, what is used, reserved and left; the end of an agent settles."""
    parent = await root(house, budget={"max_tokens": 1000})
    scout = await spawn_agent(house, parent, budget={"max_tokens": 600})
    helper = await spawn_agent(house, scout["agent_id"], "helper", budget={"max_tokens": 200})
    await until(house, scout["agent_id"], "idle")
    await until(house, helper["agent_id"], "idle")
    listed = (await house.call("agent.list", root=parent))["agents"]
    nodes = {node["agent_id"]: node["budget"] for node in listed}
    assert nodes[parent]["reserved"] == {"tokens": 600}
    assert nodes[scout["agent_id"]]["given"] == {"max_tokens": 600}
    assert nodes[scout["agent_id"]]["reserved"] == {"tokens": 200}
    own = nodes[scout["agent_id"]]
    assert own["left"] == {"tokens": 400 - own["used"]["tokens"]}
    await house.call("agent.close", agent=scout["agent_id"])
    await until_closed(house, scout["agent_id"])
    spent = [await count_tokens(house, agent["agent_id"]) for agent in (scout, helper)]
    use = await budget_of(house, parent)
    assert use["delegated"]["tokens"] == sum(spent)
    assert use["left"]["tokens"] == 1000 - use["used"].get("tokens", 0) - sum(spent)
    settled = await house.events(session_id=parent, types=["budget_settled"])
    assert [event["child_id"] for event in settled] == [scout["agent_id"]]
    assert examine_whole(house.state.read, deep=True).findings == []


async def test_the_budget_of_a_child_outlives_its_parent(house: Household) -> None:
    """Where a session ends before its child, the child's part stays reserved above until it ends."""
    top = await root(house, budget={"max_tokens": 1000})
    middle = await root(house, parent_session_id=top, budget={"max_tokens": 600})
    inner = await root(house, parent_session_id=middle, budget={"max_tokens": 300})
    await house.call("session.end", session_id=middle)
    use = await budget_of(house, top)
    assert (use["reserved"]["tokens"], use["left"]["tokens"]) == (300, 700)
    assert use["delegated"] == {}
    await house.call("session.end", session_id=inner)
    use = await budget_of(house, top)
    assert (use["reserved"], use["left"]["tokens"]) == ({}, 1000)
    assert examine_whole(house.state.read, deep=True).findings == []


async def test_a_run_with_a_budget_gives_parts_of_it_away(house: Household) -> None:
    """A run's own budget limits the agents that it spawns, in a session without a budget, too."""
    parent = await root(house)
    gate = house.gate("hello")

    sent = await house.call("session.send", session_id=parent, content="hello", budget={"max_tokens": 100})
    run_id = sent["run_id"]
    await gate.reached.wait()
    runtime = house.holder.current()

    def request(name: str, tokens: int) -> Any:
        spawn_request = SpawnRequest(name=name, prompt="look", budget=Budget(max_tokens=tokens))
        plan = prepare_spawn(
            house.state, runtime, spawn_request, parent_id=parent, request_id=name, run_id=run_id
        )
        return lambda tx: spawn(tx, runtime, plan)

    agent = await house.state.update(request("a", 60))
    with pytest.raises(BudgetExhausted, match=f"of the run {run_id} has 40 tokens left"):
        await house.state.update(request("b", 41))
    assert (await house.call("run.get", run_id=run_id))["reserved"] == {"tokens": 60}
    await until(house, agent.agent_id, "idle")
    await house.call("agent.close", agent=agent.agent_id)
    await until_closed(house, agent.agent_id)
    run = await house.call("run.get", run_id=run_id)
    assert "reserved" not in run or run["reserved"] == {}
    assert run["delegated"]["tokens"] > 0
    gate.opened.set()
    assert (await house.call("run.wait", run_id=run_id))["status"] == "completed"


# The law.

MAX_CALL_TOKENS = 30


class Budgets(RuleBasedStateMachine):
    """Trees of sessions that spend, reserve, narrow and end in any order, over a real store.

    ``spent`` is the test's own count of the tokens of each session.
    """

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.path = Path(self.directory.name) / "state"
        self.store = open_inline(self.path)
        self.runtime = make_runtime()
        self.sessions: list[str] = []
        self.parents: dict[str, str | None] = {}
        self.spent: dict[str, int] = {}
        self.runs = 0

    def teardown(self) -> None:
        """Examine the store, and remove it."""
        assert examine_whole(self.store.read, deep=True).findings == []
        self.store.close()
        self.directory.cleanup()

    @initialize()
    def first(self) -> None:
        """Create a root with a budget."""
        self.add("s0", None, Budget(max_tokens=500))

    def add(self, session_id: str, parent_id: str | None, requested: Budget | None) -> None:
        """Create a session."""

        def create(tx: Transaction) -> None:
            budget, root_id = requested, None
            if parent_id is not None:
                parent = tx.need(SESSIONS, parent_id)
                budget = reserve(tx, self.runtime, parent, requested, child_id=session_id)
                root_id = "s0"
            writer = SessionWriter(tx, session_id, session=None)
            writer.append(
                SessionCreated(agent="a", parent_session_id=parent_id, root_session_id=root_id, budget=budget)
            )
            writer.write()

        update(self.store, create)
        self.sessions.append(session_id)
        self.parents[session_id] = parent_id
        self.spent[session_id] = 0

    @rule(draw=data(), tokens=integers(0, 300))
    def create(self, draw: Any, tokens: int) -> None:
        """Create a child with what it asks for, or with a share."""
        parent_id = draw.draw(sampled_from(self.sessions))
        if self.read()[parent_id].status == "open":
            with suppress(BudgetExhausted):
                self.add(f"s{len(self.sessions)}", parent_id, Budget(max_tokens=tokens) if tokens else None)

    @rule(draw=data(), tokens=integers(1, MAX_CALL_TOKENS), fails=booleans())
    def spend(self, draw: Any, tokens: int, fails: bool) -> None:
        """Let a session call its model once."""
        session_id = draw.draw(sampled_from(self.sessions))
        self.runs += 1
        run_id = f"r{self.runs}"

        def call(tx: Transaction) -> int:
            session = tx.need(SESSIONS, session_id)
            if session.status == "ended":
                return 0
            writer = SessionWriter(tx, session_id, session=session)
            writer.append(InputReceived(input_id="inp_1", items=[Text("x")]), run_id=run_id)
            writer.append(acceptance(), run_id=run_id)
            writer.carry_out(Start())
            writer.carry_out(BeginModelCall("itm_1"))
            is_begun = writer.run.ended_at_ms is None
            if is_begun and fails:
                writer.carry_out(FailModelCall(ERROR, None, Usage(tokens, 0)))
            elif is_begun:
                writer.carry_out(AcceptAnswer([Text("x")], Usage(tokens - 1, 1), "end", None))
            writer.write()
            return tokens if is_begun else 0

        self.spent[session_id] += update(self.store, call)

    @rule(draw=data())
    def end(self, draw: Any) -> None:
        """End a session without open children, perhaps for the second time; settle it twice."""
        session_id = draw.draw(sampled_from(self.sessions[1:] or ["s0"]))

        def finish(tx: Transaction) -> None:
            session = tx.need(SESSIONS, session_id)
            if session.parent_session_id is None or has_open_children(tx, session):
                return
            writer = SessionWriter(tx, session_id, session=session)
            if session.status == "open":
                writer.append(SessionEnded())
            writer.write()
            settle(tx, writer.session)
            settle(tx, writer.session)

        update(self.store, finish)

    @rule()
    def restart(self) -> None:
        """Close the store and open it again."""
        self.store.close()
        self.store = open_inline(self.path)

    @rule(draw=data())
    def die(self, draw: Any) -> None:
        """Abort a transaction after it has reserved: nothing of it remains."""
        parent_id = draw.draw(sampled_from(self.sessions))

        def reserve_and_die(tx: Transaction) -> None:
            with suppress(BudgetExhausted):
                reserve(tx, self.runtime, tx.need(SESSIONS, parent_id), None, child_id="never")
            raise InterruptedError

        with suppress(InterruptedError):
            update(self.store, reserve_and_die)

    def read(self) -> dict[str, Session]:
        """Return all sessions."""
        with self.store.read() as snapshot:
            assert all(run.ended_at_ms is not None for _, run in snapshot.scan(RUNS))
            return {key[0]: session for key, session in snapshot.scan(SESSIONS)}

    def below(self, session_id: str) -> list[str]:
        """Return a session and all sessions below it."""
        children = [child for child, parent in self.parents.items() if parent == session_id]
        return [session_id, *(each for child in children for each in self.below(child))]

    @invariant()
    def nothing_exceeds_what_was_given(self) -> None:
        """Compare each account with its budget, but for one last answer of each session."""
        for session_id, session in self.read().items():
            if session.budget is None or session.account is None:
                continue
            account, tree = session.account, self.below(session_id)
            reserved = sum(item.amounts.tokens for item in account.reserved)
            taken = account.used.tokens + account.delegated.tokens + reserved
            assert taken <= session.budget.max_tokens + len(tree) * (MAX_CALL_TOKENS - 1)
            assert account.used.tokens == self.spent[session_id]
            open_below = [child for child in tree[1:] if self.read()[child].status == "open"]
            if not open_below:
                assert reserved == 0
                assert account.used.tokens + account.delegated.tokens == sum(map(self.spent.get, tree))  # type: ignore[arg-type]


TestBudgets = Budgets.TestCase
TestBudgets.settings = settings(max_examples=12, stateful_step_count=25, deadline=None)
