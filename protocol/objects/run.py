"""A run: one execution in a session, with everything that it uses pinned at acceptance."""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from protocol.budget import Amounts, Budget, Cost, PinnedBudget, Prices
from protocol.contract import BoundContract, FollowUp, OutputContract, Requirement
from protocol.errors.run import ArtifactNotFound, DebugNotFound, RunAlreadyEnded, RunNotFound
from protocol.errors.session import SessionNotFound
from protocol.errors.store import StorageFull
from protocol.ids import IDENTITY, Cursor, Id
from protocol.limits.debug import DEFAULT_DEBUG_TEXT_BYTES, MAX_DEBUG_ARTIFACT_ID_BYTES, MAX_DEBUG_TEXT_BYTES
from protocol.limits.model import DEFAULT_CONTEXT_TOKENS
from protocol.limits.names import (
    MAX_AGENT_BYTES,
    MAX_MODEL_BYTES,
    MAX_PATH_BYTES,
    MAX_REASON_BYTES,
    MAX_SOURCE_BYTES,
)
from protocol.limits.output import MAX_REQUIREMENTS
from protocol.limits.rpc import MAX_WAIT_SECONDS
from protocol.limits.session import MAX_INPUT_ITEMS
from protocol.objects.output import OutputKind
from protocol.objects.permission import Grant, Rule
from protocol.rpc.method import Method, Mutation, Page, Params
from protocol.transcript import DeclaredOrigin, InputItem, InputOrigin, Usage

RunStatus = Literal[
    "queued",
    "running",
    "waiting_for_approval",
    "waiting_for_user_question",
    "waiting_for_event",
    "completed",
    "failed",
    "cancelled",
    "interrupted",
]
# No controls, and no marks that reorder or hide text. The lookahead, as "$" also matches before a newline.
PRINTABLE_PATTERN = r"^[^\x00-\x1f\x7f-\xa0\u200b-\u200f\u2028-\u202f\u2060-\u206f\ufeff]+$(?!\n)"

Name = Annotated[str, Meta(min_length=1, max_length=MAX_AGENT_BYTES, pattern=PRINTABLE_PATTERN)]
"""The name of an agent or a route."""
ModelName = Annotated[str, Meta(min_length=1, max_length=MAX_MODEL_BYTES, pattern=PRINTABLE_PATTERN)]
PathName = Annotated[str, Meta(min_length=1, max_length=MAX_PATH_BYTES, extra=IDENTITY)]
Source = Annotated[str, Meta(max_length=MAX_SOURCE_BYTES)]
Outcome = Literal["completed", "failed", "cancelled", "interrupted"]
ENDED: frozenset[str] = frozenset(("completed", "failed", "cancelled", "interrupted"))
"""The statuses that never change again."""
SETTLED: frozenset[str] = ENDED | {"waiting_for_approval", "waiting_for_user_question", "waiting_for_event"}
"""The statuses in which nothing more happens without a person, or an event on the bus."""


RunKind = Literal["input", "compaction", "mailbox"]
"""The purpose of a run: to answer an input, to summarize the session, or to read mail."""

DebugLevel = Literal["off", "redacted", "full"]
"""The level of a debug capture: nothing; the structure of the model calls, with lengths and digests
instead of texts; or everything. Credentials are never captured."""

Busy = Literal["queue", "steer", "interrupt", "reject"]
"""The policy for a message that arrives while a run of its session is in flight: it waits for its turn; it
joins that run; that run is interrupted, and the message is next; or it is refused."""

Applied = Literal["started", "queued", "steered", "interrupted"]
"""What happened to a message. ``started``: no run of its session was ahead of it. ``queued``: it waits for
its turn. ``steered``: it joined the run in flight. ``interrupted``: that run is stopped, and it is next."""

CallOutcome = Literal["returned", "failed", "denied", "in_doubt", "stopped", "answered"]
CallState = Literal["new", "ready", "asked", "questioned", "called", "awaiting", "doubted", "returned"]
"""``new``: not judged. ``ready``: may run. ``asked``, ``questioned``: waits for a person. ``called``:
running. ``awaiting``: waits for an event on the bus. ``doubted``: the daemon died while it ran. ``returned``:
has its result."""


class OpenCall(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A tool call of the newest message, until all calls of that message have their results.

    ``waits_for`` is the id of the approval, the question or the wait for an event that it waits for.
    ``input_cursor`` is the cursor of the event by which an approver or a hook changed its arguments; null:
    they are those of the message. ``waits``: it only waits for other runs. ``binding`` is the state that its
    approval is bound to.
    ``approved``: a person allowed the call, now or in advance by a grant; ``approval_id`` is the approval,
    whose audience must be that of the current rules. ``updated_cursor`` is the cursor of the last event about
    the call.
    """

    call_id: str
    tool: str
    state: CallState
    parallel: bool = False
    repeatable: bool = False
    waits: bool = False
    attempt: int = 0
    waits_for: str | None = None
    input_cursor: Cursor | None = None
    binding: str | None = None
    approved: bool = False
    approval_id: str | None = None
    called_at_ms: int = 0
    updated_cursor: Cursor = 0


class PinnedRoute(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A route as a run pinned it. It contains no secret: ``auth_ref`` is a name.

    ``auth_refs`` are the names of all keys of a route with several. ``context_tokens`` is the size of the
    model's context window; ``prices`` determine the cost.
    """

    route: str
    driver: str
    model: str
    base_url: str | None = None
    auth_ref: str | None = None
    preset: str | None = None
    auth_header: str | None = None
    ca_file: str | None = None
    options: dict[str, Any] = {}
    context_tokens: int = DEFAULT_CONTEXT_TOKENS
    prices: Prices | None = None
    auth_refs: list[str] = []


class Pinned(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The values that a run uses, fixed at acceptance: its route (see ``PinnedRoute``), and the rest.

    ``instructions_digest`` is the SHA-256 (hex) of the agent's instructions, which are stored separately, and
    ``section_digests`` are those of the sections that follow them, such as the text of a profile.
    ``tools`` lists the offered tools: null means all tools, an empty list none. ``debug`` is the level of the
    capture; a later ``off`` in the configuration does not change it. The run must satisfy ``output_contract``
    and ``requirements``. ``max_continuations`` is the maximum number of automatic continuations of a
    truncated answer. ``budget`` limits the run. ``is_accounted``: its session has a budget, too.
    ``fallbacks`` are the routes that it asks in order if its own fails.
    """

    route: str
    driver: str
    model: str
    base_url: str | None = None
    auth_ref: str | None = None
    preset: str | None = None
    auth_header: str | None = None
    ca_file: str | None = None
    options: dict[str, Any] = {}
    instructions_digest: str | None = None
    section_digests: list[str] = []
    tools: list[str] | None = None
    workspace: str | None = None
    permission_mode: str = "default"
    max_turns: int = 0
    context_tokens: int = DEFAULT_CONTEXT_TOKENS
    generation: int = 0
    debug: DebugLevel = "off"
    output_contract: BoundContract | None = None
    requirements: list[Requirement] = []
    max_continuations: int = 0
    budget: PinnedBudget | None = None
    is_accounted: bool = False
    prices: Prices | None = None
    auth_refs: list[str] = []
    fallbacks: list[PinnedRoute] = []


class RunError(Struct, frozen=True, omit_defaults=True):
    """The failure of a run or of a model call: a stable reason, a sentence, the provider's status."""

    reason: str
    message: str
    status: int | None = None
    retryable: bool = False


class GoalContinuation(Struct, frozen=True):
    """The place of a run among the continuations of a goal, and the reason why the daemon continued."""

    goal_id: str
    number: int
    reason: str


class RunState(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The state of a run: the fields that its stored record and its public form share.

    ``starts`` counts how many times a worker started the run; ``starts_without_progress``, how many effects
    in a row were started without a committed outcome. ``claimed``: a worker executes the run, or crashed with
    it. ``turn`` counts the answered model calls. ``attempt`` counts the attempts of the current model call,
    whose message will have the id ``item_id``; ``failures`` counts its failed attempts that were repeated
    after a pause (an attempt that a restart interrupted is not a failure). ``output_cursor`` is the cursor of
    the last answer. ``calls`` are the tool calls of that answer, in order; the list is empty once all have
    their results. ``pending_steers`` counts the steers that the model has not read yet. ``grants`` are
    approvals remembered for this run, ``rules`` its permission rules. ``output_cursors`` are the cursors of
    the outputs that its calls emitted.

    ``follow_up`` is the cause of another model call after an answer. ``repairs`` counts the model calls
    caused by the output contract, ``reminders`` those caused by the requirements; ``met_requirements`` are
    the indexes of the satisfied requirements. ``partial_cursors`` are the cursors of the truncated answers
    that the last answer continues.

    ``origins`` are the origins of everything that it has read itself: its input, the messages to it, and the
    outputs of its tools. A run of an earlier version has none; it is a person's.

    ``mail`` is the number of messages that it delivers, and ``reports`` whether the agent's parent is to be
    told of its end; both are unset once that is done, after its end.

    ``hops`` is the number of events on the bus, each the consequence of the one before, that led to it.

    ``goal``: the daemon accepted the run by itself, for its session's goal. ``urgent``: it was accepted
    ahead of the queued ones, because its message interrupted a run.

    ``agents_files_cursor`` is the cursor of the event that names the ``AGENTS.md`` files that it read,
    ``recall_cursor`` that of the event that names the notes that it was given.
    ``reserved`` is set aside for children that the run spawned, ``delegated`` was used by those that ended.

    ``worked_ms`` is the working time up to the last event, ``tool_bytes`` the size of all tool results,
    ``cost`` the cost so far if the route has prices. ``route`` is the route that answered last, of a run with
    several.
    """

    run_id: Id
    session_id: Id
    agent: str
    input_id: Id
    status: RunStatus
    accepted_at_ms: int
    updated_at_ms: int
    accepted_cursor: Cursor
    updated_cursor: Cursor
    kind: RunKind = "input"
    urgent: bool = False
    goal: GoalContinuation | None = None
    sender: str | None = None
    guest: str | None = None
    started_at_ms: int | None = None
    ended_at_ms: int | None = None
    starts: int = 0
    starts_without_progress: int = 0
    claimed: bool = False
    turn: int = 0
    attempt: int = 0
    failures: int = 0
    item_id: str | None = None
    retry_at_ms: int | None = None
    cancel: Literal["cancelled", "interrupted"] | None = None
    output_cursor: Cursor | None = None
    output_item_id: str | None = None
    calls: list[OpenCall] = []
    pending_steers: int = 0
    rules: list[Rule] = []
    grants: list[Grant] = []
    output_cursors: list[Cursor] = []
    follow_up: FollowUp | None = None
    repairs: int = 0
    reminders: int = 0
    met_requirements: list[int] = []
    partial_cursors: list[Cursor] = []
    origins: list[InputOrigin] = []
    agents_files_cursor: Cursor | None = None
    recall_cursor: Cursor | None = None
    mail: int = 0
    reports: bool = False
    hops: int = 0
    worked_ms: int = 0
    reserved: Amounts = Amounts()
    delegated: Amounts = Amounts()
    tool_bytes: int = 0
    error: RunError | None = None
    usage: Usage = Usage()
    cost: Cost | None = None
    route: str | None = None


class Run(RunState, frozen=True, kw_only=True, omit_defaults=True):
    """A run as clients see it: its state, and the values pinned at its acceptance."""

    pinned: Pinned


class RunView(Run, frozen=True, kw_only=True, omit_defaults=True):
    """A run, its output so far, and its position in the session's queue (1 is next) while it waits there.

    ``request_id`` is the JSON-RPC id of the request at the begin of the run's chain: the one that began the
    run, or the run above that spawned its agent.
    """

    queue_position: int | None = None
    request_id: str | int | None = None
    output: str | None = None
    output_kind: OutputKind | None = None
    value: Any = None


class RunList(Struct, frozen=True):
    """A page of runs."""

    runs: list[Run]
    next: str | None


class SendParams(Mutation, frozen=True, kw_only=True):
    """The params of every ``send`` besides its address: the input, its settings, and how the caller waits.

    ``origin`` is the kind of the input's author, by default the one that the caller's token fixes, else
    ``person``. ``source`` is the author's name, address or id.
    """

    content: str | None = None
    input_items: Annotated[list[InputItem], Meta(max_length=MAX_INPUT_ITEMS)] | None = None
    origin: DeclaredOrigin | None = None
    source: Source = ""
    route: Name | None = None
    model: ModelName | None = None
    metadata: dict[str, Any] = {}
    output_contract: OutputContract | None = None
    completion_requirements: Annotated[list[Requirement], Meta(max_length=MAX_REQUIREMENTS)] = []
    budget: Budget | None = None
    busy: (
        Annotated[
            Busy,
            Meta(description="The policy if a run is in flight; default: the session's, then the agent's."),
        ]
        | None
    ) = None
    wait: Literal["accepted", "settled"] = "accepted"
    stream: bool = False
    timeout_s: Annotated[float, Meta(gt=0, le=MAX_WAIT_SECONDS)] | None = None
    debug: (
        Annotated[
            DebugLevel,
            Meta(description="The debug capture of this run's model calls; requires the scope ``operate``."),
        ]
        | None
    ) = None


class SendResult(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The result of a send: the session and run of the input and, once the run has settled, its outcome.

    ``cursor`` is the cursor of the acceptance: ``journal.subscribe {after: cursor, epoch}`` misses no later
    event.
    ``value`` is the output as a JSON value, if it has one.

    ``applied`` is what happened to the message, ``in_flight`` the run that was in flight. ``note`` explains
    an ``applied`` that differs from the policy. A message that was steered has no run of its own: ``run_id``
    is the run that it joined, ``steer_id`` its own id, and ``cursor`` that of its event.
    """

    session_id: str
    run_id: str
    status: RunStatus
    cursor: Cursor
    applied: Applied | None = None
    in_flight: str | None = None
    note: str = ""
    steer_id: str | None = None
    epoch: str = ""
    subscription: str | None = None
    output: str | None = None
    output_kind: OutputKind | None = None
    value: Any = None
    error: RunError | None = None
    usage: Usage = Usage()
    cost: Cost | None = None


class SteerParams(Mutation, frozen=True, kw_only=True):
    """The params of every ``steer`` besides its address: a message to the run in flight."""

    content: str | None = None
    input_items: Annotated[list[InputItem], Meta(max_length=MAX_INPUT_ITEMS)] | None = None
    origin: DeclaredOrigin | None = None
    source: Source = ""


class SteerResult(Struct, frozen=True, kw_only=True):
    """The run that received a steer; its model reads the message before its next answer."""

    session_id: str
    run_id: str
    steer_id: str
    cursor: Cursor


class CompactParams(Mutation, frozen=True, kw_only=True):
    """The params of every ``compact`` besides its address: how the caller waits."""

    wait: Literal["accepted", "settled"] = "accepted"
    timeout_s: Annotated[float, Meta(gt=0, le=MAX_WAIT_SECONDS)] | None = None


class CompactResult(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The run that summarizes a session and, once it has ended, its outcome.

    ``note`` explains why there was nothing to summarize. ``pre_tokens`` and ``post_tokens`` are the sizes of
    the prompt before and after, if known.
    """

    session_id: str
    run_id: str
    status: RunStatus
    cursor: Cursor
    summary: str | None = None
    pre_tokens: int | None = None
    post_tokens: int | None = None
    note: str = ""
    error: RunError | None = None
    usage: Usage = Usage()


class RunRef(Params, frozen=True, kw_only=True):
    """Params that name a run."""

    run_id: Id


class RunListParams(Page, frozen=True, kw_only=True):
    """Params of ``run.list``: newest first. ``active`` lists unfinished runs of all sessions."""

    session_id: Id | None = None
    status: RunStatus | None = None
    active: bool = False
    order: Literal["oldest", "newest"] = "newest"


class RunWait(Params, frozen=True, kw_only=True):
    """Params of ``run.wait``. After ``timeout_s``, the answer is the run in its current state."""

    run_id: Id
    timeout_s: Annotated[float, Meta(gt=0, le=MAX_WAIT_SECONDS)] | None = None


class RunCancel(Mutation, frozen=True, kw_only=True):
    """Params of ``run.cancel``."""

    run_id: Id
    note: Annotated[str, Meta(max_length=MAX_REASON_BYTES)] = ""


class RunDebug(Params, frozen=True, kw_only=True):
    """Params of ``run.debug``. ``offset`` and ``limit`` select bytes of ``artifact``."""

    run_id: Id
    artifact: Annotated[str, Meta(min_length=1, max_length=MAX_DEBUG_ARTIFACT_ID_BYTES)] | None = None
    offset: Annotated[int, Meta(ge=0)] = 0
    limit: Annotated[int, Meta(ge=4, le=MAX_DEBUG_TEXT_BYTES)] = DEFAULT_DEBUG_TEXT_BYTES


class DebugArtifact(Struct, frozen=True, kw_only=True):
    """A captured file: the request of a model call, the events of its answer, or the answer."""

    artifact_id: str
    kind: Literal["request", "events", "answer"]
    bytes: int
    sha256: str
    truncated: bool
    at_ms: int


class DebugCapture(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The capture of a run: its artifacts, oldest first, or one artifact with part of its text.

    ``next`` is the offset of the text's next part; null at its end.
    """

    run_id: str
    debug: DebugLevel
    artifacts: list[DebugArtifact]
    text: str | None = None
    next: int | None = None


LIST = Method(
    "run.list", "query", RunListParams, RunList, "List runs, newest first.", errors=(SessionNotFound,)
)
GET = Method("run.get", "query", RunRef, RunView, "Show one run.", errors=(RunNotFound,))
WAIT = Method(
    "run.wait",
    "control",
    RunWait,
    RunView,
    "Wait until a run has ended or is waiting for a person or an event.",
    errors=(RunNotFound,),
)
CANCEL = Method(
    "run.cancel",
    "mutation",
    RunCancel,
    Run,
    "Cancel a run, queued or in flight. Answers when it has stopped.",
    scope="converse",
    errors=(RunNotFound, RunAlreadyEnded, StorageFull),
    while_draining=True,
)

DEBUG = Method(
    "run.debug",
    "control",
    RunDebug,
    DebugCapture,
    "List the debug artifacts of a run, or read one (requires the scope `operate`).",
    errors=(RunNotFound, DebugNotFound, ArtifactNotFound),
)

METHODS = (LIST, GET, WAIT, CANCEL, DEBUG)
