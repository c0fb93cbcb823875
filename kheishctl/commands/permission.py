"""``kheishctl permission``: what agents may do without asking, and how it came about."""

from collections.abc import Iterator, Mapping
from typing import Any

import click

from kheishctl.cli import (
    App,
    complete,
    given,
    mutating,
    noun,
    options,
    paged,
    pages,
    show_table,
    verb,
)
from kheishctl.client import Json
from kheishctl.commands.session import MODES
from kheishctl.render.layout import Column, Look, one_line, paint, table

group = noun("permission", "Permissions: what agents may do, and why.")

_RULE = "TOOL[:SUBJECT]"
DECISION_STYLE = {"allow": "green", "ask": "yellow", "deny": "red"}

STEPS = (Column("SOURCE", "source"), Column("SAYS", "says"), Column("WHAT", "text"))
LAYERS = (
    Column("LAYER", "layer"),
    Column("NAME", "name"),
    Column("SAYS", "says"),
    Column("TOOL", "tool"),
    Column("SUBJECT", "subject"),
    Column("NOTE", "note"),
)
AUDIT = (
    Column("CURSOR", "cursor", "count"),
    Column("WHEN", "at_ms", "time"),
    Column("RUN", "run_id"),
    Column("CALL", "call_id"),
    Column("DECISION", lambda row: row.get("verdict", row).get("decision")),
    Column("TOOL", lambda row: row.get("verdict", {}).get("tool")),
    Column("SUBJECT", lambda row: row.get("verdict", {}).get("subject")),
    Column("WHY", lambda row: _why(row)),
)

place = options(
    click.option(
        "--session",
        "session_id",
        metavar="SESSION",
        shell_complete=complete("sessions"),
        help="In this session.",
    ),
    click.option("--run", "run_id", metavar="RUN", shell_complete=complete("runs"), help="In this run."),
)
"""The options that say where."""

agent_option = click.option(
    "--agent",
    metavar="AGENT",
    shell_complete=complete("agents"),
    help="In a new session of this agent (default: of the default one).",
)


@verb(
    group,
    "why",
    method="permission.why",
    examples=(
        "kheishctl permission why bash 'git push' --session ses_0EXAMPLE",
        "kheishctl permission why edit_file src/a.py --agent reviewer --mode acceptEdits",
    ),
)
@click.argument("tool", metavar="TOOL", help="A tool's name.")
@click.argument("subject", required=False, help="What it would work on: a command, a path, a host.")
@place
@agent_option
@click.option("--mode", type=click.Choice(MODES), help="As if the session had this mode.")
def why(app: App, **params: Any) -> None:
    """Explain, line by line, how a call would be judged now; nothing is called."""
    app.emit(app.call("permission.why", given(**params)), _explanation)


def _explanation(result: Json, look: Look) -> str:
    decision = paint(one_line(result["decision"]), DECISION_STYLE.get(result["decision"], "dim"), look.color)
    note = f" ({one_line(result['note'])})" if result["note"] else ""
    if look.width is None:
        return f"{table(result['lines'], STEPS, look)}\n{decision}\t\t{one_line(result['why'])}{note}"
    return f"{table(result['lines'], STEPS, look)}\n\n{decision}: {one_line(result['why'])}{note}"


@verb(
    group,
    "list",
    method="permission.list",
    examples=("kheishctl permission list", "kheishctl permission list --run run_0EXAMPLE --json"),
)
@place
@agent_option
@paged
def list_(app: App, everything: bool, **params: Any) -> None:
    """Show every rule, grant and mode that counts in a place, broadest first."""
    page = pages(app, "permission.list", given(**params), "permissions", everything=everything)
    app.emit(page, lambda result, look: table(list(_rows(result["permissions"])), LAYERS, look))


def _rows(layers: list[Json]) -> Iterator[Json]:
    """The rules and grants of layers, a row each; a layer without any has one row for itself."""
    for layer in layers:
        whose = {"layer": layer["layer"], "name": layer.get("name")}
        if layer.get("mode") is not None:
            yield whose | {"says": "mode", "note": f"at most {layer['mode']}"}
        for rule in layer["rules"]:
            shown = {"says": rule["decision"], "tool": rule["tool"], "subject": rule.get("subject")}
            yield whose | shown | {"note": rule.get("note", "")}
        for grant in layer.get("grants", ()):
            left = f", {grant['remaining_uses']} left" if "remaining_uses" in grant else ""
            shown = {"says": "grant", "tool": grant["tool"], "subject": grant.get("subject")}
            yield whose | shown | {"note": f"{grant['grant_id']} by {grant['granted_by']}{left}"}
        if not (layer["rules"] or layer.get("grants") or layer.get("mode")):
            yield whose | {"note": "no rules"}


def _about(text: str) -> Json:
    tool, colon, subject = text.partition(":")
    return {"tool": tool} | ({"subject": subject} if colon else {})


rule_options = options(
    click.option("--allow", multiple=True, metavar=_RULE, help="A rule that allows; repeat for more."),
    click.option("--ask", multiple=True, metavar=_RULE, help="A rule by which a person is asked."),
    click.option("--deny", multiple=True, metavar=_RULE, help="A rule that denies."),
    click.option("--remove", multiple=True, metavar=_RULE, help="Take this rule away."),
)
"""The options that name rules."""


@verb(
    group,
    "update",
    method="permission.update",
    examples=(
        "kheishctl permission update --session ses_0EXAMPLE --allow 'bash:git status'",
        "kheishctl permission update --deny 'mcp__*' --ask 'bash:git push*' --note 'others see it'",
        "kheishctl permission update --run run_0EXAMPLE --remove bash --revoke grt_0EXAMPLE",
    ),
)
@place
@rule_options
@click.option("--revoke", multiple=True, metavar="GRANT", help="Take this grant away.")
@click.option("--note", help="Why; it is shown with the rules that are added.")
@mutating
def update(
    app: App,
    allow: tuple[str, ...],
    ask: tuple[str, ...],
    deny: tuple[str, ...],
    remove: tuple[str, ...],
    revoke: tuple[str, ...],
    note: str | None,
    **chosen: Any,
) -> None:
    """Add and remove rules, revoke grants; from the next judgement on.

    Without --session and --run, for the whole daemon. TOOL is a name, the beginning of one and '*', or '*';
    in SUBJECT, '*' stands for anything. A rule takes the place of the one about the same tool and subject.
    """
    said = (("allow", allow), ("ask", ask), ("deny", deny))
    add = [
        _about(text) | {"decision": decision} | given(note=note) for decision, texts in said for text in texts
    ]
    taken = [_about(text) for text in remove]
    if not (add or taken or revoke):
        raise click.UsageError("nothing to change; give --allow, --ask, --deny, --remove or --revoke")
    params = given(add=add, remove=taken, revoke=list(revoke), **chosen)
    layer = app.call("permission.update", params)
    app.emit(layer, lambda result, look: table(list(_rows([result])), LAYERS, look))


@verb(
    group,
    "audit",
    method="permission.audit",
    examples=(
        "kheishctl permission audit --limit 20",
        "kheishctl permission audit --session ses_0EXAMPLE --all",
    ),
)
@place
@click.option("--oldest", is_flag=True, help="Oldest first, not newest.")
@paged
def audit(app: App, oldest: bool, everything: bool, **params: Any) -> None:
    """Read how calls were judged and what people answered, newest first."""
    asked = given(order="oldest" if oldest else None, **params)
    page = pages(app, "permission.audit", asked, "audits", everything=everything)
    show_table(app, page, "audits", AUDIT, "Nothing was judged yet.")


def _why(row: Mapping[str, Any]) -> str:
    verdict = row.get("verdict")
    if verdict is not None:
        note = verdict.get("note", "")
        return f"{verdict['why']}: {note}" if note else str(verdict["why"])
    said = "; ".join(filter(None, (row.get("note"), row.get("justification"))))
    return f"answered by {row.get('actor')}" + (f": {said}" if said else "")
