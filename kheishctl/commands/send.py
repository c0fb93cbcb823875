"""``kheishctl send``: say something to an agent and print the answer; made for pipes."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from kheishctl import exits
from kheishctl.cli import (
    App,
    Duration,
    complete,
    given,
    mutating,
    options,
    sender_option,
    verb,
    workspace_option,
)
from kheishctl.client import ConnectionLost, Failure, Json, NoDaemon, RequestRefused
from kheishctl.options import Amount, SchemaFile, contract
from kheishctl.render.calls import first_lines
from kheishctl.render.events import STOP_NOTES, outcome
from kheishctl.render.follower import StreamFollower
from kheishctl.render.layout import clean, facts, one_line
from kheishctl.render.pieces import (
    AnswerRestart,
    AnswerText,
    CallRequest,
    CallResult,
    MessageEnd,
    Notice,
    Piece,
)
from kheishctl.render.run import WAITS, looked_into, sentences

if TYPE_CHECKING:
    from collections.abc import Callable

# A daemon that restarts is back within a second or two; one that is not back by then needs a person.
RECONNECT_SECONDS = 30.0
RECONNECT_PAUSE_SECONDS = 0.2

# What a daemon says that is being stopped: the next one goes on with what it had accepted.
STOPPING = "daemon_draining"

SETTLED = frozenset(
    ("completed", "failed", "cancelled", "interrupted", "waiting_for_approval", "waiting_for_user_question")
)


delivery_options = options(
    click.option("--no-wait", is_flag=True, help="Return once the input is on disk; print the ids."),
    click.option("--timeout", type=Duration(), metavar="TIME", help="Wait at most so long (90s, 15m)."),
    click.option(
        "--route", metavar="ROUTE", shell_complete=complete("routes"), help="The route to use, this once."
    ),
    click.option("--model", metavar="MODEL", help="The model to use, this once."),
    click.option(
        "--debug",
        type=click.Choice(("off", "redacted", "full")),
        metavar="LEVEL",
        help="Capture the run's model calls: off, redacted or full; see 'kheishctl run debug'.",
    ),
    click.option("--metadata", "-m", multiple=True, metavar="KEY=VALUE", help="Keep this with the input."),
    click.option(
        "--output-contract",
        type=SchemaFile(),
        metavar="FILE",
        help="The answer must be JSON that fits the JSON Schema in this file.",
    ),
    click.option(
        "--max-repairs",
        type=click.IntRange(0, 5),
        metavar="N",
        help="How often an answer may be mended that does not fit; else 3 times.",
    ),
    click.option(
        "--require-file",
        "required_files",
        multiple=True,
        metavar="PATH",
        help="The run must have written this file; repeat for more.",
    ),
    click.option(
        "--max-tokens", type=click.IntRange(1), metavar="N", help="Tokens that the run may use, in and out."
    ),
    click.option(
        "--max-time",
        type=Duration(),
        metavar="TIME",
        help="How long it may work (90s, 15m), waiting for people not counted.",
    ),
    click.option(
        "--max-cost",
        type=Amount(),
        metavar="AMOUNT",
        help="What it may cost, in the currency of its route's prices.",
    ),
    mutating,
)
"""The options that every ``send`` has."""


@verb(
    None,
    "send",
    method="conversation.send",
    examples=(
        "kheishctl send default 'What is a bell?'",
        "git diff | kheishctl send reviewer --as ci",
        "kheishctl send --no-wait reviewer < question.txt",
        "kheishctl send reviewer --output-contract verdict.schema.json < change.diff",
    ),
)
@click.argument(
    "agent", required=False, shell_complete=complete("agents"), help="The agent; else the default."
)
@click.argument("text", nargs=-1, help="What to say; without it, or with '-', standard input.")
@sender_option
@click.option(
    "--guest",
    metavar="AGENT",
    help="Another agent that answers this once.",
    shell_complete=complete("agents"),
)
@workspace_option
@delivery_options
def send(app: App, agent: str | None, text: tuple[str, ...], sender: str | None, **options: Any) -> None:
    """Say something to an agent and print the answer.

    The agent and the sender are the whole address: sending to the same pair again goes on in the same
    conversation. The exit code tells the outcome, see 'kheishctl --help'. If the daemon restarts in the
    middle, the answer is waited for, and the input is not sent twice.

    Where the run waits for a person, what it waits for is told with the commands that answer it; with
    --json it is 'waiting'. An answer that is not whole is told, too: with --json it has a 'stop_reason'.
    """
    address = given(
        agent=agent, sender=sender, guest=options.pop("guest"), workspace=options.pop("workspace")
    )
    deliver(app, "conversation.send", address, spoken(app, text, agent), **options)


def spoken(app: App, words: tuple[str, ...], whom: str | None) -> str:
    """What is to be said: the words, or standard input. Errors: a usage error if there is nothing."""
    if words and words != ("-",):
        return _text(" ".join(words))
    if sys.stdin.isatty():
        app.note(f"Type what to say to {whom or 'the default agent'}; Ctrl-D sends it.")
    try:
        text = sys.stdin.buffer.read().decode()
    except UnicodeDecodeError:
        raise click.UsageError("standard input is not UTF-8 text") from None
    if not text.strip():
        whose = f"the agent {whom!r}" if whom else "the default agent"
        raise click.UsageError(f"there is nothing to send to {whose}; give AGENT and TEXT, or standard input")
    return text


def _text(words: str) -> str:
    """Words of the command line. Errors: a usage error if they are not UTF-8."""
    try:
        words.encode()
    except UnicodeEncodeError:
        raise click.UsageError("TEXT is not UTF-8 text") from None
    return words


def pairs(values: tuple[str, ...]) -> Json:
    """``KEY=VALUE`` words as an object. Errors: a usage error naming the word."""
    for value in values:
        if "=" not in value:
            raise click.UsageError(f"{value!r} is not of the form KEY=VALUE")
    return dict(value.split("=", 1) for value in values)


def deliver(
    app: App,
    method: str,
    address: Json,
    content: str,
    *,
    no_wait: bool,
    timeout: float | None,
    route: str | None,
    model: str | None,
    debug: str | None,
    metadata: tuple[str, ...],
    output_contract: Json | None,
    max_repairs: int | None,
    required_files: tuple[str, ...],
    max_tokens: int | None,
    max_time: float | None,
    max_cost: float | None,
    idempotency_key: str | None,
    check: bool,
) -> None:
    """Send an input and show what came of it; ends with the exit code of the outcome."""
    said = given(
        content=content, route=route, model=model, debug=debug, metadata=pairs(metadata), check=check
    )
    params = address | said
    params |= given(
        output_contract=contract(output_contract, max_repairs=max_repairs),
        completion_requirements=[{"type": "workspace_file", "path": path} for path in required_files],
        budget=given(max_tokens=max_tokens, max_work_s=max_time, max_cost=max_cost) or None,
    )
    if no_wait or check:
        result = app.call(method, params | given(idempotency_key=idempotency_key))
        app.emit(result, facts)
        return
    if idempotency_key is None:  # With one, the run that waits may be this very one, sent before.
        _behind(app, address)
    request = PersistentSend(
        app, method, params | {"idempotency_key": idempotency_key or _fresh_key()}, timeout
    )
    streaming = sys.stdout.isatty() and not app.as_json
    try:
        result = request.stream(_Printer()) if streaming else request.settle()
    except KeyboardInterrupt:
        app.note(f"\nThe run goes on; this stops it: {_stopping(app, address)}")
        raise
    show(app, result, streamed=streaming)


def _behind(app: App, address: Json) -> None:
    """Say so where a run before this one waits for a person: until somebody answers, nothing comes."""
    try:
        whose = given(session_id=address.get("session_id"))
        if not whose:
            pair = given(agent=address.get("agent"), sender=address.get("sender"))
            whose = {"session_id": app.call("conversation.get", pair)["session_id"]}
        runs = app.call("run.list", whose | {"active": True})["runs"]
    except ConnectionLost:
        app.hang_up()
    except Failure:
        pass  # There is no conversation yet, or we may not look; a daemon that is not there is told later.
    else:
        for run in runs:
            if run["status"] in WAITS:
                how = app.typed("run", "show", run["run_id"])
                app.note(f"an earlier run waits for a person, and this one for it: {how}")


def show(app: App, result: Json, *, streamed: bool) -> None:
    """Print the answer unless it was streamed, then end with the code of the outcome."""
    if not streamed or result.get("status") != "completed":
        result = looked_into(app.call, result)
    if app.as_json:
        app.document(result)
    elif (output := result.get("output")) and not (streamed and _was_said(result)):
        app.say(clean(output) if sys.stdout.isatty() else output.rstrip("\n"))
    for sentence in filter(None, [outcome(result), *sentences(result, app.typed)]):
        app.note(sentence)
    click.get_current_context().exit(exits.of_status(str(result.get("status"))))


def _was_said(result: Json) -> bool:
    """Whether the output is what was streamed: the text of the last answer, and nothing else."""
    return bool(result.get("output_kind", "assistant_text") == "assistant_text")


def _stopping(app: App, address: Json) -> str:
    """The command that stops what was begun at an address."""
    if "session_id" in address:
        return app.typed("session", "interrupt", address["session_id"])
    agent, sender = address.get("agent"), address.get("sender")
    words = [*([agent] if agent else []), *(["--as", sender] if sender else [])]
    return app.typed("conversation", "cancel", *words)


def _fresh_key() -> str:
    from uuid import uuid4

    return f"kheishctl-{uuid4().hex}"


@dataclass(slots=True)
class PersistentSend:
    """A send that is waited for. Over a lost connection it is sent again under the same key: the daemon
    takes it once, and waiting is done anew.
    """

    app: App
    method: str
    params: Json
    timeout: float | None

    def settle(self) -> Json:
        """The result once the run has settled. Errors: Failure."""
        return self._persist(lambda wait: self.app.call(self.method, self.params | wait))

    def stream(self, printer: _Printer) -> Json:
        """The result, the answer having been printed as it was written. Errors: Failure."""
        follower = StreamFollower()
        try:
            return self._persist(
                lambda wait: self._streamed(wait | {"stream": True}, follower, printer), printer.end
            )
        except Failure:
            printer.end()
            raise

    def _streamed(self, wait: Json, follower: StreamFollower, printer: _Printer) -> Json:
        result: Json | None = None
        ended = False
        for name, params in self.app.client.exchange(self.method, self.params | wait):
            if name == "result":
                result = params
            elif name == "journal.end":
                ended = True
            else:
                printer.show(follower.feed(name, params))
            # The stream ends after the run has settled; without that there is nothing more to wait for.
            if result is not None and (ended or result["status"] not in SETTLED):
                break
        assert result is not None
        printer.end()
        return result

    def _persist(self, attempt: Callable[[Json], Any], pausing: Callable[[], None] = lambda: None) -> Json:
        started = time.monotonic()
        lost_at: float | None = None
        self.app.client  # noqa: B018 - with no daemon at all, say so at once.
        while True:
            elapsed = time.monotonic() - started
            wait: Json = {"wait": "settled"}
            if self.timeout is not None:
                wait["timeout_s"] = max(0.001, self.timeout - elapsed)
            try:
                result: Json = attempt(wait)
                return result
            except (ConnectionLost, NoDaemon, RequestRefused) as failure:
                if isinstance(failure, RequestRefused) and failure.reason != STOPPING:
                    raise
                pausing()
                if lost_at is None:
                    self.app.note("The connection is lost; waiting for the daemon.")
                if lost_at is None or isinstance(failure, ConnectionLost):
                    lost_at = time.monotonic()
                self._pause(failure, time.monotonic() - lost_at)

    def _pause(self, failure: Failure, gone_s: float) -> None:
        self.app.hang_up()
        if gone_s > RECONNECT_SECONDS:
            raise NoDaemon(
                f"{str(failure).rstrip('.')}. If the input had arrived it is on disk: send it again with "
                f"--idempotency-key {self.params['idempotency_key']} to wait for the answer"
            )
        time.sleep(RECONNECT_PAUSE_SECONDS)


class _Printer:
    """Prints an answer as it is written."""

    def __init__(self) -> None:
        self._at_line_start = True

    def show(self, shown: list[Piece]) -> None:
        """Print what a notification brought."""
        for piece in shown:
            match piece:
                case AnswerText(text):
                    self._write(clean(text))
                case AnswerRestart():
                    self._aside("(the model is asked again; the answer starts over)")
                case Notice(text):
                    self._aside(one_line(text))
                case MessageEnd(stop_reason):
                    # What comes next begins a line of its own.
                    self._aside(f"({STOP_NOTES[stop_reason]})" if stop_reason in STOP_NOTES else "")
                case CallRequest(_, tool, about):
                    self._aside(one_line(f"({tool} {about}".rstrip() + ")"))
                case CallResult(_, tool, _, how, text) if how not in ("returned", "answered"):
                    self._aside(
                        one_line(f"({tool} {how.replace('_', ' ')}: {' '.join(first_lines(text, 1))})")
                    )
                case _:
                    pass  # Inputs, reasoning and what people answer say nothing in a pipe-like answer.
        sys.stdout.flush()

    def _aside(self, text: str) -> None:
        self.end()
        if text:
            sys.stderr.write(f"{text}\n")

    def end(self) -> None:
        """End the line if one was begun."""
        if not self._at_line_start:
            self._write("\n")
            sys.stdout.flush()

    def _write(self, text: str) -> None:
        if text:
            sys.stdout.write(text)
            self._at_line_start = text.endswith("\n")
