"""``kheishctl goal``: the standing goals of sessions."""

from __future__ import annotations

from typing import Any

import click

from kheishctl.cli import App, command, make_group
from kheishctl.options import (
    WholeNumber,
    budget_options,
    drop_unset,
    mutating,
    options,
    session_argument,
    take_budget,
)
from kheishctl.render.layout import format_record

group = make_group("goal", "Goals of sessions, towards which the daemon continues by itself.")

_change_options = options(
    session_argument, click.option("--note", metavar="TEXT", help="The reason, for people."), mutating
)


@command(
    group,
    "set",
    method="goal.set",
    examples=(
        "kheishctl goal set ses_0EXAMPLE 'Make the tests pass' --done-when 'contrib/check exits with 0'",
        "kheishctl goal set ses_0EXAMPLE 'Watch the queue' --max-continuations 100 --max-tokens 2000000",
    ),
)
@session_argument
@click.argument("objective", metavar="OBJECTIVE", help="What is to be reached.")
@click.option("--done-when", metavar="TEXT", help="What shows that it is reached.")
@click.option("--constraint", "constraints", multiple=True, metavar="TEXT", help="A constraint (repeatable).")
@click.option("--stop-when", multiple=True, metavar="TEXT", help="A condition to stop the work (repeatable).")
@click.option("--max-continuations", type=WholeNumber(1), metavar="N", help="Maximum runs towards it.")
@budget_options("all these runs")
@click.option(
    "--judge/--no-judge", default=None, help="Whether a model judges after each run (default: it does)."
)
@mutating
def set_(app: App, constraints: tuple[str, ...], stop_when: tuple[str, ...], **params: Any) -> None:
    """Give a session a goal: the daemon continues after each run until it is reached.

    A goal that the session has is replaced. It ends when the judge or the agent's own evidence says that it
    is done, when a condition to stop holds, or when its budget is used up. A message of a person comes first.
    """
    lists = {"constraints": list(constraints) or None, "stop_when": list(stop_when) or None}
    app.emit(app.call("goal.set", drop_unset(budget=take_budget(params), **lists, **params)), format_record)


@command(group, "show", alias="get", method="goal.get", examples=("kheishctl goal show ses_0EXAMPLE",))
@session_argument
def show(app: App, session_id: str) -> None:
    """Show the goal of a session, its status and what it has used."""
    app.emit(app.call("goal.get", {"session_id": session_id}), format_record)


@command(group, "clear", method="goal.clear", examples=("kheishctl goal clear ses_0EXAMPLE",))
@_change_options
def clear(app: App, **params: Any) -> None:
    """Remove the goal of a session. A run in flight continues."""
    app.emit(app.call("goal.clear", drop_unset(**params)), format_record)


@command(group, "pause", method="goal.pause", examples=("kheishctl goal pause ses_0EXAMPLE",))
@_change_options
def pause(app: App, **params: Any) -> None:
    """Pause the goal of a session. A run in flight continues."""
    app.emit(app.call("goal.pause", drop_unset(**params)), format_record)


@command(group, "resume", method="goal.resume", examples=("kheishctl goal resume ses_0EXAMPLE",))
@_change_options
def resume(app: App, **params: Any) -> None:
    """Resume the goal of a session that is paused or waits."""
    app.emit(app.call("goal.resume", drop_unset(**params)), format_record)
