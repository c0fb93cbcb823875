"""The context window: compaction before a model call, and after the provider refused one."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
import trio
from msgspec.structs import replace
from trio.testing import MockClock, wait_all_tasks_blocked

from kheishd.config.sections.context import ContextSection
from kheishd.core.context.checkpoint import CHECKPOINT_EVENTS
from kheishd.core.context.reduction import SNIP_NOTE
from kheishd.core.definition import built_in
from kheishd.core.workspace import Workspaces
from kheishd.hooks.composite import CompositeHook
from kheishd.hooks.output import Outputs
from kheishd.kernel.runtime import ModelAnswer, ModelEvent, ModelFailure, ModelRequest, RouteSpec, TextDelta
from kheishd.objects.node.workspace import trust
from kheishd.objects.talk import compaction
from kheishd.objects.talk.lineage import Segment
from kheishd.records.writer import SessionWriter
from kheishd.store.environment import Transaction
from kheishd.store.tables import BLOBS, CHECKPOINTS, SESSIONS
from kheishd.workers.runs.transcript import (
    newest_checkpoint,
)
from protocol.contract import OutputContract, Requirement
from protocol.events.context import CompactionFailed, ContextCompacted
from protocol.events.run import AgentsFilesLoaded, InputReceived
from protocol.events.session import TranscriptImported
from protocol.objects.conversation import ConversationCompact
from protocol.objects.run import SendResult
from protocol.objects.workspace import WorkspaceTrust
from protocol.transcript import Item, Message, Text, ToolCall, ToolResult, Usage, text_of
from tests.support.desk import (
    Desk,
    Gate,
    ModelPart,
    Scripted,
    fails,
    gives,
    open_desk,
    says,
    summarizes,
    working,
)
from tests.support.hooked import shell_hook
from tests.support.toolbox import TOOLS, Toolbox, tool, workbench
from tests.support.transcripts import assert_valid

LONG = 900
"""The token count of a prompt that is too long here."""

FAR = 10**9

LIMITS = ContextSection(compact_tokens=LONG - 1, keep_messages=2, snip_tokens=200, snip_keep_messages=2)


def counts(tokens: int, text: str = "fine " * 100) -> ModelPart:
    """Answer with a usage of so many prompt tokens."""

    async def part(request: ModelRequest) -> AsyncIterator[ModelEvent]:
        yield TextDelta(text)
        yield ModelAnswer([Text(text)], Usage(tokens - 1, 1), "end", "scripted")

    return part


def small_desk(
    directory: Path, models: Scripted, limits: ContextSection = LIMITS
) -> AbstractAsyncContextManager[Desk]:
    """Provide a desk with a small context window."""
    return open_desk(directory, models, context=limits)


async def talk(desk: Desk, turns: int = 3, text: str = "question ") -> SendResult:
    """Send so many messages, each long enough that a summary is shorter."""
    for number in range(turns):
        sent = await desk.ask(f"{number} " + text * 50)
        assert sent.status == "completed", sent.error
    return sent


def events_of(desk: Desk, session_id: str, kind: type[Any]) -> list[Any]:
    """Return the events of a type in a session."""
    return [event for _, event in desk.journal(session_id) if isinstance(event, kind)]


def texts_of(request: ModelRequest) -> list[str]:
    """Return the first 20 characters of each message of a request."""
    return [text_of(message.items)[:20].strip() for message in request.messages]


async def test_a_long_conversation_is_summarized_before_a_call(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """All but the last messages are summarized in one commit, and the summary is not streamed."""
    models = Scripted([counts(10), counts(10), counts(LONG), counts(300, "short again")])
    async with small_desk(tmp_path, models) as desk, working(desk):
        sent = await talk(desk)
        heard = desk.listen()
        await wait_all_tasks_blocked()
        commits = len(desk.groups)
        last = await desk.ask("and now?")
        await wait_all_tasks_blocked()
        assert desk.kinds(last.session_id, last.run_id)[2:] == [
            "run_started",
            "model_asked",
            "context_compacted",
            "message_appended",
            "run_ended",
        ]
        # Between the start and the answer, one commit holds the whole summary.
        assert len(desk.groups) - commits == 3
        assert "".join(delta["text"] for delta in heard()) == "short again"
        (event,) = events_of(desk, sent.session_id, ContextCompacted)
        assert (event.strategy, event.trigger, event.summary) == ("summary", "auto", "They talked.")
        assert event.pre_tokens > LONG > event.post_tokens > 0
        assert len(models.requests[-1].messages) == 3
        assert "They talked." in text_of(models.requests[-1].messages[0].items)
        assert texts_of(models.requests[-1])[1:] == ["fine fine fine fine", "and now?"]
        # The run and the session count the usage of the summary.
        assert desk.run(last.run_id).usage == Usage(299 + 500, 1 + 20)
        assert desk.session(sent.session_id).usage.output_tokens == 4 + 20


async def test_a_summary_request(tmp_path: Path, autojump_clock: MockClock) -> None:
    """It uses the run's model and route, has no tools, and limits the length of the summary."""
    models = Scripted([counts(10), counts(10), counts(LONG), counts(10)])
    async with small_desk(tmp_path, models) as desk, working(desk):
        await talk(desk, 4)
    (request,) = models.summary_requests
    assert request.pinned == models.requests[-1].pinned
    assert (request.tools, request.purpose, request.max_answer_tokens) == ((), "summary", 4_096)
    (message,) = request.messages
    record = text_of(message.items)
    for number in range(3):
        assert f"{number} question" in record
    assert "3 question" not in record


async def test_compaction_keeps_the_journal(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Folded from the beginning, the journal gives the same messages as the model was shown."""
    models = Scripted([counts(10), counts(10), counts(LONG)])
    async with small_desk(tmp_path, models) as desk, working(desk):
        sent = await talk(desk, 8)
        assert len(events_of(desk, sent.session_id, ContextCompacted)) >= 2
        inputs = events_of(desk, sent.session_id, InputReceived)
        assert [text_of(event.items)[:1] for event in inputs] == [str(number) for number in range(8)]
        await desk.delete_checkpoints(sent.session_id)
        models.answers = [counts(10)]
        texts = texts_of(models.requests[-1])
        await desk.ask("again")
        assert len(models.requests[-1].messages) <= len(texts) + 2
        assert_valid(models.requests[-1].messages)


async def test_a_checkpoint_follows_a_summary(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The next answer is committed with a checkpoint that begins with the summary."""
    models = Scripted([counts(10), counts(10), counts(LONG), counts(10)])
    async with small_desk(tmp_path, models) as desk, working(desk):
        sent = await talk(desk, 3)
        assert desk.count(CHECKPOINTS) == 0
        await desk.ask("and now?")
        assert len(desk.journal(sent.session_id)) < CHECKPOINT_EVENTS
        with desk.state.read() as store:
            checkpoint, _ = newest_checkpoint(store, [Segment(sent.session_id, None)])
        assert [entry.kind for entry in checkpoint.entries] == ["summary", "", "input"]


# Failed summaries.


async def silence(request: ModelRequest) -> AsyncIterator[ModelEvent]:
    """End without an answer."""
    yield TextDelta("They")


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        (lambda request: gives(ToolCall("c", "bash", {})), "no_summary"),
        (lambda request: gives(), "no_summary"),
        (lambda request: says("longer " * 2_000), "no_summary"),
        (lambda request: fails("overloaded"), "overloaded"),
        (silence, "bad_response"),
    ],
    ids=["a call", "nothing", "no shorter", "a failure", "no answer"],
)
async def test_a_run_continues_without_a_summary(
    tmp_path: Path, autojump_clock: MockClock, part: ModelPart, reason: str
) -> None:
    """The prompt stays long, and the failure is journaled with its usage."""
    models = Scripted([counts(10), counts(10), counts(LONG), counts(LONG)], summary_answers=[part])
    async with small_desk(tmp_path, models) as desk, working(desk):
        await talk(desk)
        last = await desk.ask("and now?")
        assert last.status == "completed"
        assert len(models.requests[-1].messages) == 7
        (failed,) = events_of(desk, last.session_id, CompactionFailed)
        assert (failed.error.reason, failed.trigger) == (reason, "auto")
        assert desk.run(last.run_id).usage == Usage(LONG - 1, 1) + failed.usage
        assert events_of(desk, last.session_id, ContextCompacted) == []


async def test_after_three_failures_the_oldest_messages_are_dropped(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """No more summaries are tried in the run, and a note replaces the dropped messages."""

    async def calls(request: ModelRequest) -> AsyncIterator[ModelEvent]:
        yield ModelAnswer([ToolCall("c", "look", {})], Usage(LONG, 1), "tool_calls")

    models = Scripted(
        [counts(10), counts(10), counts(LONG), calls, calls, calls, calls, counts(10)],
        summary_answers=[lambda request: gives()],
    )
    async with small_desk(tmp_path, models) as desk, working(desk):
        await talk(desk)
        last = await desk.ask("and now?")
        assert last.status == "completed"
        assert len(models.summary_requests) == 3
        assert len(events_of(desk, last.session_id, CompactionFailed)) == 3
        snips = events_of(desk, last.session_id, ContextCompacted)
        assert {(snip.strategy, snip.trigger) for snip in snips} == {("snip", "auto")}
        assert texts_of(models.requests[6])[:2] == [SNIP_NOTE[:20].strip(), "and now?"]
        for request in models.requests:
            assert_valid(request.messages)


async def test_a_summary_request_that_is_too_long_is_halved(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Each of four attempts has half as much text; the oldest is dropped first."""

    def too_long(request: ModelRequest) -> AsyncIterator[ModelEvent]:
        return fails("context_too_long", retryable=False)

    models = Scripted(
        [counts(10), counts(10), counts(LONG), counts(10)], summary_answers=[too_long, too_long, summarizes]
    )
    async with small_desk(tmp_path, models) as desk, working(desk):
        await talk(desk, 4)
        sizes = [len(text_of(request.messages[0].items)) for request in models.summary_requests]
        assert len(sizes) == 3
        assert sizes[0] > sizes[1] >= sizes[2]
        assert "earlier messages are omitted" in text_of(models.summary_requests[2].messages[0].items)
        models.summary_requests.clear()
        models.summary_answers = [too_long]
        models.answers = [counts(LONG), counts(10)]
        sent = await talk(desk, 2)
        assert len(models.summary_requests) == 4
        (failed,) = events_of(desk, sent.session_id, CompactionFailed)
        assert failed.error.reason == "context_too_long"


# Refused prompts.


def refuses(longest: int) -> ModelPart:
    """Return a model that refuses more than so many messages."""

    async def part(request: ModelRequest) -> AsyncIterator[ModelEvent]:
        if len(request.messages) > longest:
            raise ModelFailure("context_too_long", "at most 42 tokens", retryable=False, status=400)
        yield TextDelta("fine")
        yield ModelAnswer([Text("fine")], Usage(7, 1), "end")

    return part


async def test_a_refused_prompt_is_summarized(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The model is then asked again, for the same turn."""
    models = Scripted([counts(10), counts(10), counts(10), refuses(3)])
    async with small_desk(tmp_path, models) as desk, working(desk):
        await talk(desk)
        last = await desk.ask("and now?")
        assert (last.status, last.output) == ("completed", "fine")
        assert desk.kinds(last.session_id, last.run_id)[3:] == [
            "model_asked",
            "context_compacted",
            "model_asked",
            "message_appended",
            "run_ended",
        ]
        (event,) = events_of(desk, last.session_id, ContextCompacted)
        assert (event.trigger, event.strategy) == ("overflow", "summary")


async def test_a_refused_prompt_is_halved_without_a_summary(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """The oldest messages are dropped until the provider accepts the prompt."""
    models = Scripted([*[counts(1_500)] * 4, refuses(3)], summary_answers=[lambda request: gives()])
    async with small_desk(tmp_path, models, replace(LIMITS, compact_tokens=FAR)) as desk, working(desk):
        await talk(desk, 4)
        last = await desk.ask("and now?")
        assert last.status == "completed"
        events = events_of(desk, last.session_id, ContextCompacted)
        assert {(event.trigger, event.strategy) for event in events} == {("overflow", "snip")}
        assert len(events_of(desk, last.session_id, CompactionFailed)) == 1
        assert texts_of(models.requests[-1])[0] == SNIP_NOTE[:20].strip()


async def test_a_prompt_that_cannot_be_shortened_fails_the_run(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """The error says what to do, and the next run begins with the shortened prompt."""
    models = Scripted([*[counts(10)] * 4, refuses(0)])
    async with small_desk(tmp_path, models) as desk, working(desk):
        await talk(desk, 4)
        last = await desk.ask("and now?")
        assert last.status == "failed"
        assert last.error is not None
        assert last.error.reason == "context_too_long"
        assert last.error.message.startswith("at most 42 tokens; nothing more can be left out")
        models.answers = [counts(10)]
        assert (await desk.ask("still there?")).status == "completed"
        assert_valid(models.requests[-1].messages)
        # A prompt without anything to drop fails at once.
        requests = len(models.requests)
        models.answers = [refuses(0)]
        assert (await desk.ask("x" * 1_000, sender="another")).status == "failed"
        assert len(models.requests) == requests + 1


# Stopping and crashing.


async def test_a_summary_can_be_cancelled(tmp_path: Path, autojump_clock: MockClock) -> None:
    """No part of the summary is kept, and the conversation continues."""
    gate = Gate()
    models = Scripted([counts(10), counts(10), counts(LONG)], summary_answers=[gate, summarizes])
    async with small_desk(tmp_path, models) as desk, working(desk):
        await talk(desk)
        sent = await desk.send("and now?")
        await gate.reached.wait()
        assert desk.live_runs() == []
        assert (await desk.cancel(sent.run_id)).status == "cancelled"
        assert events_of(desk, sent.session_id, ContextCompacted) == []
        assert len(models.requests) == 3
        models.answers = [counts(10)]
        assert (await desk.ask("again")).status == "completed"
        assert len(events_of(desk, sent.session_id, ContextCompacted)) == 1


@pytest.mark.parametrize("orderly", [True, False])
async def test_a_summary_is_made_again_after_a_stop_or_a_crash(
    tmp_path: Path, autojump_clock: MockClock, orderly: bool
) -> None:
    """The next daemon makes the summary again, once."""
    gate = Gate()
    models = Scripted([counts(10), counts(10), counts(LONG), counts(10)], summary_answers=[gate, summarizes])
    async with small_desk(tmp_path, models) as desk:
        async with working(desk):
            await talk(desk)
            if orderly:
                sent = await desk.send("and now?")
                await gate.reached.wait()
        if not orderly:
            models.summary_answers.pop(0)
            sent = await desk.send("and now?")
            await desk.leave_running(sent.run_id, 1)
        assert events_of(desk, sent.session_id, ContextCompacted) == []
        async with working(desk):
            await desk.until(lambda: desk.ended(sent.run_id))
        assert desk.run(sent.run_id).status == "completed"
        assert len(events_of(desk, sent.session_id, ContextCompacted)) == 1
        assert len(models.requests[-1].messages) == 3


# Old results.


async def append_messages(desk: Desk, session_id: str, *messages: Message) -> None:
    """Append messages to a session's transcript."""

    def append(tx: Transaction) -> None:
        writer = SessionWriter(tx, session_id, session=tx.get(SESSIONS, session_id))
        for message in messages:
            writer.append(TranscriptImported(message=message, source_cursor=1))
        writer.write()

    await desk.state.update(append)


def look(call: str) -> tuple[Message, Message]:
    """Return a call and its result."""
    items: list[Item] = [ToolCall(call, "bash", {})]
    return Message("assistant", items), Message("tool", [ToolResult(call, "bash", "seen " * 100)])


def results(request: ModelRequest) -> list[bool]:
    """Return whether each result in a request is complete."""
    items = [item for message in request.messages for item in message.items]
    return [item.text.startswith("seen") for item in items if isinstance(item, ToolResult)]


async def test_old_results_are_dropped_after_a_pause(tmp_path: Path, autojump_clock: MockClock) -> None:
    """All but the newest are dropped; without a pause they stay, and dropped ones do not return."""
    models = Scripted([lambda request: says("fine")])
    hooks = CompositeHook((Toolbox(tools=(tool("bash", droppable=True),)),))
    limits = replace(LIMITS, compact_tokens=FAR)
    async with open_desk(tmp_path, models, context=limits, hooks=hooks) as desk, working(desk):
        session_id = (await desk.ask("one")).session_id
        for number in range(7):
            await append_messages(desk, session_id, *look(f"c{number}"))
        await desk.ask("two")
        assert results(models.requests[-1]) == [True] * 7
        autojump_clock.jump(901)
        await desk.ask("three")
        assert results(models.requests[-1]) == [False] * 2 + [True] * 5
        await desk.ask("four")
        assert results(models.requests[-1]) == [False] * 2 + [True] * 5
        (event,) = events_of(desk, session_id, ContextCompacted)
        assert (event.strategy, event.trigger) == ("results", "auto")
        assert event.post_tokens > 0


# Small windows and other sessions.


async def test_a_small_window_is_respected(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The window of the route is pinned, and a third of a small window may be filled."""
    small = RouteSpec("offline", "offline", "offline", context_tokens=3_000, built_in=True)
    models = Scripted([counts(10), counts(10), counts(1_001), counts(10)])
    limits = replace(LIMITS, compact_tokens=FAR)
    async with (
        open_desk(tmp_path, models, context=limits, routes={"offline": small}) as desk,
        working(desk),
    ):
        sent = await talk(desk)
        assert desk.pinned(sent.run_id).context_tokens == 3_000
        await desk.ask("and now?")
        assert len(events_of(desk, sent.session_id, ContextCompacted)) == 1


async def test_a_summary_delays_no_other_session(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Other sessions run while a summary is made."""
    gate = Gate("", "They talked.")
    models = Scripted([counts(10), counts(10), counts(LONG), counts(10)], summary_answers=[gate])
    async with small_desk(tmp_path, models) as desk, working(desk):
        await talk(desk)
        slow = await desk.send("and now?")
        await gate.reached.wait()
        assert (await desk.ask("hello", sender="other")).status == "completed"
        gate.opened.set()
        with trio.fail_after(1):
            await desk.until(lambda: desk.ended(slow.run_id))


# The prompt.


async def test_a_request_has_the_transcript_and_the_pinned_instructions(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A request has the instructions, every message in order, and the ids of the call."""
    models = Scripted()
    async with open_desk(tmp_path, models) as desk, working(desk):
        await desk.ask("one")
        sent = await desk.ask("two")
        definition = desk.holder.current().definitions["default"]
        request = models.requests[-1]
        assert request.instructions == definition.instructions
        assert [text_of(message.items) for message in request.messages] == ["one", "You said: one", "two"]
        assert (request.session_id, request.run_id) == (sent.session_id, sent.run_id)
        with desk.state.read() as store:
            assert store.get(BLOBS, definition.digest, 0) == definition.instructions.encode()


async def test_sections_of_sub_hooks_join_the_instructions(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Sub-hooks add sections and tools; an agent without tools gets neither."""
    async with workbench(tmp_path, Toolbox()) as desk, working(desk):
        await desk.ask("one")
        (request,) = desk.models.requests
        own = desk.holder.current().definitions["default"].instructions
        assert request.instructions == f"{own}\n\nNotes are kept in {tmp_path}/work."
        assert [row.name for row in request.tools] == [row.name for row in TOOLS]
    none = {"default": replace(built_in(), tools=[])}
    async with workbench(tmp_path / "other", Toolbox(), definitions=none) as desk, working(desk):
        await desk.ask("one")
        (request,) = desk.models.requests
        assert (request.instructions, list(request.tools)) == (own, [])


async def test_the_situation_states_the_requirements(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The situation names the required files and holds the schema of the answer."""
    models = Scripted([lambda request: says('"yes"')])
    contract = OutputContract(schema={"type": "string"}, max_repairs=0)
    files = [Requirement(type="workspace_file", path="a.md")]
    async with open_desk(tmp_path, models) as desk, working(desk):
        await desk.ask("one", output_contract=contract)
        situation = models.requests[-1].situation
        assert situation.endswith('no code fence.\n{"type":"string"}\n</situation>')
        await desk.ask("two", output_contract=contract, completion_requirements=files)
        assert "Before you are done you must write the file 'a.md'.\n\n" in models.requests[-1].situation
        await desk.ask("three")
        assert models.requests[-1].situation == ""
        own = desk.holder.current().definitions["default"].instructions
        assert {request.instructions for request in models.requests} == {own}


async def test_tools_are_withheld_during_a_repair(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The tools stay in the request, because the transcript may mention them."""
    models = Scripted([lambda request: says("no"), lambda request: says("null")])
    contract = OutputContract(schema={"type": "null"})
    hooks = CompositeHook((Outputs(),))
    async with open_desk(tmp_path, models, hooks=hooks) as desk, working(desk):
        await desk.ask(output_contract=contract)
        assert [(request.withheld, len(request.tools)) for request in models.requests] == [
            (False, 1),
            (True, 1),
        ]
        assert models.requests[-1].messages[-1].role == "user"


# AGENTS.md.


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Provide a workspace and a home, each with instructions."""
    shop = tmp_path.resolve() / "shop"
    (shop.parent / "home").mkdir()
    shop.mkdir()
    (shop / "AGENTS.md").write_text("Sell shoes.")
    (shop.parent / "home" / "AGENTS.md").write_text("Be polite.")
    return shop


def shop_desk(shop: Path, models: Scripted, *, trusted: bool = True) -> AbstractAsyncContextManager[Desk]:
    """Provide a desk whose default workspace is the shop."""
    roots = (str(shop),) if trusted else ()
    workspaces = Workspaces(str(shop), str(shop.parent / "home"), trusted=roots)
    hooks = CompositeHook((Toolbox(),))
    return open_desk(shop.parent / "desk", models, threaded=True, workspaces=workspaces, hooks=hooks)


async def test_a_trusted_workspace_instructs_its_runs(shop: Path) -> None:
    """The files follow the agent's own instructions, are named in the journal and stay for the whole run."""

    def changes(request: ModelRequest) -> AsyncIterator[ModelEvent]:
        (shop / "AGENTS.md").write_text("Sell hats.")
        return gives(ToolCall("c1", "note", {"text": "x"}), stop_reason="tool_calls")

    models = Scripted([changes, lambda request: says("done"), lambda request: says("done")])
    async with shop_desk(shop, models) as desk, working(desk):
        sent = await desk.ask("go")
        first, second = (request.instructions for request in models.requests)
        assert first == second
        assert first.startswith(built_in().instructions)
        assert first.index("Be polite.") < first.index("Sell shoes.")
        (event,) = events_of(desk, sent.session_id, AgentsFilesLoaded)
        assert [file.path for file in event.files] == [f"{shop.parent}/home/AGENTS.md", f"{shop}/AGENTS.md"]
        await desk.ask("go on")
        assert "Sell hats." in models.requests[-1].instructions


async def test_an_untrusted_workspace_instructs_nobody(shop: Path) -> None:
    """Only the global file counts, until the operator trusts the root."""
    models = Scripted([lambda request: says("done")] * 2)
    async with shop_desk(shop, models, trusted=False) as desk, working(desk):
        await desk.ask("go")
        assert "Be polite." in models.requests[0].instructions
        assert "Sell shoes." not in models.requests[0].instructions
        await desk.do(trust, WorkspaceTrust(root=str(shop)))
        await desk.ask("go")
        assert "Sell shoes." in models.requests[1].instructions


async def test_a_run_without_files_journals_nothing(shop: Path) -> None:
    """A file that appears during a run is for the next one."""
    for directory in (shop, shop.parent / "home"):
        (directory / "AGENTS.md").unlink()

    def writes(request: ModelRequest) -> AsyncIterator[ModelEvent]:
        (shop / "AGENTS.md").write_text("Sell hats.")
        return gives(ToolCall("c1", "note", {"text": "x"}), stop_reason="tool_calls")

    models = Scripted([writes, lambda request: says("done")])
    async with shop_desk(shop, models) as desk, working(desk):
        sent = await desk.ask("go")
        assert models.requests[1].instructions == models.requests[0].instructions
        assert "AGENTS.md" not in models.requests[1].instructions
        assert events_of(desk, sent.session_id, AgentsFilesLoaded) == []


async def test_a_resumed_run_keeps_its_files(shop: Path) -> None:
    """After a restart the run's model is given the text that it had before."""
    gate = Gate()
    models = Scripted(
        [lambda request: gives(ToolCall("c1", "note", {"text": "x"}), stop_reason="tool_calls"), gate]
    )
    async with shop_desk(shop, models) as desk:
        async with working(desk):
            sent = await desk.send("go")
            await gate.reached.wait()
        (shop / "AGENTS.md").write_text("Sell hats.")
        models.answers = [lambda request: says("done")]
        async with working(desk):
            await desk.until(lambda: desk.ended(sent.run_id))
        assert models.requests[-1].instructions == models.requests[0].instructions
        assert len(events_of(desk, sent.session_id, AgentsFilesLoaded)) == 1


async def test_a_hook_blocks_a_compaction(tmp_path: Path) -> None:
    """A conversation stays as long as it is; a compaction that was requested fails with the reason."""
    hook = shell_hook("keeper", "pre_compact", "echo keep it >&2; exit 2")
    models = Scripted([counts(10), counts(10), counts(LONG), counts(300, "short again")])
    composite = CompositeHook(())
    fields: dict[str, Any] = {"context": LIMITS, "hooks": composite, "lifecycle": (hook,)}
    async with open_desk(tmp_path, models, threaded=True, **fields) as desk, working(desk):
        session_id = (await talk(desk)).session_id
        await desk.ask("and now?")
        assert models.summary_requests == []
        (failed,) = events_of(desk, session_id, CompactionFailed)
        assert "the hook 'keeper' blocked it: keep it" in failed.error.message
        compacted = await desk.do(compaction.HANDLERS[0], ConversationCompact(wait="settled"))
        assert desk.run(compacted.run_id).error.reason == "hook_blocked"  # type: ignore[union-attr]
