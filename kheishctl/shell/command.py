"""``kheishctl chat``: chat with an agent in the terminal."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from kheishctl import exit_codes
from kheishctl.cli import App, command, use_color
from kheishctl.client import Failure, NoDaemon, dial
from kheishctl.directories import current_directory, offer_trust
from kheishctl.options import agent_argument, drop_unset, name_option, sender_option, workspace_option
from kheishctl.picker import may_pick, pick
from kheishctl.render.session import LAST_MESSAGES, describe_hit, describe_session, is_resumable

if TYPE_CHECKING:
    from kheishctl.contract import Json

MAX_CHOICES = 40
MAX_HITS = 20


@command(None, "chat", examples=("kheishctl chat", "kheishctl chat reviewer --as ada --spawn"))
@agent_argument
@sender_option
@workspace_option
@click.option(
    "--spawn", is_flag=True, help="If no daemon is running, start one in the background without asking."
)
@click.option("--new", "fresh", is_flag=True, help="Start a new session; the old one stays readable.")
@click.option("--thinking", is_flag=True, help="Show the model's reasoning.")
@click.option("--verbose", "-v", is_flag=True, help="Show the verdicts on tool calls and their results.")
@click.option("--plain", is_flag=True, help="Write plain lines, for a screen reader; TERM=dumb does, too.")
@click.option("--vi", is_flag=True, help="Edit the line with the keys of vi (default: those of emacs).")
def chat(
    app: App,
    agent: str | None,
    sender: str | None,
    workspace: str | None,
    spawn: bool,
    fresh: bool,
    thinking: bool,
    verbose: bool,
    plain: bool,
    vi: bool,
) -> None:
    """Chat with an agent in the terminal.

    The agent and the sender together are the address: the same pair continues its conversation, and the chat
    shows the last turns. A new conversation works in the current directory if the operator allows it, and
    keeps its directory; --workspace and /cd change it. Esc stops an answer and keeps the conversation; Ctrl-D
    leaves, and the run continues; ? on an empty line lists the keys. Actions of other clients in the same
    conversation appear as they happen. If the daemon restarts, the chat waits for it.

    If a tool call needs your approval, or the agent asks you a question, the bell rings, and the request
    appears above the prompt with the keys that answer it.

    Settings for every chat are in ~/.config/kheish/client.toml: editing_mode ("emacs", "vi"), notice ("auto",
    "bell", "osc9", "osc777", "off"), notice_command (a list), terminal_title (true, false), theme ("auto",
    "light", "dark"), plain (true, false).
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise click.UsageError("chat needs a terminal; 'kheishctl send' is made for pipes")
    if app.as_json:
        raise click.UsageError("chat is for people; 'kheishctl send --json' is for programs")
    _require_daemon(app, spawn=spawn)
    directory = workspace or current_directory()
    offer_trust(app, drop_unset(agent=agent, sender=sender), directory, fresh=fresh)
    _run_chat(
        app,
        agent,
        sender or "user",
        fresh=fresh,
        directory=directory,
        moves=workspace is not None,
        thinking=thinking,
        verbose=verbose,
        plain=plain,
        vi=vi,
    )


def _run_chat(
    app: App, agent: str | None, sender: str, *, plain: bool = False, vi: bool = False, **options: Any
) -> None:
    """Chat until the person leaves. Errors: Failure."""
    app.disconnect()
    # Imported here, because the prompt costs ten times the start of the interpreter.
    import asyncio

    from kheishctl.shell.chat import Chat
    from kheishctl.shell.settings import locate_settings, read_settings

    settings = read_settings(locate_settings()).prefer(vi=vi, plain=plain)
    if settings.has_plain_lines(os.environ):
        options["plain"] = (sys.stdin.fileno(), sys.stdout.fileno())

    async def run() -> None:
        await Chat(app.path, agent, sender, color=use_color(True), settings=settings, **options).run()

    asyncio.run(run())


@command(
    None,
    "resume",
    examples=("kheishctl resume", "kheishctl resume --search 'race in the parser'"),
)
@click.argument("session_id", metavar="[SESSION]", required=False, help="The session (default: choose one).")
@name_option("--agent", "agent", "agents", "Only sessions of this agent.")
@name_option("--as", "sender", "senders", "Only sessions of this sender.", metavar="SENDER")
@click.option("--search", metavar="TEXT", help="Choose among the sessions with messages that fit a text.")
def resume(
    app: App, session_id: str | None, agent: str | None, sender: str | None, search: str | None
) -> None:
    """Choose an earlier session and continue it in a chat.

    The list shows the last message of each, its age, its state and its directory, the newest first. A part of
    a line shortens the list; --search searches all messages.
    """
    if not may_pick(app):
        raise click.UsageError("resume needs a terminal; 'kheishctl conversation resume' is made for scripts")
    filters = drop_unset(agent=agent, sender=sender)
    if session_id is None:
        choices = find_hits(app, filters, search) if search else find_sessions(app, filters)
        if not choices:
            raise Failure("there is no session to continue" + (f" with '{search}'" if search else ""))
        session_id = pick(app, "session", choices)
    session = app.call("session.get", {"session_id": session_id})
    if not is_resumable(session):
        raise Failure(f"{session_id} cannot be continued: it has ended, or belongs to no conversation")
    address = {"agent": session["agent"], "sender": session["sender"]}
    app.call("conversation.resume", address | {"session_id": session["session_id"]})
    _run_chat(app, session["agent"], session["sender"], directory=current_directory())


def find_sessions(app: App, filters: Json) -> list[tuple[str, str]]:
    """Return the sessions that a conversation can continue, newest first, each with its description."""
    page = app.call("session.list", filters | {"status": "open", "limit": MAX_CHOICES})
    choices = []
    for session in filter(is_resumable, page["sessions"]):
        last = {"session_id": session["session_id"], "order": "newest", "limit": LAST_MESSAGES}
        messages = app.call("session.history", last)["messages"]
        who = f"{session['agent']} as {session['sender']}: "
        choices.append(
            (str(session["session_id"]), who + describe_session(session, messages, app.display().now_ms))
        )
    return choices


def find_hits(app: App, filters: Json, search: str) -> list[tuple[str, str]]:
    """Return the sessions with messages that fit a text, the best first, each with its best message."""
    hits = app.call("session.search", filters | {"query": search, "limit": MAX_HITS})["messages"]
    lines = {str(hit["session_id"]): describe_hit(hit, app.display().now_ms) for hit in reversed(hits)}
    return list(lines.items())[::-1]


def _require_daemon(app: App, *, spawn: bool) -> None:
    """Check that a daemon is running, or start one if the person agrees. Errors: NoDaemon, StartFailed."""
    try:
        dial(app.path).close()
        return
    except NoDaemon as failure:
        if app.path_option:
            raise
        if not spawn:
            click.echo(f"No daemon is running in {app.home}.")
            if not click.confirm("Start one in the background?", default=True):
                failure.exit_code = exit_codes.NO_DAEMON
                raise
    from kheishctl.launch import start

    status = start(app.home)
    app.note(f"Started a daemon, pid {status['pid']}; 'kheishctl daemon stop' stops it.")
