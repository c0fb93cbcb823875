"""``kheishctl send``: send a message to an agent and print the answer, in a terminal or a pipe."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import click

from kheishctl import directories, exit_codes
from kheishctl.cli import App, command
from kheishctl.client import ConnectionLost, Failure, NoDaemon, NotADaemon, RequestRefused
from kheishctl.commands.run import add_run_details
from kheishctl.contract import (
    BUSY_POLICIES,
    DEBUG_LEVELS,
    DEFAULT_REPAIRS,
    MAX_REPAIRS,
    RUN_ENDED,
    RUN_WAITING,
)
from kheishctl.json_stream import JsonStream
from kheishctl.message_text import read_text
from kheishctl.options import (
    Amount,
    Duration,
    SchemaFile,
    WholeNumber,
    agent_argument,
    author_options,
    complete,
    drop_unset,
    make_contract,
    mutating,
    name_option,
    options,
    parse_pairs,
    sender_option,
    text_argument,
    timeout_option,
    workspace_option,
)
from kheishctl.render.calls import take_first_lines
from kheishctl.render.changes import (
    AnswerRestart,
    AnswerText,
    ApprovalOpening,
    CallEnd,
    CallRequest,
    ChildProgress,
    DisplayChange,
    MessageEnd,
    Notice,
    QuestionOpening,
)
from kheishctl.render.children import CHILD_EVENTS, ChildFollower, format_progress, shorten_path
from kheishctl.render.follower import StreamFollower
from kheishctl.render.layout import format_record
from kheishctl.render.messages import STOP_NOTES
from kheishctl.render.run import describe_outcome, explain_run
from kheishctl.values import ClientValue
from protocol.text import one_line, sanitize

if TYPE_CHECKING:
    from collections.abc import Callable

    from kheishctl.contract import Json

# A restart takes a second or two; a daemon that stays away longer needs an operator.
RECONNECT_SECONDS = 30.0
RECONNECT_PAUSE_SECONDS = 0.2

CHILDREN = "kheishctl-children"
"""The id of the subscription to the agents below the session."""

MAX_CHILD_LINES = 8

# The refusal of a daemon that is stopping; the next daemon continues the accepted runs.
DRAINING = "daemon_draining"

OUTPUT_FORMATS = ("text", "json", "stream-json")

send_options = options(
    click.option(
        "--no-wait/--wait",
        "no_wait",
        help="Return when the input is on disk and print the ids, or wait for the answer (default: wait).",
    ),
    timeout_option,
    click.option(
        "--output-format",
        type=click.Choice(OUTPUT_FORMATS),
        metavar="FORMAT",
        help="text (default); json: one document, like --json; stream-json: one JSON line per event.",
    ),
    name_option("--route", "route", "routes", "Use this route for this message."),
    click.option("--model", metavar="MODEL", help="Use this model for this message."),
    click.option(
        "--busy",
        type=click.Choice(BUSY_POLICIES),
        metavar="POLICY",
        help=f"If a run is in flight: {', '.join(BUSY_POLICIES)} (default: the session's policy).",
    ),
    author_options,
    click.option(
        "--debug",
        type=click.Choice(DEBUG_LEVELS),
        metavar="LEVEL",
        help=f"Capture the run's model calls: {', '.join(DEBUG_LEVELS)}; see 'kheishctl run debug'.",
    ),
    click.option(
        "--metadata",
        "-m",
        multiple=True,
        metavar="KEY=VALUE",
        help="Attach metadata to the message (repeatable).",
    ),
    click.option(
        "--expect-schema",
        "--output-contract",
        "output_contract",
        type=SchemaFile(),
        metavar="FILE",
        help="The answer must be JSON that matches the JSON Schema in this file; others are not printed.",
    ),
    click.option(
        "--max-repairs",
        type=WholeNumber(0, MAX_REPAIRS),
        metavar="N",
        help=f"Maximum corrections of an answer that violates the contract (default: {DEFAULT_REPAIRS}).",
    ),
    click.option(
        "--require-file",
        "required_files",
        multiple=True,
        metavar="PATH",
        help="The run must write this file (repeatable).",
    ),
    click.option(
        "--max-tokens",
        type=WholeNumber(1),
        metavar="N",
        help="Maximum tokens of the run, input and output.",
    ),
    click.option(
        "--max-time",
        type=Duration(),
        metavar="TIME",
        help="Maximum working time (90s, 15m); waiting for people does not count.",
    ),
    click.option(
        "--max-cost",
        type=Amount(),
        metavar="AMOUNT",
        help="Maximum cost, in the currency of the route's prices.",
    ),
    mutating,
)
"""The options of every ``send`` command."""


@command(
    None,
    "send",
    method="conversation.send",
    examples=(
        "kheishctl send default 'What is a bell?'",
        "git diff | kheishctl send reviewer 'Look for races'",
        "kheishctl send --no-wait reviewer < question.txt",
        "kheishctl send reviewer --expect-schema verdict.schema.json < change.diff",
        "kheishctl send --output-format stream-json default 'What is a bell?' | jq -c .type",
    ),
)
@agent_argument
@text_argument
@sender_option
@click.option(
    "--guest",
    metavar="AGENT",
    help="Let another agent answer this message only.",
    shell_complete=complete("agents"),
)
@workspace_option
@send_options
def send(app: App, agent: str | None, text: tuple[str, ...], sender: str | None, **options: Any) -> None:
    """Send a message to an agent and print its answer.

    The message is TEXT, standard input, or both: TEXT, an empty line, then the data of a pipe or file. A pipe
    without data does not delay the message for long; end the arguments with '-' to wait for slow input, or
    pass --no-stdin, for example in a loop that reads lines from a file.

    The agent and the sender together are the address: a message to the same pair continues the same
    conversation. The exit code reports the outcome, see 'kheishctl --help'. If the daemon restarts meanwhile,
    the command keeps waiting and does not send the message twice.

    A new conversation works in the current directory if the operator allows it, else in the default
    workspace. It keeps its directory, which --workspace changes. In a terminal, a directory is asked about
    once: whether its instructions, skills, hooks and settings take effect.

    If the run waits for a person, the output names the commands that answer; with --json, the pending
    requests are in 'waiting'. A note marks an incomplete answer; with --json it has a 'stop_reason'.
    """
    guest, workspace = options.pop("guest"), options.pop("workspace")
    content = read_text(app, text, agent)
    directory = workspace or directories.current_directory()
    if guest is None:
        directories.offer_trust(app, drop_unset(agent=agent, sender=sender), directory)
    place = {"workspace": workspace} if workspace else {"cwd": directory}
    address = drop_unset(agent=agent, sender=sender, guest=guest, **place)
    send_message(app, "conversation.send", address, content, **options)


def send_message(
    app: App,
    method: str,
    address: Json,
    content: str,
    *,
    no_wait: bool,
    timeout: float | None,
    metadata: tuple[str, ...],
    output_contract: Json | None,
    max_repairs: int | None,
    required_files: tuple[str, ...],
    max_tokens: int | None,
    max_time: float | None,
    max_cost: float | None,
    idempotency_key: str | None,
    check: bool,
    output_format: str | None,
    **settings: str | None,
) -> None:
    """Send a message, show the result and exit with the code of its outcome."""
    app.as_json = app.as_json or output_format in ("json", "stream-json")
    lines = JsonStream(app) if output_format == "stream-json" else None
    params = address | drop_unset(
        content=content,
        metadata=parse_pairs(metadata),
        output_contract=make_contract(output_contract, max_repairs=max_repairs),
        completion_requirements=[{"type": "workspace_file", "path": path} for path in required_files],
        budget=drop_unset(max_tokens=max_tokens, max_work_s=max_time, max_cost=max_cost) or None,
        check=check,
        **settings,
    )
    try:
        if no_wait or check:
            result = app.call(method, params | drop_unset(idempotency_key=idempotency_key))
            if lines is None:
                app.emit(result, format_record)
            else:
                lines.end_with_result(result, exit_codes.OK)
            return
        if idempotency_key is None:  # With a key, the waiting run may be this very message, sent earlier.
            _note_waiting_run(app, address)
            from uuid import uuid4

            idempotency_key = f"kheishctl-{uuid4().hex}"
        request = PersistentSend(app, method, params | {"idempotency_key": idempotency_key}, timeout)
        # An answer under a contract is printed once it is valid.
        streaming = sys.stdout.isatty() and not app.as_json and output_contract is None
        if app.as_json and lines is None:
            result = request.wait()
        else:
            result = request.stream(lines or (_AnswerPrinter(app) if streaming else _NotePrinter(app)))
    except KeyboardInterrupt:
        app.note(f"\nThe run continues; this stops it: {_stop_command(app, address)}")
        raise
    except Failure as failure:
        if lines is None:
            raise
        lines.end_with_failure(failure)
        click.get_current_context().exit(failure.exit_code)
    show(app, result, streamed=streaming, lines=lines)


def _note_waiting_run(app: App, address: Json) -> None:
    """Note an earlier run that waits for a person, because this message waits for that run."""
    try:
        session_id = address.get("session_id")
        if session_id is None:
            pair = drop_unset(agent=address.get("agent"), sender=address.get("sender"))
            session_id = app.call("conversation.get", pair)["session_id"]
        runs = app.call("run.list", {"session_id": session_id, "active": True})["runs"]
    except ConnectionLost:
        app.disconnect()
    except Failure:
        pass  # The conversation is new, or the caller may not read it; the send reports a missing daemon.
    else:
        for run in runs:
            if run["status"] in RUN_WAITING:
                if run["status"] == "waiting_for_event":
                    command_line = app.command_line("send", "--busy", "steer")
                    app.note(f"an earlier run waits for an event; a message ends its wait: {command_line}")
                    continue
                noun = "approval" if run["status"] == "waiting_for_approval" else "question"
                command_line = app.command_line(noun, "list", "--run", run["run_id"])
                app.note(f"an earlier run waits for a person, and this message waits for it: {command_line}")


def show(app: App, result: Json, *, streamed: bool, lines: JsonStream | None = None) -> None:
    """Print the answer unless it was streamed, then exit with the code of the outcome."""
    if result.get("note"):
        app.note(sanitize(result["note"]))
    elif result.get("applied") in ("steered", "interrupted"):
        app.note(f"{result['applied']}: {result['in_flight']}")
    if not streamed or result.get("status") != "completed":
        result = add_run_details(app.call, result)
    code = exit_codes.code_for_run(result)
    # The stream shows the text of the last answer, but no emitted output.
    was_streamed = streamed and result.get("output_kind", "assistant_text") == "assistant_text"
    if lines is not None:
        lines.end_with_result(result, code)
    elif app.as_json:
        app.print_json(result)
    elif (output := result.get("output")) and not was_streamed and code != exit_codes.CONTRACT_VIOLATED:
        app.print(sanitize(output) if sys.stdout.isatty() else output.rstrip("\n"))
    outcome = describe_outcome(result, app.command_line)
    for line in filter(None, [outcome, *explain_run(result, app.command_line)]):
        app.note(line)
    click.get_current_context().exit(code)


def _stop_command(app: App, address: Json) -> str:
    """Return the command that stops the current run of an address."""
    if "session_id" in address:
        return app.command_line("session", "interrupt", address["session_id"])
    agent, sender = address.get("agent"), address.get("sender")
    words = [*([agent] if agent else []), *(["--as", sender] if sender else [])]
    return app.command_line("conversation", "cancel", *words)


class PersistentSend(ClientValue):
    """A send that is retried after a lost connection.

    Every attempt has the same idempotency key, so the daemon executes the send once.
    """

    app: App
    method: str
    params: Json
    timeout: float | None

    def wait(self) -> Json:
        """Return the result when the run has settled. Errors: Failure."""
        return self._retry(lambda wait: self.app.call(self.method, self.params | wait))

    def stream(self, printer: _AnswerPrinter | JsonStream) -> Json:
        """Print the answer as it arrives, and return the result. Errors: Failure."""
        follower = StreamFollower()
        children: list[ChildFollower] = []
        try:
            return self._retry(lambda wait: self._stream_once(wait, follower, children, printer), printer.end)
        except Failure:
            printer.end()
            raise

    def _stream_once(
        self,
        wait: Json,
        follower: StreamFollower,
        children: list[ChildFollower],
        printer: _AnswerPrinter | JsonStream,
    ) -> Json:
        """Print one stream of the run; ``children`` is the follower of the agents that it spawns, if any."""
        result: Json | None = None
        ended = False
        params = self.params | wait | {"stream": True}
        for child in children:
            self._follow_children(child)
        for name, notification in self.app.client.exchange(self.method, params):
            printer.receive(name, notification)
            event = notification.get("event") or {}
            if event.get("type") == "child_spawned" and not children:
                children.append(ChildFollower(str(event["session_id"]), int(notification["cursor"]) - 1))
                self._follow_children(children[0])
            if name == "result":
                result = notification
            elif notification.get("subscription") == CHILDREN:
                printer.show([change for child in children for change in child.feed(name, notification)])
            elif name == "journal.end":
                ended = True
            else:
                printer.show(follower.feed(name, notification))
            # The stream ends with a settled run; after a timeout of the wait, it would continue.
            is_unsettled = result is not None and result["status"] not in (*RUN_ENDED, *RUN_WAITING)
            if result is not None and (ended or is_unsettled or not printer.shows_text):
                break
        assert result is not None
        printer.end()
        return result

    def _follow_children(self, children: ChildFollower) -> None:
        """Subscribe to the agents below the session. The answer needs no reading: events follow, or none."""
        session = {"session_id": children.session_id, "subtree": True, "types": list(CHILD_EVENTS)}
        self.app.client.send(
            "journal.subscribe", session | {"subscription": CHILDREN, "after": children.cursor}
        )

    def _retry(self, attempt: Callable[[Json], Any], pause: Callable[[], None] = lambda: None) -> Json:
        started_at = time.monotonic()
        lost_at: float | None = None
        self.app.client  # noqa: B018 - fail at once if there is no daemon.
        while True:
            wait: Json = {"wait": "settled"}
            if self.timeout is not None:
                wait["timeout_s"] = max(0.001, self.timeout - (time.monotonic() - started_at))
            try:
                result: Json = attempt(wait)
                return result
            except (ConnectionLost, NoDaemon, RequestRefused) as failure:
                is_refusal = isinstance(failure, RequestRefused) and failure.reason != DRAINING
                if is_refusal or isinstance(failure, NotADaemon):
                    raise
                pause()
                if lost_at is None:
                    self.app.note("Connection lost; waiting for the daemon.")
                if lost_at is None or isinstance(failure, ConnectionLost):
                    lost_at = time.monotonic()
                self.app.disconnect()
                if time.monotonic() - lost_at > RECONNECT_SECONDS:
                    raise NoDaemon(
                        f"{str(failure).rstrip('.')}. If the message arrived, it is on disk: to wait for the "
                        f"answer, send it again with --idempotency-key {self.params['idempotency_key']}"
                    ) from None
                time.sleep(RECONNECT_PAUSE_SECONDS)


class _AnswerPrinter:
    """Prints an answer as it arrives: the text on standard output, notes on standard error.

    Agents at work below the conversation's have a line each, below the text, which is drawn again after every
    change.
    """

    shows_text = True

    def __init__(self, app: App) -> None:
        self._app = app
        self._at_line_start = True
        self._children: dict[str, ChildProgress] = {}
        self._lines_drawn = 0

    def receive(self, name: str, notification: Json) -> None:
        """Ignore a notification: its changes are shown instead."""

    def show(self, changes: list[DisplayChange]) -> None:
        """Print the changes of one notification."""
        self._erase()
        for change in changes:
            match change:
                case AnswerText(text):
                    self._write(sanitize(text))
                case AnswerRestart():
                    self._note("(the model is called again; the answer starts over)")
                case Notice(text):
                    self._note(one_line(text))
                case MessageEnd(stop_reason):
                    # The next message starts a line of its own.
                    self._note(f"({STOP_NOTES[stop_reason]})" if stop_reason in STOP_NOTES else "")
                case CallRequest(_, tool, summary):
                    self._note(one_line(f"({tool} {summary}".rstrip() + ")"))
                case CallEnd(_, tool, _, outcome, text) if outcome not in ("returned", "answered"):
                    detail = " ".join(take_first_lines(text, 1))
                    self._note(one_line(f"({tool} {outcome.replace('_', ' ')}: {detail})"))
                case ChildProgress(agent_id, is_settled=is_settled):
                    if is_settled:
                        self._children.pop(agent_id, None)
                        self._note(f"({format_progress(change)})")
                    else:
                        self._children[agent_id] = change
                case ApprovalOpening(request) | QuestionOpening(request):
                    self._note_request(request)
                case _:
                    pass  # Inputs, reasoning and answers of people are not part of the answer.
        self._draw()
        sys.stdout.flush()

    def _note_request(self, request: Json) -> None:
        """Note a request of an agent below; the exit of this command reports those of the run itself."""
        if path := request.get("agent_path"):
            noun = "question" if "question_id" in request else "approval"
            command_line = self._app.command_line(noun, "show", str(request[f"{noun}_id"]))
            self._note(one_line(f"({shorten_path(path)} waits for an answer to its {noun}: {command_line})"))

    def _draw(self) -> None:
        """Draw a line for each agent at work, unless a line of the answer is unfinished."""
        columns = self._app.display().width
        if not self._children or not self._at_line_start or columns is None:
            return
        hidden = max(0, len(self._children) - MAX_CHILD_LINES)
        visible = [*self._children.values()][:MAX_CHILD_LINES]
        lines = [format_progress(child, columns - 5) for child in visible]
        lines += [f"… and {hidden} more agents"] if hidden else []
        sys.stdout.write("".join(f"  ↳ {line}\n" for line in lines))
        self._lines_drawn = len(lines)

    def _erase(self) -> None:
        """Remove the lines of the agents at work."""
        if self._lines_drawn:
            sys.stdout.write(f"\x1b[{self._lines_drawn}A\x1b[J")
            sys.stdout.flush()
        self._lines_drawn = 0

    def end(self) -> None:
        """End the current line."""
        self._erase()
        if not self._at_line_start:
            self._write("\n")
            sys.stdout.flush()

    def _note(self, text: str) -> None:
        self.end()
        if text:
            sys.stderr.write(f"{text}\n")

    def _write(self, text: str) -> None:
        if text:
            sys.stdout.write(text)
            self._at_line_start = text.endswith("\n")


class _NotePrinter(_AnswerPrinter):
    """Prints only notes, on standard error: a pipe receives the final answer.

    They are about delays and failures, and about agents below that wait for a person or have settled.
    """

    shows_text = False

    def show(self, changes: list[DisplayChange]) -> None:
        """Print the notes among the changes of one notification."""
        for change in changes:
            match change:
                case Notice(text):
                    self._note(one_line(text))
                case ChildProgress(agent_id, status=status):
                    previous = self._children.get(agent_id)
                    self._children[agent_id] = change
                    if status not in ("queued", "running") and (
                        previous is None or previous.status != status
                    ):
                        self._note(f"({format_progress(change)})")
                case ApprovalOpening(request) | QuestionOpening(request):
                    self._note_request(request)
                case _:
                    pass
