"""``kheishctl agent``: agents, and the trees that they form."""

import sys
from typing import Any

import click

from kheishctl.cli import App, command, fetch_pages, make_group, show_table
from kheishctl.contract import (
    AGENT_RETENTIONS,
    AGENT_STATUSES,
    ISOLATIONS,
    PERMISSION_MODES,
    PROFILES,
    PROMPT_MODES,
    SHELLS_AT_CLOSE,
    Json,
)
from kheishctl.options import (
    JsonValue,
    Workspace,
    budget_options,
    drop_unset,
    id_argument,
    mutating,
    name_option,
    options,
    paged,
    status_option,
    take_budget,
)
from kheishctl.render.agent import describe_transition, format_tree
from kheishctl.render.layout import Column, Display, format_record
from protocol.text import one_line

group = make_group("agent", "Agents: the trees of agents that sessions form.")

COLUMNS = (
    Column("AGENT", "agent_id"),
    Column("STATUS", "status"),
    Column("STATE", "state"),
    Column("NICKNAME", "nickname"),
    Column("DEFINITION", "definition"),
    Column("PATH", "path"),
    Column("DESCRIPTION", "description"),
)

TRANSITIONS = (
    Column("CURSOR", "cursor", "count"),
    Column("WHEN", "at_ms", "time"),
    Column("EVENT", "event"),
    Column("STATUS", describe_transition),
    Column("RUN", "run_id"),
    Column("BY", "actor"),
    Column("NOTE", "note"),
)

TREE_EVENTS = (
    "agent_spawned",
    "agent_renamed",
    "agent_close_requested",
    "agent_closed",
    "run_accepted",
    "run_started",
    "approval_requested",
    "approval_answered",
    "question_asked",
    "question_answered",
    "message_appended",
    "run_ended",
    "session_ended",
)
"""The events after which an agent of a tree may look different."""

_agent = id_argument("agent", "AGENT", "agent_paths")


@command(
    group,
    "list",
    method="agent.list",
    examples=("kheishctl agent list", "kheishctl agent list --root ses_0EXAMPLE --closed"),
)
@name_option("--root", "root", "sessions", "List the tree of this agent.", metavar="AGENT")
@status_option(AGENT_STATUSES)
@click.option("--closed", is_flag=True, help="Include closed agents.")
@paged
def list_(app: App, everything: bool, **filters: Any) -> None:
    """List spawned agents, or the agents of one tree."""
    page = fetch_pages(app, "agent.list", drop_unset(**filters), "agents", everything=everything)
    show_table(app, page, "agents", COLUMNS, "No agents.")


@command(
    group,
    "tree",
    examples=("kheishctl agent tree ses_0EXAMPLE", "kheishctl agent tree Atlas --closed"),
)
@_agent
@click.option("--closed", is_flag=True, help="Include closed agents.")
@click.option("--watch", "-w", is_flag=True, help="Draw it again after every change, until Ctrl-C.")
def tree(app: App, agent: str, closed: bool, watch: bool) -> None:
    """Draw the tree of an agent: every agent with its status and what it has used.

    With --watch, a terminal always shows the current tree; a pipe gets a line for each agent that changed,
    and with --json a line with the whole tree for each change.
    """
    params = drop_unset(root=agent, closed=closed)
    if watch:
        TreeWatch(app, params).run()
        return
    page = fetch_pages(app, "agent.list", params, "agents", everything=True)
    app.emit(page, lambda page, display: format_tree(page["agents"], display))


class TreeWatch:
    """A tree that is drawn again after every change of an agent in it."""

    def __init__(self, app: App, params: Json) -> None:
        self._app = app
        self._params = params
        self._rows: list[Json] = []
        self._lines_drawn = 0

    def run(self) -> None:
        """Draw until the daemon ends the stream of events. Errors: Failure."""
        self._app.call("journal.subscribe", {"types": list(TREE_EVENTS)})
        self._draw()
        for method, params in self._app.client.notifications():
            event = params.get("event", {})
            ids = {row["agent_id"] for row in self._rows}
            # Events that have arrived meanwhile are drawn together.
            is_due = method == "journal.event" and {event.get("session_id"), event.get("parent_id")} & ids
            if is_due and not self._app.client.has_pending:
                self._draw()
            if method == "journal.end":
                return

    def _draw(self) -> None:
        page = fetch_pages(self._app, "agent.list", self._params, "agents", everything=True)
        previous, self._rows = self._rows, page["agents"]
        if self._rows == previous:
            return
        display = self._app.display()
        if self._app.as_json:
            self._app.print_json_line(page)
        elif display.width is None:
            changed = [row for row in self._rows if row not in previous]
            self._app.print(format_tree(changed, display))
        else:
            text = format_tree(self._rows, display)
            if self._lines_drawn:
                # Back to the first line of the tree, and clear everything below.
                sys.stdout.write(f"\x1b[{self._lines_drawn}A\x1b[J")
            self._lines_drawn = text.count("\n") + 1
            self._app.print(text)


@command(group, "show", alias="get", method="agent.get", examples=("kheishctl agent show Atlas",))
@_agent
def show(app: App, agent: str) -> None:
    """Show an agent with its newest output."""
    app.emit(app.call("agent.get", {"agent": agent}), format_record)


@command(group, "audit", method="agent.audit", examples=("kheishctl agent audit Atlas --all",))
@_agent
@paged
def audit(app: App, everything: bool, **params: Any) -> None:
    """List every transition of an agent, oldest first."""
    page = fetch_pages(app, "agent.audit", drop_unset(**params), "transitions", everything=everything)
    show_table(app, page, "transitions", TRANSITIONS, "No transitions.")


_request = options(
    name_option("--agent", "agent", "agents", "The definition that it works as (default: its parent's)."),
    click.option("--description", metavar="TEXT", help="What it is for, for people."),
    click.option("--instructions", metavar="TEXT", help="Instructions of its own, for this task."),
    click.option(
        "--instructions-mode",
        type=click.Choice(PROMPT_MODES),
        help="Whether they follow or replace those of its definition.",
    ),
    click.option("--nickname", metavar="NAME", help="A nickname (default: one is chosen)."),
    click.option(
        "--retention",
        type=click.Choice(AGENT_RETENTIONS),
        help="Whether it stays idle after its run, or closes.",
    ),
    click.option(
        "--shells",
        type=click.Choice(SHELLS_AT_CLOSE),
        help="Whether its background shells are stopped when it is closed, or pass to its parent.",
    ),
    name_option("--route", "route", "routes", "The route of its runs."),
    click.option("--model", metavar="MODEL", help="The model of its runs."),
    click.option(
        "--permission-mode", type=click.Choice(PERMISSION_MODES), help="Its mode, at most its parent's."
    ),
    click.option("--scope", type=JsonValue(), metavar="JSON", help="Its scope, at most its parent's."),
    click.option(
        "--credential-scope",
        type=JsonValue(),
        metavar="JSON",
        help="Its credentials (default: the routes of its parent).",
    ),
    click.option("--profile", type=click.Choice(PROFILES), help="A fixed tool surface."),
    click.option(
        "--tool", "allowed_tools", multiple=True, metavar="TOOL", help="Only this tool (repeatable)."
    ),
    click.option(
        "--block", "blocked_tools", multiple=True, metavar="TOOL", help="Block a tool (repeatable)."
    ),
    click.option(
        "--workspace", type=Workspace(), metavar="DIRECTORY", help="Its directory, within its parent's."
    ),
    click.option(
        "--isolation", type=click.Choice(ISOLATIONS), help="Whether it gets a git worktree of its own."
    ),
    name_option(
        "--owner",
        "owner",
        "senders",
        "The person who answers what it and the agents below it ask.",
        metavar="PERSON",
    ),
    budget_options("it and the agents below it"),
)
"""The options of a request for an agent."""


def _make_request(**params: Any) -> Json:
    tools = {name: list(params.pop(name)) or None for name in ("allowed_tools", "blocked_tools")}
    return drop_unset(budget=take_budget(params), **tools, **params)


@command(
    group,
    "spawn",
    method="agent.spawn",
    examples=(
        "kheishctl agent spawn ses_0EXAMPLE scout 'Find the tests of the parser.'",
        "kheishctl agent spawn Atlas check 'Check the figures.' --retention close_on_settle",
    ),
)
@id_argument("parent", "PARENT", "agent_paths")
@click.argument("name", help="A short name for it.")
@click.argument("prompt", help="Its task.")
@_request
@click.option(
    "--request-id", "spawn_request_id", metavar="ID", help="The same id of a parent returns the same agent."
)
@mutating
def spawn(app: App, **params: Any) -> None:
    """Spawn an agent below another one, and start its first run."""
    app.emit(app.call("agent.spawn", _make_request(**params)), _format_line)


@command(
    group,
    "explain",
    method="agent.explain",
    examples=("kheishctl agent explain ses_0EXAMPLE scout 'Look.' --permission-mode acceptEdits",),
)
@id_argument("parent", "PARENT", "agent_paths")
@click.argument("name", help="A short name for it.")
@click.argument("prompt", help="Its task.")
@_request
def explain(app: App, **params: Any) -> None:
    """Judge a spawn without carrying it out, with every limit and its use."""
    app.emit(app.call("agent.explain", {"spawn": _make_request(**params)}), format_record)


@command(group, "rename", method="agent.rename", examples=("kheishctl agent rename Atlas Hawk",))
@_agent
@click.argument("nickname", help="The new nickname.")
@mutating
def rename(app: App, **params: Any) -> None:
    """Give an agent another nickname."""
    app.emit(app.call("agent.rename", drop_unset(**params)), _format_line)


@command(
    group,
    "close",
    method="agent.close",
    examples=("kheishctl agent close Atlas --note 'not needed'",),
)
@_agent
@click.option("--note", metavar="TEXT", help="A note, which is recorded in the journal.")
@mutating
def close(app: App, **params: Any) -> None:
    """Close an agent and all agents below it."""
    app.emit(app.call("agent.close", drop_unset(**params)), _format_line)


def _format_line(agent: Json, display: Display) -> str:
    state = f"{agent['status']}, closed" if agent["state"] == "closed" else agent["status"]
    return one_line(f"{agent['agent_id']} {agent['path']} {agent.get('nickname') or ''} {state}")
