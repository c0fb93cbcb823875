"""The goal worker on a real store: continuations, reviews, budgets, failures, people, and restarts."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kheishd.hooks.composite import CompositeHook
from kheishd.hooks.goals import GoalTools
from kheishd.kernel.runtime import ModelEvent, ModelRequest, RouteSpec
from kheishd.objects.agents import goal as methods
from kheishd.objects.agents.mailbox import post_mail
from kheishd.objects.talk import conversation as conversations
from kheishd.objects.talk import session as sessions
from kheishd.objects.talk.send import send_to_session
from kheishd.store.tables import GOALS, GOALS_OPEN, RUNS, RUNS_BY_SESSION
from kheishd.workers.goals import GoalWorker
from kheishd.workers.mail import MailWorker
from protocol.budget import Budget, Prices
from protocol.events.goal import GoalContinued, GoalReviewed
from protocol.objects.conversation import ConversationReset
from protocol.objects.goal import Goal, GoalChange, GoalSetParams
from protocol.objects.mailbox import MailboxPost
from protocol.objects.session import CredentialScope, SessionCreate, SessionEnd, SessionSend, SessionUpdate
from protocol.transcript import Text, ToolCall, Usage, text_of
from tests.support.desk import Desk, Gate, ModelPart, Scripted, fails, gives, open_desk, says, working
from tests.support.runtimes import change_runtime


def judges(*verdicts: str) -> list[ModelPart]:
    """Return the answers of a judge, the last of them for ever."""

    def answer(verdict: str) -> ModelPart:
        text = verdict
        if not verdict.startswith("{"):
            text = msgspec.json.encode({"verdict": verdict, "reason": f"I see {verdict}."}).decode()

        async def part(request: ModelRequest) -> AsyncIterator[ModelEvent]:
            assert request.purpose == "judge"
            async for event in gives(Text(text)):
                yield event

        return part

    return [answer(verdict) for verdict in verdicts]


class Pursuit:
    """A desk with a session that has a goal."""

    def __init__(self, desk: Desk, session_id: str) -> None:
        self.desk = desk
        self.session_id = session_id

    async def set(self, objective: str = "Count to three.", **terms: Any) -> Goal:
        """Set the goal."""
        params = GoalSetParams(session_id=self.session_id, objective=objective, **terms)
        goal: Goal = await self.desk.do(methods.set_, params)
        return goal

    async def change(self, handler: Any) -> Goal:
        """Pause, resume or clear the goal."""
        goal: Goal = await self.desk.do(handler, GoalChange(session_id=self.session_id))
        return goal

    def goal(self) -> Goal:
        """Return the goal."""
        with self.desk.state.read() as store:
            return store.need(GOALS, self.session_id)

    async def until(self, status: str) -> Goal:
        """Wait until the goal has a status, and its use is counted."""
        await self.desk.until(lambda: self.goal().status == status and self.goal().run_id is None)
        return self.goal()

    def events(self, kind: type[Any]) -> list[Any]:
        """Return the events of a type."""
        return [event for _, event in self.desk.journal(self.session_id) if isinstance(event, kind)]

    def runs(self) -> list[Any]:
        """Return the records of all runs, in order."""
        with self.desk.state.read() as store:
            return [store.need(RUNS, run_id) for _, run_id in store.scan(RUNS_BY_SESSION, self.session_id)]


@asynccontextmanager
async def pursuing(desk: Desk) -> AsyncIterator[None]:
    """Serve the run worker and the goal worker, as a daemon does."""
    worker = GoalWorker(desk.services)
    async with working(desk), trio.open_nursery() as nursery:
        await nursery.start(worker.serve)
        yield
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def pursuit(directory: Path, *verdicts: str, **runtime: Any) -> AsyncIterator[Pursuit]:
    """Provide a session with one run, workers, and a judge with these verdicts."""
    models = Scripted(summary_answers=judges(*verdicts or ("done",)))
    hooks = CompositeHook((GoalTools(),))
    async with open_desk(directory, models, hooks=hooks, **runtime) as desk, pursuing(desk):
        sent = await desk.ask("hello")
        yield Pursuit(desk, sent.session_id)


@pytest.fixture
def clock(autojump_clock: MockClock) -> MockClock:
    """Return a clock that jumps."""
    return autojump_clock


async def test_the_daemon_continues_until_the_judge_says_done(tmp_path: Path) -> None:
    """Each continuation has a number and a reason, its input names the goal, and all use is counted."""
    async with pursuit(tmp_path, "not_done", "not_done", "done") as case:
        await case.set(done_when="three is said", constraints=["no four"])
        goal = await case.until("done")
        assert (goal.continuations, goal.evidence, goal.failures) == (3, "I see done.", 0)
        assert [event.reason for event in case.events(GoalContinued)] == [
            "the goal was set",
            "I see not_done.",
            "I see not_done.",
        ]
        runs = case.runs()
        assert [run.goal.number if run.goal else None for run in runs] == [None, 1, 2, 3]
        assert case.desk.run(runs[1].run_id).origins == ["program"]
        text = text_of(case.desk.models.requests[1].messages[-1].items)
        for part in ("Count to three.", "three is said", "no four", "Continuation 1 of at most 20"):
            assert part in text
        judged = Usage(1, 1) + Usage(1, 1) + Usage(1, 1)
        assert goal.usage == judged + runs[1].usage + runs[2].usage + runs[3].usage
        total = runs[0].usage + goal.usage
        assert case.desk.session(case.session_id).usage == total
        assert case.desk.count(GOALS_OPEN) == 0


async def test_the_judge_sees_the_last_work_and_no_person(tmp_path: Path) -> None:
    """The judge gets the goal and the continuation's record in one message, without tools."""
    async with pursuit(tmp_path) as case:
        await case.set(stop_when=["it is late"])
        await case.until("done")
        (request,) = case.desk.models.summary_requests
        assert request.tools == ()
        (message,) = request.messages
        text = text_of(message.items)
        assert "Stop when: it is late" in text
        assert "You said: [Continuation 1" in text
        assert "hello" not in text


async def test_a_judge_that_never_says_done_ends_by_max_continuations(tmp_path: Path) -> None:
    """The goal is exhausted after its continuations, and nothing continues any more."""
    async with pursuit(tmp_path, "not_done") as case:
        await case.set(max_continuations=3)
        goal = await case.until("exhausted")
        assert (goal.continuations, goal.note) == (3, "the goal has used its 3 continuations")
        await wait_all_tasks_blocked()
        assert len(case.runs()) == 4


async def test_a_condition_to_stop(tmp_path: Path) -> None:
    """The judge's stop ends the goal without its being done."""
    async with pursuit(tmp_path, "stop") as case:
        await case.set()
        assert (await case.until("stopped")).note == "I see stop."


async def test_the_agent_says_done(tmp_path: Path) -> None:
    """The agent's evidence ends the goal; no judge is asked, and its run is counted."""
    async with pursuit(tmp_path) as case:
        call = ToolCall("c1", "update_goal", {"status": "done", "evidence": "I counted."})
        case.desk.models.answers = [lambda request: gives(call), lambda request: says("There.")]
        await case.set()
        goal = await case.until("done")
        assert (goal.evidence, goal.continuations) == ("I counted.", 1)
        assert goal.usage == case.runs()[1].usage
        assert case.desk.models.summary_requests == []


async def test_without_a_judge_only_the_agent_ends_it(tmp_path: Path) -> None:
    """A goal without a judge makes no call of one."""
    async with pursuit(tmp_path) as case:
        await case.set(judge=False, max_continuations=2)
        await case.until("exhausted")
        assert case.desk.models.summary_requests == []


async def test_the_token_budget_ends_it(tmp_path: Path) -> None:
    """A continuation has what is left of the goal's budget, and the goal ends once it is used up."""
    async with pursuit(tmp_path, "not_done") as case:
        await case.set(budget=Budget(max_tokens=9))
        goal = await case.until("exhausted")
        assert "of its 9 tokens" in goal.note
        first, second = (case.desk.pinned(run.run_id).budget for run in case.runs()[1:3])
        assert (first and first.max_tokens, second and second.max_tokens) == (9, 9 - 2 - 2)


async def test_the_cost_ends_it(tmp_path: Path) -> None:
    """Continuations and the judge cost money, and the goal ends at its limit."""
    async with pursuit(tmp_path, "not_done") as case:
        runtime = case.desk.holder.current()
        prices = Prices(currency="EUR", input=100_000_000_000, output=0)
        route = msgspec.structs.replace(runtime.routes["offline"], prices=prices)
        case.desk.holder.replace(change_runtime(runtime, generation=2, routes={"offline": route}))
        await case.set(budget=Budget(max_cost=0.3))
        goal = await case.until("exhausted")
        assert (goal.costs[0].micros, goal.continuations) == (400_000, 2)
        assert goal.note == "the goal has used 0.4 EUR of its 0.3 EUR"


async def test_a_person_comes_first(tmp_path: Path) -> None:
    """A message during a continuation runs before the next one, which follows by itself."""
    async with pursuit(tmp_path, "not_done", "done") as case:
        gate = Gate()
        case.desk.models.answers = [gate, lambda request: says("well")]
        await case.set()
        await gate.reached.wait()
        message = await case.desk.send("wait, a question")
        gate.opened.set()
        await case.until("done")
        runs = case.runs()
        assert [run.goal.number if run.goal else None for run in runs] == [None, 1, None, 2]
        assert runs[2].run_id == message.run_id


async def test_a_message_overtakes_the_judge(tmp_path: Path) -> None:
    """A verdict that comes after a person has spoken does not count, but its use does."""
    async with pursuit(tmp_path, "done") as case:
        gate = Gate(first='{"verdict": "done"', rest=', "reason": "old"}')
        case.desk.models.summary_answers.insert(0, gate)
        await case.set()
        await gate.reached.wait()
        await case.desk.send("not yet")
        gate.opened.set()
        goal = await case.until("done")
        reviews = case.events(GoalReviewed)
        assert [(review.verdict, bool(review.usage.output_tokens)) for review in reviews] == [
            ("counted", True),
            ("done", True),
        ]
        assert reviews[1].reviewed_run_id == case.runs()[2].run_id
        assert goal.evidence == "I see done."


async def test_an_interrupted_continuation_pauses_it(tmp_path: Path) -> None:
    """A person who stops the run stops the goal, and resumes it later."""
    async with pursuit(tmp_path) as case:
        gate = Gate()
        case.desk.models.answers = [gate, lambda request: says("well")]
        await case.set()
        await gate.reached.wait()
        await case.desk.interrupt(case.session_id)
        goal = await case.until("paused")
        assert goal.note == "its run was interrupted"
        await wait_all_tasks_blocked()
        assert len(case.runs()) == 2
        await case.change(methods.resume)
        goal = await case.until("done")
        assert [event.reason for event in case.events(GoalContinued)][1] == "a person resumed it"


async def test_a_message_that_interrupts_does_not_pause_it(tmp_path: Path) -> None:
    """The goal continues after a message that interrupted a continuation."""
    async with pursuit(tmp_path, "not_done", "done") as case:
        gate = Gate()
        case.desk.models.answers = [gate, lambda request: says("well")]
        await case.set()
        await gate.reached.wait()
        await case.desk.send("first this", busy="interrupt")
        assert (await case.until("done")).continuations == 2


async def test_pause_keeps_the_run_in_flight(tmp_path: Path) -> None:
    """A paused goal starts nothing new; its run is finished and counted."""
    async with pursuit(tmp_path) as case:
        gate = Gate()
        case.desk.models.answers = [gate]
        await case.set()
        await gate.reached.wait()
        await case.change(methods.pause)
        gate.opened.set()
        goal = await case.until("paused")
        assert goal.usage == Usage(2, 2)
        assert case.desk.models.summary_requests == []


async def test_failures_back_off_and_park(tmp_path: Path, clock: MockClock) -> None:
    """After three failures in a row the goal is parked; each pause is longer than the one before."""
    async with pursuit(tmp_path) as case:
        case.desk.models.answers = [lambda request: fails("server_error", retryable=False)]
        before = trio.current_time()
        await case.set()
        goal = await case.until("paused")
        assert (goal.failures, goal.continuations) == (3, 3)
        assert "server_error" in goal.note
        assert trio.current_time() - before == pytest.approx(70, abs=1)


async def test_a_permanent_failure_parks_at_once(tmp_path: Path) -> None:
    """No continuation can cure a missing credential."""
    async with pursuit(tmp_path) as case:
        case.desk.models.answers = [lambda request: fails("unauthorized", retryable=False)]
        await case.set()
        assert (await case.until("paused")).continuations == 1


async def test_a_judge_that_fails_is_asked_again(tmp_path: Path, clock: MockClock) -> None:
    """A judge without a verdict is asked about the same run again, then the goal is parked."""
    async with pursuit(tmp_path, "{no json", "{no json", "done") as case:
        await case.set()
        goal = await case.until("done")
        assert (goal.continuations, goal.failures) == (1, 0)
    async with pursuit(tmp_path / "2", "{no json") as case:
        await case.set()
        goal = await case.until("paused")
        assert (goal.failures, goal.note) == (3, "the judge gave no verdict")


async def test_another_route_judges(tmp_path: Path, clock: MockClock) -> None:
    """A judge falls over as a run does: a busy route costs no verdict."""
    routes = {
        "a": RouteSpec("a", "openai", "m", fallback=("b",)),
        "b": RouteSpec("b", "openai", "n"),
    }
    async with pursuit(tmp_path, routes=routes, default_route="a") as case:
        verdict = case.desk.models.summary_answers[0]

        def busy(request: ModelRequest) -> AsyncIterator[ModelEvent]:
            return fails("overloaded", status=529) if request.pinned.route == "a" else verdict(request)

        case.desk.models.summary_answers = [busy]
        await case.set()
        assert (await case.until("done")).failures == 0
        assert [request.pinned.route for request in case.desk.models.summary_requests] == ["a", "b"]


async def leave_unjudged(desk: Desk, **budget: Any) -> Pursuit:
    """Set the goal of a session and let it work once; the worker that would review the work comes later."""
    session = await desk.do(sessions.create, SessionCreate(**budget))
    case = Pursuit(desk, session.session_id)
    await case.set()
    async with working(desk):
        sent = await desk.do(send_to_session, SessionSend(session_id=session.session_id, content="hello"))
        await desk.until(lambda: desk.ended(sent.run_id))
    return case


async def test_the_judge_keeps_to_the_routes_of_the_session(tmp_path: Path) -> None:
    """A session whose scope excludes the run's route by now has its goal paused; no model reads the work."""
    async with open_desk(tmp_path, Scripted(summary_answers=judges("done"))) as desk:
        case = await leave_unjudged(desk)
        scope = CredentialScope(routes=[])
        await desk.do(sessions.update, SessionUpdate(session_id=case.session_id, credential_scope=scope))
        async with pursuing(desk):
            goal = await case.until("paused")
        assert "the judge may not use the route" in goal.note
        assert desk.models.summary_requests == []


async def test_the_judge_keeps_to_the_budget_of_the_session(tmp_path: Path) -> None:
    """Once the budget of a session is used up, its goal is paused, and no judge is asked."""
    async with open_desk(tmp_path, Scripted(summary_answers=judges("not_done"))) as desk:
        case = await leave_unjudged(desk, budget=Budget(max_tokens=1))
        async with pursuing(desk):
            goal = await case.until("paused")
        assert (goal.note, desk.models.summary_requests) == (
            "the budget of the session is used up, so no judge is asked",
            [],
        )


async def test_a_session_without_budget_parks_it(tmp_path: Path) -> None:
    """A continuation that fails because the session's budget is used up is not tried again."""
    async with open_desk(tmp_path, Scripted(summary_answers=judges("not_done"))) as desk:
        case = await leave_unjudged(desk, budget=Budget(max_tokens=1))
        await case.change(methods.clear)
        async with pursuing(desk):
            await case.set()
            goal = await case.until("paused")
        assert goal.note.startswith("session_token_budget")
        assert goal.continuations == 1


async def test_mail_that_is_refused_parks_it(tmp_path: Path) -> None:
    """A goal does not wait for mail that cannot be delivered: it is paused with the reason."""
    async with pursuit(tmp_path) as case, trio.open_nursery() as nursery:
        runtime = case.desk.holder.current()
        case.desk.holder.replace(change_runtime(runtime, generation=2, definitions={}))
        await nursery.start(MailWorker(case.desk.services).serve)
        mail = MailboxPost(
            from_agent=case.session_id, to_agent=case.session_id, subject="s", message_id="m", payload=1
        )
        await case.desk.do(post_mail, mail)
        await case.set()
        assert "no longer defined" in (await case.until("paused")).note
        nursery.cancel_scope.cancel()


async def test_waiting_for_a_time(tmp_path: Path, clock: MockClock) -> None:
    """The agent lets its goal wait; it continues when the time has come."""
    async with pursuit(tmp_path) as case:
        call = ToolCall("c1", "update_goal", {"status": "waiting", "wait_s": 600, "note": "The build runs."})
        case.desk.models.answers = [
            lambda request: gives(call),
            lambda request: says("I wait."),
            lambda request: says("Done."),
        ]
        before = trio.current_time()
        await case.set()
        await case.until("waiting")
        await case.until("done")
        assert trio.current_time() - before == pytest.approx(600, abs=1)
        assert case.events(GoalContinued)[1].reason == "the time that it waited for has come"


async def test_waiting_for_the_next_message(tmp_path: Path) -> None:
    """A goal that waits without a time is reviewed after the session's next run."""
    async with pursuit(tmp_path, "not_done", "done") as case:
        call = ToolCall("c1", "update_goal", {"status": "waiting", "note": "I need the file."})
        case.desk.models.answers = [lambda request: gives(call), lambda request: says("I wait.")]
        await case.set()
        goal = await case.until("waiting")
        assert goal.note == "I need the file."
        await wait_all_tasks_blocked()
        assert len(case.runs()) == 2
        await case.desk.send("here is the file")
        assert (await case.until("done")).continuations == 2


async def test_an_agent_that_is_gone_parks_it(tmp_path: Path) -> None:
    """Where no run can be accepted, the goal is paused with the refusal."""
    async with pursuit(tmp_path) as case:
        runtime = case.desk.holder.current()
        case.desk.holder.replace(change_runtime(runtime, generation=2, definitions={}))
        await case.set()
        assert "no longer defined" in (await case.until("paused")).note


async def test_the_end_of_the_session_stops_it(tmp_path: Path) -> None:
    """A session that was ended pursues no goal."""
    async with pursuit(tmp_path) as case:
        call = ToolCall("c1", "update_goal", {"status": "waiting"})
        case.desk.models.answers = [lambda request: gives(call), lambda request: says("I wait.")]
        await case.set()
        await case.until("waiting")
        await case.desk.do(sessions.end, SessionEnd(session_id=case.session_id))
        assert (await case.until("stopped")).note == "the session was ended"
        assert case.desk.count(GOALS_OPEN) == 0


async def test_a_conversation_that_is_started_over_pauses_it(tmp_path: Path) -> None:
    """The daemon does not go on in a session that the person has left."""
    async with pursuit(tmp_path) as case:
        case.desk.models.answers = [lambda request: fails("server_error", retryable=False)]
        await case.set()
        await case.desk.until(lambda: case.goal().failures == 1)
        await case.desk.do(conversations.reset, ConversationReset())
        assert case.goal().note == "the conversation was started over"
        assert case.desk.count(GOALS_OPEN) == 0


async def test_an_agent_sets_no_goal_in_a_continuation(tmp_path: Path) -> None:
    """Otherwise an agent whose goal is exhausted would set the next one, for ever."""
    async with pursuit(tmp_path) as case:
        call = ToolCall("c1", "create_goal", {"objective": "More."})
        case.desk.models.answers = [lambda request: gives(call), lambda request: says("Well.")]
        await case.set()
        waiting = [case.runs()[-1]]

        def is_asked() -> bool:
            waiting[0] = case.runs()[-1]
            return bool(waiting[0].status == "waiting_for_approval")

        await case.desk.until(is_asked)
        await case.desk.allow(waiting[0].run_id)
        await case.until("done")
        (result,) = case.desk.models.requests[-1].messages[-1].items
        assert "a person decides on others" in str(result)


async def test_mail_comes_first(tmp_path: Path) -> None:
    """While a message waits in the mailbox, its delivery is the next run, and the goal continues after it."""
    async with pursuit(tmp_path, "done") as case:
        mail = MailboxPost(
            from_agent=case.session_id,
            to_agent=case.session_id,
            subject="s",
            message_id="m",
            payload={"type": "message", "message": "Hello."},
        )
        await case.desk.do(post_mail, mail)
        await case.set()
        await wait_all_tasks_blocked()
        assert len(case.runs()) == 1
        async with trio.open_nursery() as nursery:
            await nursery.start(MailWorker(case.desk.services).serve)
            await case.until("done")
            nursery.cancel_scope.cancel()
        assert [run.kind for run in case.runs()] == ["input", "mailbox"]


async def test_a_restart_at_any_point(tmp_path: Path) -> None:
    """A daemon that is killed after any commit leaves a store from which the next one ends the same way."""
    copies: list[Path] = []
    async with pursuit(tmp_path, "not_done", "done") as case:
        deliver = case.desk.state.deliver

        def copy_and_deliver(group: Any) -> None:
            copies.append(tmp_path / f"copy{len(copies)}")
            case.desk.copy_store(copies[-1])
            deliver(group)

        case.desk.state.deliver = copy_and_deliver  # type: ignore[method-assign]
        await case.set()
        await case.until("done")
        session_id = case.session_id
    assert len(copies) > 6
    for copy in copies[::2]:
        models = Scripted(summary_answers=judges("done"))
        async with open_desk(copy, models) as desk, pursuing(desk):
            case = Pursuit(desk, session_id)
            goal = await case.until("done")
            numbers = [run.goal.number for run in case.runs() if run.goal]
            assert numbers == list(range(1, goal.continuations + 1))
            assert goal.continuations in (1, 2)
