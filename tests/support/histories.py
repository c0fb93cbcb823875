"""Stores with a history: sessions, runs of every status, conversations, tokens; and ways to damage them."""

import hashlib
from collections.abc import Callable
from typing import Any, TypeVar

from msgspec.structs import replace

from kheishd.core.definition import parse
from kheishd.core.sealing import seal
from kheishd.objects.agents.notes import forget_note, write_note
from kheishd.objects.talk.persona import bind
from kheishd.records.writer import BY_DAEMON, SessionWriter, StreamWriter
from kheishd.store.contents import put_content
from kheishd.store.environment import Transaction
from kheishd.store.records import Receipt
from kheishd.store.table import Table
from kheishd.store.tables import (
    BLOBS,
    CHECKPOINT_CHUNKS,
    CHECKPOINTS,
    FILE_CONTENT_TOTALS,
    FILE_CONTENTS,
    JOURNAL,
    MESSAGE_POSTINGS,
    PERSONAS,
    PUBLICATIONS,
    RECEIPTS,
    RECEIPTS_BY_AGE,
    RUNS,
    SEARCH_TOTALS,
    SECRET_VALUES,
    SESSIONS,
    TABLES,
    TASKS,
)
from kheishd.store.writer import Store
from protocol.events.agent import (
    AgentClosed,
    AgentCloseRequested,
    AgentPrepared,
    AgentRenamed,
    AgentSpawned,
)
from protocol.events.approval import ApprovalAnswered, ApprovalLapsed, ApprovalRequested
from protocol.events.call import CallsJudged, ToolCalled, ToolReturned
from protocol.events.checkpoint import CheckpointDropped, CheckpointReverted, CheckpointSaved
from protocol.events.conversation import ConversationBound, ConversationUnbound
from protocol.events.cron import CronCreated, CronDeleted, CronOccurred, CronPaused
from protocol.events.daemon import DaemonStarted
from protocol.events.definition import DefinitionDeleted, DefinitionStored
from protocol.events.event import EventAwaited, EventDelivered, EventPublished, EventWaitEnded
from protocol.events.goal import GoalCleared, GoalReviewed, GoalSet, GoalUpdated
from protocol.events.hook import HookFailed, HookFailureResolved
from protocol.events.indoubt import IndoubtOpened, IndoubtResolved
from protocol.events.mailbox import (
    MailAcknowledged,
    MailDeadLettered,
    MailDelivered,
    MailPosted,
    MailRequeued,
)
from protocol.events.mcp import McpServerDeleted, McpServerStored
from protocol.events.permission import PermissionsChanged
from protocol.events.persona import PersonaBound, PersonaCreated, PersonaDeleted, PersonaUpdated
from protocol.events.question import QuestionAnswered, QuestionAsked, QuestionLapsed
from protocol.events.route import DefaultRouteChanged, RouteDeleted, RouteStored
from protocol.events.run import (
    CancelRequested,
    InputReceived,
    MessageAppended,
    ModelAsked,
    RunAccepted,
    RunConcluded,
    RunEnded,
    RunStarted,
)
from protocol.events.secret import SecretDeleted, SecretStored
from protocol.events.session import SessionCreated, SessionRenamed
from protocol.events.skill import SkillActivated, SkillDeactivated
from protocol.events.task import (
    TaskAdopted,
    TaskCreated,
    TaskDeleted,
    TaskEnded,
    TaskMoved,
    TaskStarted,
    TaskStopRequested,
    TaskUpdated,
)
from protocol.events.token import TokenCreated, TokenRevoked
from protocol.events.trigger import TriggerChanged, TriggerCreated, TriggerDeleted, TriggerFired
from protocol.events.workspace import WorkspaceTrusted, WorkspaceUntrusted
from protocol.journal.envelope import BUS_STREAM, DAEMON_STREAM
from protocol.journal.line import JournalEvent
from protocol.objects.agent import AgentWorktree
from protocol.objects.approval import Remember
from protocol.objects.checkpoint import FileVersion
from protocol.objects.cron import Occurrence
from protocol.objects.mcp import McpServerSettings
from protocol.objects.memory import NoteProperties
from protocol.objects.permission import Grant, Rule, RuleRef, Verdict
from protocol.objects.question import Option, Question
from protocol.objects.route import RouteSettings
from protocol.objects.run import Outcome, Pinned, RunError
from protocol.objects.task import ShellCommand
from protocol.objects.token import TokenGrant
from protocol.objects.wake import WakeTarget
from protocol.transcript import Item, Message, Text, ToolCall, Usage

T = TypeVar("T")
NOW_MS = 1_800_000_000_000
ANSWER = MessageAppended(item_id="itm_1", message=Message("assistant", [Text("yes")]), usage=Usage(3, 2))
PINNED = Pinned(route="offline", driver="offline", model="offline")


def update(store: Store, fn: Callable[[Transaction], T]) -> T:
    """Run one transaction on a store whose writer is inline."""
    return store.submit(fn, NOW_MS).unwrap()


def session_with_runs(store: Store, session_id: str, *runs: str, parent: str | None = None) -> None:
    """Create a session bound to (default, its id), with a run for each of these statuses."""

    def make(tx: Transaction) -> None:
        writer = SessionWriter(tx, session_id, session=None)
        writer.append(SessionCreated(agent="default", sender=session_id, parent_session_id=parent))
        writer.append(ConversationBound(agent="default", sender=session_id))
        writer.append(SessionRenamed(title="a title"))
        writer.write()

    update(store, make)
    for number, status in enumerate(runs):
        _add_run(store, session_id, f"run_{session_id}_{number}", status)


def _events(session_id: str, run_id: str, status: str) -> list[JournalEvent]:
    accepted: list[JournalEvent] = [
        InputReceived(input_id="inp_1", items=[Text("hello")]),
        RunAccepted(input_id="inp_1", agent="default", pinned=PINNED, sender=session_id),
    ]
    begun: list[JournalEvent] = [RunStarted(starts=1), ModelAsked(item_id="itm_1", turn=1, attempt=1)]
    stopping: list[JournalEvent] = [CancelRequested(outcome="cancelled", note="enough")]
    ended: list[JournalEvent] = [ANSWER, RunEnded(outcome="completed")]
    parked: list[JournalEvent] = [RunEnded(outcome="failed", error=RunError("parked", "again and again"))]
    return {
        "awaiting": accepted + begun + _wait_events(run_id),
        "asking": accepted + begun + _ask_events(run_id),
        "answered": accepted + begun + _ask_events(run_id) + _answer_events(run_id),
        "withdrawn": accepted + begun + _ask_events(run_id) + _withdrawn(run_id),
        "doubted": accepted + begun + _doubt_events(run_id),
        "settled": [*accepted, *begun, *_doubt_events(run_id), _resolution_event(run_id)],
        "queued": accepted,
        "running": accepted + begun,
        "cancelled": accepted + begun + stopping,
        "ended": accepted + begun + ended,
        "parked": accepted + begun + parked,
    }[status]


def _wait_events(run_id: str) -> list[JournalEvent]:
    """Return the events by which a run waits for an event, the second time."""
    calls: list[Item] = [ToolCall(f"c{number}_{run_id}", "write", {}) for number in (0, 1)]
    events: list[JournalEvent] = [
        MessageAppended(item_id="itm_1", message=Message("assistant", calls)),
        CallsJudged(item_id="itm_1", verdicts=[verdict(f"c{number}_{run_id}") for number in (0, 1)]),
    ]
    for number in (0, 1):
        call_id, wait_id = f"c{number}_{run_id}", f"evw_{number}_{run_id}"
        events.append(ToolCalled(call_id=call_id, tool="write"))
        events.append(
            EventAwaited(
                wait_id=wait_id, call_id=call_id, source="ci.*", after=0, expires_at_ms=NOW_MS + 3000
            )
        )
        if number == 0:
            events.append(EventWaitEnded(wait_id=wait_id, call_id=call_id, how="delivered"))
            events.append(ToolReturned(call_id=call_id, tool="write", how="returned", text="{}"))
    return events


def _ask_events(run_id: str) -> list[JournalEvent]:
    """Return the events by which a run asks: for an approval and for an answer, both with deadlines."""
    calls: list[Item] = [ToolCall(f"c{number}_{run_id}", "write", {"path": "a"}) for number in (0, 1)]
    return [
        MessageAppended(item_id="itm_1", message=Message("assistant", calls)),
        CallsJudged(item_id="itm_1", verdicts=[verdict(f"c{number}_{run_id}") for number in (0, 1)]),
        approval_requested(f"apr_{run_id}", f"c0_{run_id}", expires_at_ms=NOW_MS + 1000),
        question_asked(f"qst_{run_id}", f"c1_{run_id}", expires_at_ms=NOW_MS + 2000, to_agent="ses_x"),
    ]


def _answer_events(run_id: str) -> list[JournalEvent]:
    return [
        ApprovalAnswered(approval_id=f"apr_{run_id}", call_id=f"c0_{run_id}", decision="deny", note="no"),
        ToolReturned(call_id=f"c0_{run_id}", tool="write", how="denied", text="no", is_error=True),
        QuestionAnswered(question_id=f"qst_{run_id}", call_id=f"c1_{run_id}", declined=True),
        ToolReturned(call_id=f"c1_{run_id}", tool="write", how="answered", text="{}"),
    ]


def _withdrawn(run_id: str) -> list[JournalEvent]:
    return [
        CancelRequested(outcome="cancelled"),
        ApprovalLapsed(approval_id=f"apr_{run_id}", call_id=f"c0_{run_id}", how="withdrawn"),
        ToolReturned(call_id=f"c0_{run_id}", tool="write", how="stopped", text="", is_error=True),
        QuestionLapsed(question_id=f"qst_{run_id}", call_id=f"c1_{run_id}", how="withdrawn"),
        ToolReturned(call_id=f"c1_{run_id}", tool="write", how="stopped", text="", is_error=True),
        RunEnded(outcome="cancelled"),
    ]


def _doubt_events(run_id: str) -> list[JournalEvent]:
    """Return the events of a call in which the daemon died, and of the end of its run."""
    call_id = f"c0_{run_id}"
    return [
        MessageAppended(item_id="itm_1", message=Message("assistant", [ToolCall(call_id, "write", {})])),
        CallsJudged(item_id="itm_1", verdicts=[verdict(call_id)]),
        ToolCalled(call_id=call_id, tool="write"),
        RunStarted(starts=2),
        indoubt_opened(f"dbt_{run_id}", call_id),
        ToolReturned(call_id=call_id, tool="write", how="in_doubt", text="?", is_error=True),
        RunEnded(outcome="completed"),
    ]


def _resolution_event(run_id: str) -> JournalEvent:
    call_id = f"c0_{run_id}"
    return IndoubtResolved(
        indoubt_id=f"dbt_{run_id}", call_id=call_id, tool="write", outcome="done", note="It was done."
    )


def verdict(call_id: str) -> Verdict:
    """Return the verdict that allows a call of ``write``."""
    return Verdict(call_id=call_id, tool="write", decision="allow", base="allow", why="write's default")


def approval_requested(approval_id: str, call_id: str = "c0", **more: Any) -> ApprovalRequested:
    """Return the request to approve a call of ``write``."""
    return ApprovalRequested(
        approval_id=approval_id, call_id=call_id, tool="write", index=0, message_cursor=1, **more
    )


def question_asked(question_id: str, call_id: str = "c1", **more: Any) -> QuestionAsked:
    """Return the question of a call."""
    asked_question = Question(question="Which?", key="q1", options=[Option(option_id="o1", label="This")])
    return QuestionAsked(question_id=question_id, call_id=call_id, questions=[asked_question], **more)


def indoubt_opened(indoubt_id: str, call_id: str = "c2", **more: Any) -> IndoubtOpened:
    """Return the event of a call that is in doubt."""
    return IndoubtOpened(
        indoubt_id=indoubt_id,
        call_id=call_id,
        tool="write",
        index=0,
        message_cursor=1,
        called_at_ms=NOW_MS,
        note="its file is there",
        **more,
    )


def _add_run(store: Store, session_id: str, run_id: str, status: str) -> None:
    events = _events(session_id, run_id, status)

    def make(tx: Transaction) -> None:
        writer = SessionWriter(tx, session_id, session=tx.get(SESSIONS, session_id))
        for event in events:
            writer.append(event, run_id=run_id)
        writer.write()

    update(store, make)


def token(store: Store, token_id: str, *, revoked: bool = False) -> None:
    """Create a token, and revoke it if asked to."""

    def make(tx: Transaction) -> None:
        grant = TokenGrant(scopes=["read"])
        digest = f"digest-{token_id}"
        writer = StreamWriter(tx, DAEMON_STREAM)
        writer.append(TokenCreated(token_id=token_id, digest=digest, grant=grant))
        if revoked:
            writer.append(TokenRevoked(token_id=token_id))
        writer.write()

    update(store, make)


def rich_history(store: Store) -> None:
    """Create records of every type, in every status."""

    def begin(tx: Transaction) -> None:
        tx.append(DAEMON_STREAM, DaemonStarted(version="test", pid=1, schema=1))
        tx.put(RECEIPTS, "uid:0", "m", "k", value=Receipt(params_digest=b"d", result=b"{}", at_ms=NOW_MS))
        tx.put(RECEIPTS_BY_AGE, NOW_MS, "uid:0", "m", "k", value=b"")
        tx.put(BLOBS, hashlib.sha256(b"instructions").hexdigest(), 0, value=b"instructions")

    update(store, begin)
    session_with_runs(store, "ses_a", "ended", "ended", "running", "queued")
    session_with_runs(store, "ses_b", "ended", parent="ses_a")
    session_with_runs(store, "ses_c", "cancelled", "queued")
    session_with_runs(store, "ses_d", "awaiting")
    session_with_runs(store, "ses_e", "answered")
    session_with_runs(store, "ses_f", "withdrawn", "doubted", "settled", "asking")
    update(store, _reset_d)
    update(store, _tasks)
    _agents(store)
    update(store, _permissions)
    update(store, _mail)
    token(store, "tok_a")
    token(store, "tok_b", revoked=True)
    update(store, _personas)
    update(store, _crons)
    update(store, _notes)
    update(store, _bus)
    update(store, _checkpoints)


def _checkpoints(tx: Transaction) -> None:
    """Save checkpoints: of a call, of its undo, and one that was dropped."""
    writer = SessionWriter(tx, "ses_a", session=tx.get(SESSIONS, "ses_a"))
    names = [hashlib.sha256(content).hexdigest() for content in (b"one", b"two")]
    for content in (b"one", b"two"):
        put_content(tx, content)
    files = [FileVersion(path="a", before=names[0], after=names[1], bytes=3), FileVersion(path="b")]
    writer.append(CheckpointSaved(checkpoint_id="chk_a", workspace="/w", files=files))
    back = [FileVersion(path="a", before=names[1], after=names[0], bytes=3)]
    undo = CheckpointSaved(checkpoint_id="chk_b", workspace="/w", kind="undo", files=back, reverts=["chk_a"])
    writer.append_all([undo, CheckpointReverted(checkpoint_id="chk_b", reverts=["chk_a"])])
    writer.append(CheckpointSaved(checkpoint_id="chk_c", workspace="/w"))
    writer.append(CheckpointDropped(checkpoint_id="chk_c"))
    writer.write()


def _crons(tx: Transaction) -> None:
    """Create cron entries: one with a run in flight and a refusal, and one that was created again."""
    properties: dict[str, Any] = {
        "schedule": "every 1h",
        "target": WakeTarget(agent="default", prompt="tidy up"),
        "next_due_ms": NOW_MS,
    }
    rows = [
        Occurrence(due_ms=NOW_MS, at_ms=NOW_MS, outcome="running", session_id="ses_a", run_id="run_cron"),
        Occurrence(due_ms=NOW_MS + 1, at_ms=NOW_MS + 1, outcome="refused", reason="queue_full"),
    ]
    writer = StreamWriter(tx, "cron/tidy")
    writer.append(CronCreated(cron_id="tidy", source="agent", root_session_id="ses_a", **properties))
    for row in rows:
        writer.append(CronOccurred(cron_id="tidy", occurrence=row, next_due_ms=NOW_MS + 2))
    writer.write()
    writer = StreamWriter(tx, "cron/again")
    created = CronCreated(cron_id="again", **properties)
    writer.append_all([created, CronDeleted(cron_id="again"), created, CronPaused(cron_id="again")])
    writer.write()


def _bus(tx: Transaction) -> None:
    """Publish events and create triggers in every state."""
    writer = StreamWriter(tx, BUS_STREAM)
    target = WakeTarget(agent="default", sender="ses_a", prompt="Look.")
    for number, source in enumerate(("ci.build", "ci.*", "*", "gone")):
        writer.append(
            TriggerCreated(
                trigger_id=f"trg_{number}",
                author="agent" if number else "file",
                owner_session="ses_a" if number else None,
                source=source,
                target=target,
            )
        )
    for event_id, matched in (("evt_a", True), ("evt_b", True), ("evt_c", False)):
        writer.append(
            EventPublished(event_id=event_id, source="ci.build", publisher="uid:0", matched=matched)
        )
    cursor = writer.need(PUBLICATIONS, "evt_a").created_cursor
    held = TriggerFired(
        trigger_id="trg_0", event_id="evt_a", event_cursor=cursor, outcome="held", due_at_ms=NOW_MS + 5_000
    )
    writer.append(held)
    writer.append(replace(held, trigger_id="trg_1", outcome="refused", due_at_ms=None, note="full"))
    writer.append(replace(held, trigger_id="trg_2", outcome="delivered", due_at_ms=None))
    writer.append(EventDelivered(event_id="evt_a", done=True, held=1, refused=1, delivered=1))
    writer.append(EventDelivered(event_id="evt_b", position=["exact", "ci.build", "trg_0"], held=1))
    writer.append(TriggerChanged(trigger_id="trg_2", status="paused"))
    writer.append(TriggerDeleted(trigger_id="trg_3", why="once"))
    writer.write()


def mail_posted(message_id: str, **more: Any) -> MailPosted:
    """Return the posting of a message."""
    return MailPosted(
        message_id=message_id, from_agent="ses_b", subject="s", payload={"type": "t"}, digest="d", **more
    )


def _mail(tx: Transaction) -> None:
    """Create messages in every state, a closed mailbox, and a run that is to be concluded."""
    pinned = Pinned(route="offline", driver="offline", model="offline")
    writer = SessionWriter(tx, "ses_b", session=tx.get(SESSIONS, "ses_b"))
    writer.append_all(map(mail_posted, ("m1", "m2", "m3", "m4")))
    writer.append(mail_posted("m5", expires_at_ms=NOW_MS + 1))
    outcomes: tuple[Outcome, ...] = ("completed", "failed", "failed", "completed")
    for number, outcome in enumerate(outcomes, 1):
        writer.begin_run(f"run_mail_{number}")
        accepted = RunAccepted(input_id="i", agent="default", pinned=pinned, kind="mailbox", reports=True)
        writer.append_all([accepted, MailDelivered(message_ids=[f"m{number}"])])
        writer.append(RunEnded(outcome=outcome))
        if number == 1:
            writer.append(MailAcknowledged(message_ids=["m1"], how="delivered"))
        elif number == 2:
            writer.append(MailRequeued(message_ids=["m2"], note="it failed"))
        elif number == 3:
            writer.append(MailDeadLettered(message_ids=["m3"], reason="attempts"))
        if number < 4:
            writer.append(RunConcluded(report="mail", message_id=f"notice:run_mail_{number}"))
    writer.write()


def _notes(tx: Transaction) -> None:
    """Write notes: one that was changed, one that was forgotten, and an archive of another agent."""
    first = NoteProperties(agent="default", name="Build", content="Run make.", aliases=["make"])
    write_note(tx, first, BY_DAEMON)
    write_note(tx, replace(first, content="Run ninja. 東京都"), BY_DAEMON, session_id="ses_a")
    gone = write_note(tx, NoteProperties(agent="default", name="Gone", content="x"), BY_DAEMON)
    forget_note(tx, gone, BY_DAEMON)
    archive = NoteProperties(agent="critic", name="archive-1", content="They talked.", kind="archive")
    write_note(tx, archive, BY_DAEMON)


def _personas(tx: Transaction) -> None:
    """Create personas: one of version 2, a deleted one that was created again, and a bound one."""
    soul: dict[str, Any] = {"soul_sha256": hashlib.sha256(b"instructions").hexdigest(), "soul_bytes": 12}
    writer = StreamWriter(tx, DAEMON_STREAM)
    writer.append_all(
        [
            PersonaCreated(persona_id="critic", display_name="Critic", **soul),
            PersonaUpdated(persona_id="critic", display_name="A critic", **soul),
            PersonaCreated(persona_id="gone", display_name="Gone", **soul),
            PersonaDeleted(persona_id="gone"),
            PersonaCreated(persona_id="again", display_name="First", **soul),
            PersonaDeleted(persona_id="again"),
            PersonaCreated(persona_id="again", display_name="Second", **soul),
        ]
    )
    writer.write()
    bound = SessionWriter(tx, "ses_d", session=tx.get(SESSIONS, "ses_d"))
    bound.append(PersonaBound(binding=bind(writer.need(PERSONAS, "critic"), NOW_MS)))
    bound.write()


SHELL = ShellCommand(command="make", workdir="/w", workspace="/w", sandboxed=True)


def task_created(task_id: str, *blocked_by: str, shell: bool = False) -> TaskCreated:
    """Return the creation of a task that is blocked by others, or of a shell."""
    if shell:
        return TaskCreated(task_id=task_id, title="make", kind="shell", shell=SHELL)
    return TaskCreated(task_id=task_id, title=f"do {task_id}", blocked_by=list(blocked_by))


def task_ended(task_id: str) -> TaskEnded:
    """Return the end of a shell."""
    return TaskEnded(task_id=task_id, status="failed", terminal_reason="exited", exit_code=2)


def _tasks(tx: Transaction) -> None:
    """Create tasks in every status, shells (running, being stopped, ended) and an active skill."""
    writer = SessionWriter(tx, "ses_d", session=tx.get(SESSIONS, "ses_d"))
    writer.append_all(
        [
            SkillActivated(name="old", text="0" * 64, text_bytes=1),
            SkillActivated(name="new", text="1" * 64, text_bytes=1, by_call=True),
            SkillDeactivated(name="old"),
            task_created("tsk_done"),
            TaskUpdated(task_id="tsk_done", status="completed", output="it is done"),
            task_created("tsk_open", "tsk_done"),
            task_created("tsk_waits", "tsk_done", "tsk_open"),
            task_created("tsk_gone"),
            TaskDeleted(task_id="tsk_gone"),
            task_created("tsk_runs", shell=True),
            TaskStarted(task_id="tsk_runs", pid=7, start_ticks=8),
            task_created("tsk_stops", shell=True),
            TaskStopRequested(task_id="tsk_stops", note="enough"),
            task_created("tsk_over", shell=True),
            task_ended("tsk_over"),
            task_created("tsk_moves", shell=True),
            TaskStarted(task_id="tsk_moves", pid=9, start_ticks=10),
        ]
    )
    moving = writer.need(TASKS, "tsk_moves")
    writer.append(TaskMoved(task_id="tsk_moves", to_session_id="ses_a"))
    writer.write()
    heir = SessionWriter(tx, "ses_a", session=tx.get(SESSIONS, "ses_a"))
    heir.append(TaskAdopted(task_id="tsk_moves", task=moving, note="it is yours"))
    heir.write()


def agent_spawned(name: str, nickname: str, **more: Any) -> AgentSpawned:
    """Return the spawn of an agent below ``ses_a``."""
    return AgentSpawned(
        parent_id="ses_a",
        root_id="ses_a",
        name=name,
        path=f"ses_a/{name}",
        nickname=nickname,
        spawn_request_id=f"run_1:{name}",
        fingerprint="00",
        launch_run_id=f"run_{name}_0",
        **more,
    )


def _agents(store: Store) -> None:
    """Create spawned agents in every state."""
    tied: dict[str, Any] = {"retention": "close_on_settle", "spawned_by_run_id": "run_ses_a_0"}
    closing, closed = AgentCloseRequested(note="enough"), AgentClosed()
    worktree = AgentWorktree(path="/w/.kheish/worktrees/ses_j", source_root="/w", branch="kheish/ses_j/j")
    agents: dict[str, list[JournalEvent]] = {
        "ses_g": [agent_spawned("g", "Atlas", **tied)],
        "ses_h": [agent_spawned("h", "Nova"), AgentRenamed(nickname="Sage"), closing],
        "ses_i": [agent_spawned("i", "Nova"), closing, closed],
        "ses_j": [agent_spawned("j", "Ion", worktree=worktree)],
        "ses_k": [agent_spawned("k", "Vega", worktree=worktree), AgentPrepared(base_commit="0")],
    }

    def make(tx: Transaction) -> None:
        for session_id, events in agents.items():
            writer = SessionWriter(tx, session_id, session=None)
            writer.append(SessionCreated(agent="default", parent_session_id="ses_a", root_session_id="ses_a"))
            writer.append_all(events)
            writer.write()

    update(store, make)
    _add_run(store, "ses_g", "run_g_0", "ended")


ALLOW, DENY = (Rule(tool="bash", subject="make *", decision="allow"), Rule(tool="web*", decision="deny"))


def _permissions(tx: Transaction) -> None:
    """Create definitions, routes, rules of the daemon, a session and a run, and grants, one used up."""
    writer = StreamWriter(tx, DAEMON_STREAM)
    for name in ("a", "b", "a"):
        writer.append(DefinitionStored(definition=parse(name, b"Be brief.", None)))
    writer.append(DefinitionDeleted(name="b"))
    for route_id, revision in (("a", 1), ("b", 1), ("a", 2)):
        settings = RouteSettings(model=f"m{revision}")
        writer.append(RouteStored(route_id=route_id, revision=revision, settings=settings))
    writer.append(RouteDeleted(route_id="b"))
    writer.append(DefaultRouteChanged(route_id="a"))
    for server, command in (("files", "old"), ("gone", "x"), ("files", "new")):
        writer.append(McpServerStored(server=server, settings=McpServerSettings(command=command)))
    writer.append(McpServerDeleted(server="gone"))
    writer.append(PermissionsChanged(add=[ALLOW]))
    writer.append(PermissionsChanged(add=[DENY], remove=[RuleRef(tool="bash", subject="make *")]))
    writer.append(WorkspaceTrusted(root="/srv/shop"))
    failed = HookFailed(
        dead_letter_id="hkf_1",
        hook="guard",
        event="stop",
        subject="",
        invocation_key="k",
        policy="open",
        problem="it hung",
        attempts=1,
        payload="{}",
    )
    writer.append(failed)
    writer.append(replace(failed, dead_letter_id="hkf_2", dropped=["hkf_1"]))
    writer.append(replace(failed, dead_letter_id="hkf_3"))
    writer.append(HookFailureResolved(dead_letter_id="hkf_3", note="mended"))
    writer.append(WorkspaceTrusted(root="/srv/old"))
    writer.append(WorkspaceUntrusted(root="/srv/old"))
    for slot_id in ("openai", "old", "openai"):
        writer.append(SecretStored(slot_id=slot_id))
        tx.put(SECRET_VALUES, slot_id, value=seal(bytes(32), slot_id, "sk-0123456789", bytes(12)))
    writer.append(SecretDeleted(slot_id="old"))
    tx.delete(SECRET_VALUES, "old")
    writer.write()
    run_id = "run_ses_a_2"
    writer = SessionWriter(tx, "ses_a", session=tx.get(SESSIONS, "ses_a"))
    writer.append(PermissionsChanged(add=[ALLOW]))
    writer.append_all(
        [
            GoalSet(goal_id="gol_1", objective="First."),
            GoalCleared(goal_id="gol_1"),
            GoalSet(goal_id="gol_2", objective="Second.", done_when="it is done"),
            GoalReviewed(goal_id="gol_2", reviewed_run_id="run_x", verdict="not_done", usage=Usage(5, 1)),
            GoalUpdated(goal_id="gol_2", status="waiting", resume_at_ms=5),
        ]
    )
    writer.write()
    writer = SessionWriter(tx, "ses_a", session=tx.get(SESSIONS, "ses_a"), run=tx.get(RUNS, run_id))
    writer.append(PermissionsChanged(add=[DENY]))
    writer.append_all(_grant_events("grt_1", "run", remaining_uses=1))
    writer.append_all(_grant_events("grt_2", "session", remaining_uses=2))
    writer.append(CallsJudged(item_id="itm_1", verdicts=[_verdict("grt_1"), _verdict("grt_2")]))
    writer.write()


def _grant_events(grant_id: str, remember: Remember, remaining_uses: int | None = None) -> list[JournalEvent]:
    grant = Grant(
        grant_id=grant_id, tool="bash", subject="ls", granted_by="uid:0", remaining_uses=remaining_uses
    )
    approval_id = f"apr_{grant_id}"
    answered = ApprovalAnswered(
        approval_id=approval_id, call_id="call_1", decision="allow", remember=remember, grant=grant
    )
    return [approval_requested(approval_id, "call_1"), answered]


def _verdict(grant_id: str) -> Verdict:
    return Verdict(
        call_id="call_1",
        tool="bash",
        subject="ls",
        decision="allow",
        base="ask",
        why=f"grant {grant_id}",
        grant_id=grant_id,
    )


def _reset_d(tx: Transaction) -> None:
    writer = SessionWriter(tx, "ses_d", session=tx.get(SESSIONS, "ses_d"))
    writer.append(ConversationUnbound(agent="default", sender="ses_d"))
    writer.write()


def dump(store: Store) -> dict[str, list[Any]]:
    """Return every row of every table."""
    with store.read() as snapshot:
        return {table.name: list(snapshot.scan(table)) for table in TABLES}


def spoil_line(store: Store, stream: str, place: int, change: Callable[[bytes], bytes]) -> int:
    """Change the stored bytes of one entry, as a failing disk would; return its cursor."""
    with store.read() as snapshot:
        key, stored = list(snapshot.scan(JOURNAL, stream))[place]
    update(store, lambda tx: tx.put(JOURNAL, *key, value=change(stored)))
    return int(key[1])


CACHES = (CHECKPOINT_CHUNKS, CHECKPOINTS, MESSAGE_POSTINGS, SEARCH_TOTALS)
CONTENTS = (FILE_CONTENTS, FILE_CONTENT_TOTALS)
"""The tables of former contents of files, which no event has."""
"""The tables that hold what was read from the journal lately: they may lack rows."""


def derived_tables(*but: Table[Any]) -> list[Table[Any]]:
    """Return the tables that are derived from the journal, except some."""
    return [table for table in TABLES if table not in but]
