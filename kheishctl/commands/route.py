"""``kheishctl route``: the routes to models."""

from collections.abc import Mapping, Sequence
from typing import Any

import click

from kheishctl import exit_codes
from kheishctl.cli import App, command, fetch_pages, make_group, show_table
from kheishctl.contract import Json
from kheishctl.options import JsonValue, complete, drop_unset, id_argument, mutating, options, paged
from kheishctl.render.events import format_place
from kheishctl.render.layout import Column, Display, format_pairs, format_record, format_table, paint
from protocol.text import one_line

group = make_group("route", "Routes to models: a driver, a model and a credential each.")


def describe_readiness(route: Mapping[str, Any]) -> str:
    """Return whether a route can be asked now."""
    if not route.get("ready", True):
        return "not ready"
    return "cooling down" if route.get("cooldowns") else "ready"


COLUMNS = (
    Column("ROUTE", "route_id"),
    Column("DRIVER", "driver"),
    Column("MODEL", "model"),
    Column("DEFAULT", lambda row: "default" if row.get("default") else ""),
    Column("READY", describe_readiness),
    Column("BASE URL", "base_url"),
    Column("PROBLEM", "problem"),
)


@command(group, "list", method="route.list", examples=("kheishctl route list --json",))
@paged
def list_(app: App, everything: bool, **params: Any) -> None:
    """List routes by id."""
    page = fetch_pages(app, "route.list", drop_unset(**params), "routes", everything=everything)
    if app.as_json or app.display().width is None:
        show_table(app, page, "routes", COLUMNS, "No routes.")
        return
    # A table truncates long cells, and a problem says what to do.
    show_table(app, page, "routes", COLUMNS[:-1], "No routes.")
    for row in page["routes"]:
        if row.get("problem"):
            app.print(one_line(f"{row['route_id']}: {row['problem']}"))


@command(group, "show", alias="get", method="route.get", examples=("kheishctl route show offline",))
@id_argument("route_id", "ROUTE", "routes")
def show(app: App, route_id: str) -> None:
    """Show a route; its credential is shown by reference only."""
    app.emit(app.call("route.get", {"route_id": route_id}), format_route)


def format_route(route: Json, display: Display) -> str:
    """Format a route; its cooldowns and its earlier revisions take one line each."""
    fields = {"route_id": route["route_id"], **route}
    revisions, cooldowns = fields.pop("revisions", []), fields.pop("cooldowns", [])
    pairs: list[tuple[str, str | None]] = [
        ("cooldown", f"{cooldown['reason']} until {display.format_time(cooldown['until_ms'])}{key}")
        for cooldown in cooldowns
        for key in [f", {cooldown['auth_ref']}" if cooldown.get("auth_ref") else ""]
    ]
    pairs += [
        (f"revision {revision['revision']}", f"{revision['settings']['model']}{back}, {since}")
        for revision in revisions[1:]
        for since in [f"since {display.format_time(revision['updated_at_ms'])}"]
        for back in [f", that of revision {revision['rollback_of']}" if revision.get("rollback_of") else ""]
    ]
    more = format_pairs(pairs, display)
    return format_record(fields, display) + (f"\n{more}" if more else "")


CHECK_COLUMNS = (
    Column("STEP", lambda check: str(check["name"]).replace("_", " ")),
    Column("RESULT", "status"),
    Column("NOTE", "note"),
)
RESULT_STYLES = {"ok": "green", "failed": "red", "skipped": "dim"}


def format_checks(checks: Sequence[Json], display: Display) -> str:
    """Format the steps of a test: a table for a pipe, and whole notes for a terminal."""
    if display.width is None:
        return format_table(checks, CHECK_COLUMNS, display)
    lines = []
    for check in checks:
        step, status = str(check["name"]).replace("_", " "), str(check["status"])
        result = paint(status.ljust(7), RESULT_STYLES.get(status, ""), display.color)
        lines.append(f"{step.ljust(12)}  {result}  {one_line(str(check.get('note', '')))}".rstrip())
    return "\n".join(lines)


def format_test(result: Json, display: Display) -> str:
    """Format the test of a route; those of its other keys and of its fallback follow, each with its name."""
    others = result.get("others", [])
    if not others:
        return format_checks(result["checks"], display)
    return "\n\n".join(
        f"{format_place(test['route_id'], test.get('auth_ref'))}\n{format_checks(test['checks'], display)}"
        for test in (result, *others)
    )


@command(group, "test", method="route.test", examples=("kheishctl route test claude",))
@id_argument("route_id", "ROUTE", "routes")
def test(app: App, route_id: str) -> None:
    """Make one small call with one tool, and report step by step what worked.

    Each key of the route and each route of its fallback is tested, too. A call may cost a fraction of a
    cent. The exit code is 1 if a step failed.
    """
    result = app.call("route.test", {"route_id": route_id})
    app.emit(result, format_test)
    for warning in app.call("route.get", {"route_id": route_id}).get("warnings", ()):
        app.note(f"warning: {one_line(warning)}")
    click.get_current_context().exit(exit_codes.OK if result["ok"] else exit_codes.FAILED)


setting_options = options(
    click.option("--model", metavar="NAME", help="The model, as the provider knows it."),
    click.option("--driver", metavar="NAME", help="openai, responses, anthropic, google or offline."),
    click.option("--preset", metavar="NAME", help="The server whose differences apply, such as ollama."),
    click.option("--base-url", metavar="URL", help="The URL of the API."),
    click.option(
        "--auth-ref",
        "auth_refs",
        multiple=True,
        metavar="REF",
        help="Where the key is: slot:NAME, env:NAME or credential:NAME (repeatable: several keys, in order).",
    ),
    click.option(
        "--fallback",
        multiple=True,
        metavar="ROUTE",
        shell_complete=complete("routes"),
        help="A route to ask while this one fails (repeatable, in order).",
    ),
)
"""The options for the settings of a route that most routes need."""


@command(
    group,
    "put",
    method="route.put",
    examples=(
        "kheishctl route put claude --driver anthropic --model claude-sonnet-4-5 --auth-ref env:CLAUDE_KEY",
        'kheishctl route put local --settings \'{"preset": "ollama", "model": "qwen3"}\'',
    ),
)
@id_argument("route_id", "ROUTE", "routes", offers=None)
@setting_options
@click.option(
    "--settings",
    type=JsonValue(),
    metavar="JSON",
    help="All settings, as [routes.ROUTE] of the configuration has them; options come first.",
)
@click.option(
    "--expected-revision",
    type=int,
    metavar="N",
    help="Refuse unless this is the current revision; 0: the route is new.",
)
@mutating
def put(app: App, settings: Any, **params: Any) -> None:
    """Store a route, or replace all settings of a stored one; new runs use it at once.

    The key itself is never part of a route. A route in the configuration file cannot be replaced: edit the
    file and reload.
    """
    names = ("model", "driver", "preset", "base_url", "auth_refs", "fallback")
    named = {name: params.pop(name) for name in names}
    if len(named["auth_refs"]) == 1:
        named["auth_ref"] = named.pop("auth_refs")[0]
    if settings is not None and not isinstance(settings, dict):
        raise click.UsageError("--settings is no JSON object")
    params["settings"] = {**(settings or {}), **drop_unset(**named)}
    if "model" not in params["settings"]:
        raise click.UsageError("a route needs a model: --model NAME")
    app.emit(app.call("route.put", drop_unset(**params)), format_record)


@command(
    group,
    "rollback",
    method="route.rollback",
    examples=("kheishctl route rollback claude", "kheishctl route rollback claude --revision 2"),
)
@id_argument("route_id", "ROUTE", "routes")
@click.option("--revision", type=int, metavar="N", help="The earlier revision (default: the last one).")
@click.option("--expected-revision", type=int, metavar="N", help="Refuse unless this is the current one.")
@mutating
def rollback(app: App, **params: Any) -> None:
    """Give a stored route the settings of an earlier revision again, as a new revision."""
    app.emit(app.call("route.rollback", drop_unset(**params)), format_record)


@command(group, "delete", method="route.delete", examples=("kheishctl route delete claude",))
@id_argument("route_id", "ROUTE", "routes")
@click.option("--expected-revision", type=int, metavar="N", help="Refuse unless this is the current one.")
@mutating
def delete(app: App, **params: Any) -> None:
    """Delete a stored route and its revisions, unless an agent or the default names it.

    Runs that are being executed keep it until they end.
    """
    app.emit(app.call("route.delete", drop_unset(**params)), format_record)


@command(
    group,
    "default",
    method="route.default",
    examples=("kheishctl route default claude", "kheishctl route default --reset"),
)
@click.argument(
    "route_id", metavar="[ROUTE]", required=False, shell_complete=complete("routes"), help="The route."
)
@click.option("--reset", is_flag=True, help="Use the default route of the configuration again.")
@mutating
def default(app: App, reset: bool, **params: Any) -> None:
    """Make a route the default one for agents and sessions that name none."""
    if (params["route_id"] is None) != reset:
        raise click.UsageError("name a route, or use --reset")
    app.emit(app.call("route.default", drop_unset(**params)), format_record)
