"""A run: one execution in a session, with everything it uses pinned when it was accepted."""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from protocol.budget import Budget, Cost, PinnedBudget, Prices
from protocol.contract import BoundContract, FollowUp, OutputContract, Requirement
from protocol.errors.run import ArtifactNotFound, DebugNotFound, RunAlreadyEnded, RunNotFound
from protocol.errors.session import SessionNotFound
from protocol.errors.store import StorageFull
from protocol.ids import Cursor, Id
from protocol.limits.debug import DEFAULT_DEBUG_TEXT_BYTES, MAX_DEBUG_ARTIFACT_ID_BYTES, MAX_DEBUG_TEXT_BYTES
from protocol.limits.model import DEFAULT_CONTEXT_TOKENS
from protocol.limits.names import MAX_AGENT_BYTES, MAX_MODEL_BYTES, MAX_PATH_BYTES, MAX_REASON_BYTES
from protocol.limits.output import MAX_REQUIREMENTS
from protocol.limits.rpc import MAX_WAIT_SECONDS
from protocol.limits.session import MAX_INPUT_ITEMS
from protocol.objects.output import OutputKind
from protocol.objects.permission import Grant, Rule
from protocol.rpc.method import Method, Mutation, Page, Params
from protocol.transcript import InputItem, Usage

RunStatus = Literal[
    "queued",
    "running",
    "waiting_for_approval",
    "waiting_for_user_question",
    "completed",
    "failed",
    "cancelled",
    "interrupted",
]
Name = Annotated[str, Meta(min_length=1, max_length=MAX_AGENT_BYTES)]
"""What an agent or a route may be called."""
ModelName = Annotated[str, Meta(min_length=1, max_length=MAX_MODEL_BYTES)]
PathName = Annotated[str, Meta(min_length=1, max_length=MAX_PATH_BYTES)]
Outcome = Literal["completed", "failed", "cancelled", "interrupted"]
ENDED: frozenset[str] = frozenset(("completed", "failed", "cancelled", "interrupted"))
"""The statuses that never change again."""
SETTLED: frozenset[str] = ENDED | {"waiting_for_approval", "waiting_for_user_question"}
"""The statuses in which nothing more happens without a person."""


RunKind = Literal["input", "compaction"]
"""What a run is for: to answer an input, or to sum up the session so far."""

DebugLevel = Literal["off", "redacted", "full"]
"""What is captured of a run's model calls: nothing; their structure, with lengths and digests in the place of
texts; or all there is. Credentials are in none of them."""

CallOutcome = Literal["returned", "failed", "denied", "in_doubt", "stopped", "answered"]
CallState = Literal["new", "ready", "asked", "questioned", "called", "doubted", "returned"]
"""``new``: not judged. ``ready``: to be run. ``asked``, ``questioned``: a person is to answer. ``called``: it
runs. ``doubted``: the daemon died while it ran. ``returned``: it has its result."""


class OpenCall(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A tool call of the newest message, until all calls of that message have their results.

    ``waits_for`` is the id of the approval or question that it waits for. ``input_cursor`` is where its input
    was changed by an approval; else its arguments are those of the message. ``binding`` is what an approval
    was bound to. ``approved``: a person allowed it, now or in advance by a grant. ``updated_cursor`` is the
    last event about it.
    """

    call_id: str
    tool: str
    state: CallState
    parallel: bool = False
    repeatable: bool = False
    attempt: int = 0
    waits_for: str | None = None
    input_cursor: Cursor | None = None
    binding: str | None = None
    approved: bool = False
    called_at_ms: int = 0
    updated_cursor: Cursor = 0


class Pinned(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a run uses, by value, fixed when it was accepted. Never a secret: ``auth_ref`` is a name.

    ``instructions_digest`` is the SHA-256 (hex) of the resolved instructions, kept beside the run.
    ``tools`` is the tool surface: null is all there are, an empty list none. ``context_tokens`` is how much
    the model can be shown. ``debug`` is what is captured of its model calls: a configuration that says
    ``off`` later does not end it. ``output_contract`` and ``requirements`` are what the run must give and
    have done; ``max_continuations`` is how often an answer that was cut at its length limit is gone on with.
    ``budget`` is what it may use, at these ``prices``.
    """

    route: str
    driver: str
    model: str
    base_url: str | None = None
    auth_ref: str | None = None
    options: dict[str, Any] = {}
    instructions_digest: str | None = None
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
    prices: Prices | None = None


class RunError(Struct, frozen=True, omit_defaults=True):
    """Why a run or a model call failed: a stable reason, a sentence, the provider's status if any."""

    reason: str
    message: str
    status: int | None = None
    retryable: bool = False


class RunState(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The state of a run: the fields that its stored record and its public form share.

    ``starts`` counts how often a worker took it up; ``starts_without_progress`` the effects that were started
    and that nothing came of. ``claimed``: a worker has it in its hands, or went down with it. ``turn`` counts
    the model calls that were answered; ``attempt`` the tries of the present one, whose message will be
    ``item_id``, and ``failures`` those of them that failed (a restart makes another try, but uses up no
    patience). ``output_cursor`` is where the last answer stands in the journal, ``calls`` are the tool calls
    in it that are being carried out, in order; none once all have their results. ``pending_steers`` counts
    what was said to the run and not yet read by its model; ``grants`` are approvals remembered for the rest
    of the run, ``rules`` those made for it. ``output_cursors`` is where the outputs stand that it gave by
    calls.

    ``follow_up`` is why the model is asked again though it had answered. ``repairs`` and ``reminders`` count
    how often that was for its contract and its requirements, of which ``met_requirements`` are fulfilled;
    ``partial_cursors`` is where the answers stand that were cut and that the last one goes on with.

    ``worked_ms`` is how long workers had it in hand until the last event; ``tool_bytes`` is what its tools
    gave together, ``cost`` what it costs so far, where its route has prices.
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
    worked_ms: int = 0
    tool_bytes: int = 0
    error: RunError | None = None
    usage: Usage = Usage()
    cost: Cost | None = None


class Run(RunState, frozen=True, kw_only=True, omit_defaults=True):
    """A run as clients see it: its state, and the values pinned at its acceptance."""

    pinned: Pinned


class RunView(Run, frozen=True, kw_only=True, omit_defaults=True):
    """A run, what it gave so far, and where it stands in its session's queue (1 is next), if it waits."""

    queue_position: int | None = None
    output: str | None = None
    output_kind: OutputKind | None = None
    value: Any = None


class RunList(Struct, frozen=True):
    """A page of runs."""

    runs: list[Run]
    next: str | None


class SendParams(Mutation, frozen=True, kw_only=True):
    """The params every ``send`` has besides its address: what is said, and how the caller waits."""

    content: str | None = None
    input_items: Annotated[list[InputItem], Meta(max_length=MAX_INPUT_ITEMS)] | None = None
    route: Name | None = None
    model: ModelName | None = None
    metadata: dict[str, Any] = {}
    output_contract: OutputContract | None = None
    completion_requirements: Annotated[list[Requirement], Meta(max_length=MAX_REQUIREMENTS)] = []
    budget: Budget | None = None
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
    """What became of an input: the session and run it went to and, once settled, what came of it.

    ``cursor`` is that of the acceptance: ``journal.subscribe {after: cursor}`` misses nothing since.
    ``value`` is what an output says that is JSON.
    """

    session_id: str
    run_id: str
    status: RunStatus
    cursor: Cursor
    subscription: str | None = None
    output: str | None = None
    output_kind: OutputKind | None = None
    value: Any = None
    error: RunError | None = None
    usage: Usage = Usage()
    cost: Cost | None = None


class SteerParams(Mutation, frozen=True, kw_only=True):
    """The params every ``steer`` has besides its address: what is said to the run in flight."""

    content: str | None = None
    input_items: Annotated[list[InputItem], Meta(max_length=MAX_INPUT_ITEMS)] | None = None


class SteerResult(Struct, frozen=True, kw_only=True):
    """Where what was said to a run went: its model reads it before its next answer."""

    session_id: str
    run_id: str
    steer_id: str
    cursor: Cursor


class CompactParams(Mutation, frozen=True, kw_only=True):
    """The params every ``compact`` has besides its address: how the caller waits."""

    wait: Literal["accepted", "settled"] = "accepted"
    timeout_s: Annotated[float, Meta(gt=0, le=MAX_WAIT_SECONDS)] | None = None


class CompactResult(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The run that sums a session up and, once it has ended, what came of it.

    ``note`` says why nothing was done where there was nothing to do. Tokens are what the model was shown
    before and is shown from now on, as far as is known.
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
    """Params of ``run.list``: newest first. ``active`` lists those that have not ended, of any session."""

    session_id: Id | None = None
    status: RunStatus | None = None
    active: bool = False
    order: Literal["oldest", "newest"] = "newest"


class RunWait(Params, frozen=True, kw_only=True):
    """Params of ``run.wait``. When the time is over, the answer is the run as it is then."""

    run_id: Id
    timeout_s: Annotated[float, Meta(gt=0, le=MAX_WAIT_SECONDS)] | None = None


class RunCancel(Mutation, frozen=True, kw_only=True):
    """Params of ``run.cancel``."""

    run_id: Id
    note: Annotated[str, Meta(max_length=MAX_REASON_BYTES)] = ""


class RunDebug(Params, frozen=True, kw_only=True):
    """Params of ``run.debug``. ``offset`` and ``limit`` are bytes of the artifact that is read."""

    run_id: Id
    artifact: Annotated[str, Meta(min_length=1, max_length=MAX_DEBUG_ARTIFACT_ID_BYTES)] | None = None
    offset: Annotated[int, Meta(ge=0)] = 0
    limit: Annotated[int, Meta(ge=4, le=MAX_DEBUG_TEXT_BYTES)] = DEFAULT_DEBUG_TEXT_BYTES


class DebugArtifact(Struct, frozen=True, kw_only=True):
    """A file that was captured: a request, the events that answered it, or what came of them."""

    artifact_id: str
    kind: Literal["request", "events", "answer"]
    bytes: int
    sha256: str
    truncated: bool
    at_ms: int


class DebugCapture(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was captured of a run, oldest first; or one artifact, and the part of its text that was asked for.

    ``next`` is the offset at which its text goes on.
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
    "Wait until a run has ended or is waiting for a person.",
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
