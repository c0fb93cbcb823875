"""Runs that ask several routes or keys, one after the other."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from kheishd.config.sections.context import ContextSection
from kheishd.config.sections.runs import RunsSection
from kheishd.kernel.runtime import ModelAnswer, RouteSpec, TextDelta
from kheishd.objects.talk import compaction, session
from kheishd.objects.talk.bounds import bounds_of
from kheishd.records.run import read_pinned
from kheishd.store.tables import SESSIONS
from kheishd.workers.runs.fallover import list_beside
from protocol.budget import Budget, Cost, Prices
from protocol.events.context import CompactionFailed, ContextCompacted
from protocol.events.run import MessageAppended, ModelFailed
from protocol.objects.conversation import ConversationCompact
from protocol.objects.session import CredentialScope, SessionUpdate
from protocol.transcript import Text, ToolCall, Usage
from tests.support.desk import Desk, fails, gives, open_desk, says, wall_clock, working
from tests.support.runtimes import change_runtime

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from trio.testing import MockClock

    from kheishd.kernel.runtime import ModelEvent, ModelRequest

    Script = list[Callable[[ModelRequest], AsyncIterator[ModelEvent]]]

QUICK = RunsSection(backoff_s=1.0, max_attempts=2)


class RouteModels:
    """A ModelCaller with a script for each route, or for each key; its last part serves all further calls.

    ``asked`` are the routes and keys in the order of the calls. ``broken`` are those without a credential.
    """

    def __init__(self, **scripts: Script) -> None:
        self.scripts = scripts
        self.asked: list[str] = []
        self.requests: list[ModelRequest] = []
        self.broken: set[str] = set()

    @asynccontextmanager
    async def ask(self, request: ModelRequest) -> AsyncIterator[AsyncIterator[ModelEvent]]:
        """Make the events of a call."""
        key = request.pinned.auth_ref
        name = key if key in self.scripts else request.pinned.route
        assert name is not None
        self.asked.append(name)
        self.requests.append(request)
        script = self.scripts[name]
        yield (script.pop(0) if len(script) > 1 else script[0])(request)

    def problem(self, route: RouteSpec) -> str | None:
        """Return a problem of a broken route or key."""
        keys = route.auth_refs or (route.auth_ref,)
        is_broken = route.route_id in self.broken or all(key in self.broken for key in keys)
        return f"{route.route_id} is not set" if is_broken else None

    async def aclose(self) -> None:
        """Close nothing."""


def busy(request: ModelRequest) -> AsyncIterator[ModelEvent]:
    """Fail with 429."""
    return fails("rate_limited", status=429)


def down(request: ModelRequest) -> AsyncIterator[ModelEvent]:
    """Fail with 503."""
    return fails("server_error", status=503)


def refused(request: ModelRequest) -> AsyncIterator[ModelEvent]:
    """Fail with 401."""
    return fails("unauthorized", status=401, retryable=False)


def answers(request: ModelRequest) -> AsyncIterator[ModelEvent]:
    """Answer with the route."""
    return says(request.pinned.route)


def calls_a_tool(request: ModelRequest) -> AsyncIterator[ModelEvent]:
    """Call a tool that does not exist, so that the model is asked again."""
    return gives(ToolCall(f"c{len(request.messages)}", "nothing", {}))


def routes(*specs: RouteSpec) -> dict[str, RouteSpec]:
    """Return the routes by id; the first one falls over to the others."""
    first = replace(specs[0], fallback=tuple(spec.route_id for spec in specs[1:]))
    return {spec.route_id: spec for spec in (first, *specs[1:])}


def route(route_id: str, **changes: Any) -> RouteSpec:
    """Return a route."""
    return RouteSpec(route_id, "openai", f"m-{route_id}", **changes)


@asynccontextmanager
async def working_desk(
    directory: Path, models: RouteModels, *specs: RouteSpec, **runtime: Any
) -> AsyncIterator[Desk]:
    """Open a desk with a worker on these routes, the first of which is the default one."""
    values: dict[str, Any] = {
        "routes": routes(*specs),
        "default_route": specs[0].route_id,
        "runs": QUICK,
        **runtime,
    }
    async with open_desk(directory, models, **values) as desk, working(desk):
        yield desk


def failures(desk: Desk, session_id: str) -> list[tuple[str | None, str, str | None]]:
    """Return the failed attempts: the route, the reason, and the next route."""
    events = (event for _, event in desk.journal(session_id))
    return [(it.route, it.error.reason, it.next_route) for it in events if isinstance(it, ModelFailed)]


async def test_a_failure_moves_a_run_on(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Without a pause, the next route is asked; the attempt, the answer and the run name their routes."""
    models = RouteModels(a=[busy], b=[down], c=[answers])
    async with working_desk(tmp_path, models, route("a"), route("b"), route("c")) as desk:
        start_ms = wall_clock()
        sent = await desk.ask()
        assert (sent.output, wall_clock()) == ("c", start_ms)
        assert failures(desk, sent.session_id) == [("a", "rate_limited", "b"), ("b", "server_error", "c")]
        messages = [it for _, it in desk.journal(sent.session_id) if isinstance(it, MessageAppended)]
        assert messages[-1].route == "c"
        run = desk.run(sent.run_id)
        assert (run.route, run.failures) == ("c", 0)
        assert desk.services.cooldowns.list_current("a", 0)[0].reason == "rate_limited"


async def test_a_run_keeps_to_the_route_that_answered(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Later turns ask that route first, and the next run begins with its own route once it may."""
    models = RouteModels(a=[busy, answers], b=[calls_a_tool, answers])
    async with working_desk(tmp_path, models, route("a"), route("b")) as desk:
        assert (await desk.ask()).output == "b"
        assert models.asked == ["a", "b", "b"]
        # The route is passed over for 5 seconds.
        sent = await desk.ask()
        messages = [it for _, it in desk.journal(sent.session_id) if isinstance(it, MessageAppended)]
        assert (sent.output, messages[-1].passed_over) == (
            "b",
            ["a: it failed a moment ago and is passed over for 5 s"],
        )
        autojump_clock.jump(6)
        assert (await desk.ask()).output == "a"
        assert models.asked == ["a", "b", "b", "b", "a"]


async def test_no_other_route_hides_a_mistake(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A refused key, a bad request and a prompt that is too long stay the error of the run."""
    for reason, status in (("unauthorized", 401), ("bad_request", 400), ("context_too_long", 413)):

        def mistake(request: ModelRequest, reason: str = reason, status: int = status) -> Any:
            return fails(reason, status=status, retryable=False)

        models = RouteModels(a=[mistake], b=[answers])
        async with working_desk(tmp_path / reason, models, route("a"), route("b")) as desk:
            sent = await desk.ask()
            assert sent.error is not None
            assert (sent.status, sent.error.reason, set(models.asked)) == ("failed", reason, {"a"})


async def test_every_route_fails(tmp_path: Path, autojump_clock: MockClock) -> None:
    """After all rounds, one error lists each route with its failure, and each attempt is journaled."""
    models = RouteModels(a=[busy], b=[down])
    async with working_desk(tmp_path, models, route("a"), route("b"), route("c")) as desk:
        models.broken.add("c")
        sent = await desk.ask()
        assert sent.error is not None
        assert (sent.status, sent.error.reason) == ("failed", "routes_failed")
        for part in ("a: the provider said rate_limited", "b: the provider said server_error", "c: c is not"):
            assert part in sent.error.message
        # Two rounds; in the second one, the route whose cooldown ends first is asked in spite of it.
        assert models.asked == ["a", "b", "a"]
        assert [it[2] for it in failures(desk, sent.session_id)] == ["b", None, None]


async def test_a_mistake_later_in_the_chain(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A fallback whose key is refused ends the run; the error says what came before."""
    models = RouteModels(a=[down], b=[refused], c=[answers])
    async with working_desk(tmp_path, models, route("a"), route("b"), route("c")) as desk:
        sent = await desk.ask()
        assert sent.error is not None
        assert (sent.error.reason, sent.error.status, models.asked) == ("unauthorized", 401, ["a", "b"])
        assert "a: the provider said server_error; b: the provider said unauthorized" in sent.error.message


async def test_an_answer_that_has_begun(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A stream that breaks is repeated at its own route, after a pause."""

    async def breaks(request: ModelRequest) -> AsyncIterator[ModelEvent]:
        yield TextDelta("so far")
        async for event in fails("connection_failed"):
            yield event

    models = RouteModels(a=[breaks, answers], b=[answers])
    async with working_desk(tmp_path, models, route("a"), route("b")) as desk:
        assert (await desk.ask()).output == "a"
        assert models.asked == ["a", "a"]


async def test_several_keys(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A refused quota passes to the next key, a broken server to the next route; a missing key is skipped."""
    keys = ("env:K1", "env:K2", "env:K3")
    first = route("a", auth_ref=keys[0], auth_refs=keys)
    models = RouteModels(b=[answers])
    models.scripts |= {"env:K1": [busy], "env:K2": [down, answers], "env:K3": [answers]}
    async with working_desk(tmp_path, models, first, route("b")) as desk:
        sent = await desk.ask()
        assert models.asked == ["env:K1", "env:K2", "b"]
        events = [it for _, it in desk.journal(sent.session_id) if isinstance(it, ModelFailed)]
        assert [(it.auth_ref, it.next_route, it.next_auth_ref) for it in events] == [
            ("env:K1", "a", "env:K2"),
            ("env:K2", "b", None),
        ]
        models.broken.add("env:K1")
        autojump_clock.jump(60)
        sent = await desk.ask()
        assert (sent.output, models.asked[3:]) == ("a", ["env:K2"])
        messages = [it for _, it in desk.journal(sent.session_id) if isinstance(it, MessageAppended)]
        assert messages[-1].passed_over == ["a (env:K1): a is not set"]


async def test_the_delay_of_a_provider(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A key is passed over for as long as its provider says; a round that has failed waits for the first."""

    def later(seconds: float) -> Any:
        return lambda request: fails("rate_limited", status=429, retry_after_s=seconds)

    models = RouteModels(a=[later(20), answers], b=[later(40)])
    async with working_desk(tmp_path, models, route("a"), route("b")) as desk:
        start_ms = wall_clock()
        assert (await desk.ask()).output == "a"
        assert (models.asked, wall_clock() - start_ms) == (["a", "b", "a"], 20_000)


async def test_the_cost_is_that_of_the_route_that_answered(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Each route has its own prices; one without any is left out of a chain with prices."""
    cheap, dear = (Prices(currency="USD", input=price, output=0) for price in (1_000_000, 5_000_000))
    models = RouteModels(a=[busy], free=[answers], b=[lambda request: gives(Text("b"))])
    specs = (route("a", prices=cheap), route("free"), route("b", prices=dear))
    async with working_desk(tmp_path, models, *specs) as desk:
        sent = await desk.ask(budget=Budget(max_cost=1.0))
        assert (models.asked, sent.usage, sent.cost) == (["a", "b"], Usage(1, 1), Cost(5, "USD"))


async def test_rights_hold_for_every_route(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A route that the session may not use is no fallback, also if the session is narrowed later."""
    models = RouteModels(a=[answers, busy], b=[answers], c=[answers])
    async with working_desk(tmp_path, models, route("a"), route("b"), route("c")) as desk:
        sent = await desk.ask()
        scope = CredentialScope(routes=["a", "c"])
        await desk.do(session.update, SessionUpdate(session_id=sent.session_id, credential_scope=scope))
        assert (await desk.ask()).output == "c"
        assert "b" not in models.asked


async def test_a_prompt_that_does_not_fit(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A route whose context is too small for the prompt is passed over, and nothing is compacted for it."""
    models = RouteModels(a=[down], small=[answers], b=[answers])
    specs = (route("a"), route("small", context_tokens=2_000), route("b"))
    async with working_desk(tmp_path, models, *specs) as desk:
        sent = await desk.ask("word " * 4_000)
        assert (models.asked, sent.output) == (["a", "b"], "b")
        assert "context_compacted" not in desk.kinds(sent.session_id, sent.run_id)


async def test_a_restart_keeps_the_route(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A run that another worker takes up asks the route that answered last."""
    models = RouteModels(a=[busy], b=[calls_a_tool, down, answers])
    async with open_desk(
        tmp_path, models, routes=routes(route("a"), route("b")), default_route="a", runs=QUICK
    ) as desk:
        async with working(desk):
            sent = await desk.send()
            await desk.until(lambda: len(models.asked) == 3)
        async with working(desk):
            await desk.until(lambda: desk.run(sent.run_id).status == "completed")
        assert models.asked[-1] == "b"


async def test_a_route_that_is_gone(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A fallback that was deleted since the run was accepted is passed over."""
    models = RouteModels(a=[down], b=[answers], c=[answers])
    async with working_desk(tmp_path, models, route("a"), route("b"), route("c")) as desk:
        current = desk.holder.current()
        others = {name: spec for name, spec in current.routes.items() if name != "b"}
        desk.holder.amend(change_runtime(current, routes=others))
        assert (await desk.ask()).output == "c"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (None, "route_gone"),
        ({"base_url": "https://b.example/v1"}, "route_changed"),
        ({"auth_ref": "env:OTHER"}, "route_changed"),
    ],
)
async def test_the_own_route_is_another_one_now(
    tmp_path: Path, autojump_clock: MockClock, change: dict[str, Any] | None, reason: str
) -> None:
    """A run whose own route was deleted or leads to another server ends, also one that had moved on."""

    def amend(request: ModelRequest) -> AsyncIterator[ModelEvent]:
        current = desk.holder.current()
        others = {name: spec for name, spec in current.routes.items() if name != "a"}
        changed = {"a": replace(current.routes["a"], **change)} if change is not None else {}
        desk.holder.amend(change_runtime(current, routes=others | changed))
        return calls_a_tool(request)

    models = RouteModels(a=[busy], b=[amend, answers])
    async with working_desk(tmp_path, models, route("a", auth_ref="env:KEY"), route("b")) as desk:
        sent = await desk.ask()
        assert sent.error is not None
        assert (sent.status, sent.error.reason, models.asked) == ("failed", reason, ["a", "b"])


async def test_the_own_route_has_no_key(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A missing credential of the run's own route is an error, and no other route hides it."""
    models = RouteModels(a=[answers], b=[answers])
    async with working_desk(tmp_path, models, route("a", auth_ref="env:KEY"), route("b")) as desk:
        gate = await desk.ask()
        assert gate.output == "a"

        def lose(request: ModelRequest) -> AsyncIterator[ModelEvent]:
            models.broken.add("a")
            return calls_a_tool(request)

        models.scripts["a"] = [lose, answers]
        sent = await desk.ask()
        assert sent.error is not None
        assert (sent.error.reason, models.asked) == ("credential_missing", ["a", "a"])


async def test_a_call_beside_a_run(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A judge's or a title's call takes the usable routes and keys, the route that answered last first."""
    keys = ("env:K1", "env:K2")
    models = RouteModels(b=[answers])
    models.scripts |= {"env:K1": [busy], "env:K2": [answers]}
    specs = (route("a", auth_ref=keys[0], auth_refs=keys), route("b"))
    async with working_desk(tmp_path, models, *specs) as desk:
        sent = await desk.ask()
        with desk.state.read() as store:
            pinned = read_pinned(store, desk.run(sent.run_id))
            bounds = bounds_of(store, desk.holder.current(), store.need(SESSIONS, sent.session_id))

        def choose(route_id: str | None) -> list[tuple[str, str | None]]:
            attempts = list_beside(desk.services, bounds, pinned, route_id)
            return [(attempt.route, attempt.auth_ref) for attempt in attempts]

        assert choose(None) == [("a", "env:K2"), ("b", None)]
        assert choose("b") == [("b", None), ("a", "env:K2")]
        models.broken |= {"env:K2"}
        assert choose("a") == [("b", None)]
        models.broken |= {"b"}
        assert choose("a") == [("a", "env:K1")]


async def test_a_compaction_falls_over(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A summary that the run's route cannot make is made by the next one."""

    def summary(request: ModelRequest) -> AsyncIterator[ModelEvent]:
        return says("They talked.") if request.purpose == "summary" else says("b", "word " * 500)

    models = RouteModels(a=[summary, summary, summary, busy], b=[summary])
    context = ContextSection(keep_messages=2)
    async with working_desk(tmp_path, models, route("a"), route("b"), context=context) as desk:
        for _ in range(3):
            await desk.ask("word " * 500)
        compact = ConversationCompact(sender="user", wait="settled")
        result = await desk.do(compaction.HANDLERS[0], compact)
        assert (result.status, result.summary) == ("completed", "They talked.")
        assert models.asked[-2:] == ["a", "b"]


async def test_an_automatic_summary_falls_over(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A summary before a call moves the run on, too, and only without another route the run goes without."""

    async def long(request: ModelRequest) -> AsyncIterator[ModelEvent]:
        yield ModelAnswer([Text("fine " * 500)], Usage(7_000, 1), "end", "m")

    def summary(request: ModelRequest) -> AsyncIterator[ModelEvent]:
        return says("They talked.") if request.purpose == "summary" else answers(request)

    def no_summary(request: ModelRequest) -> AsyncIterator[ModelEvent]:
        return down(request) if request.purpose == "summary" else answers(request)

    models = RouteModels(a=[long, no_summary], b=[summary])
    specs = [route(name, context_tokens=8_000) for name in ("a", "b")]
    context = ContextSection(keep_messages=2, summary_tokens=256)
    async with working_desk(tmp_path, models, *specs, context=context) as desk:
        for _ in range(2):
            sent = await desk.ask("word " * 500)
        assert models.asked == ["a", "a", "b", "b"]
        events = [event for _, event in desk.journal(sent.session_id)]
        (failed,) = [event for event in events if isinstance(event, ModelFailed)]
        assert (failed.route, failed.next_route) == ("a", "b")
        (compacted,) = [event for event in events if isinstance(event, ContextCompacted)]
        assert (compacted.strategy, desk.run(sent.run_id).route) == ("summary", "b")
        models.scripts |= {"a": [long, no_summary], "b": [long, no_summary]}
        for _ in range(2):
            sent = await desk.ask("word " * 500)
            assert sent.status == "completed"
        events = [event for _, event in desk.journal(sent.session_id)]
        assert any(isinstance(event, CompactionFailed) for event in events)
