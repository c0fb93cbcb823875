"""``kheishctl permission``: the rules, grants and modes that decide about tool calls, and their audit."""

from collections.abc import Iterator, Mapping
from typing import Any

import click

from kheishctl.cli import App, command, fetch_pages, make_group, show_table
from kheishctl.contract import ALL_ORIGINS, ITEM_KINDS, PERMISSION_MODES, Json
from kheishctl.options import JsonValue, drop_unset, mutating, name_option, oldest_option, options, paged
from kheishctl.render.claims import format_claim, format_facts
from kheishctl.render.layout import Column, Display, format_table, paint
from protocol.text import one_line

group = make_group("permission", "Permissions: rules, grants and verdicts on tool calls.")

_RULE = "TOOL[:SUBJECT]"
DECISION_STYLES = {"allow": "green", "ask": "yellow", "deny": "red"}

LINE_COLUMNS = (Column("SOURCE", "source"), Column("SAYS", "says"), Column("TEXT", "text"))
CLAIM_COLUMNS = (
    Column("SAYS", "says"),
    Column("READ AS", format_claim),
    Column("WHY", lambda row: row.get("problem") or row["why"]),
)
LAYER_COLUMNS = (
    Column("LAYER", "layer"),
    Column("NAME", "name"),
    Column("SAYS", "says"),
    Column("TOOL", "tool"),
    Column("SUBJECT", "subject"),
    Column("NOTE", "note"),
)
AUDIT_COLUMNS = (
    Column("CURSOR", "cursor", "count"),
    Column("WHEN", "at_ms", "time"),
    Column("RUN", "run_id"),
    Column("CALL", "call_id"),
    Column("DECISION", lambda row: row.get("verdict", row).get("decision")),
    Column("TOOL", lambda row: row.get("verdict", {}).get("tool")),
    Column("SUBJECT", lambda row: row.get("verdict", {}).get("subject")),
    Column("WHY", lambda row: format_source(row)),
)

target_options = options(
    name_option("--session", "session_id", "sessions", "In this session."),
    name_option("--run", "run_id", "runs", "In this run."),
)
"""The options that select a session or a run."""

agent_option = name_option(
    "--agent", "agent", "agents", "In a new session of this agent (default: of the default agent)."
)


@command(
    group,
    "why",
    method="permission.why",
    examples=(
        "kheishctl permission why bash 'git push' --session ses_0EXAMPLE",
        "kheishctl permission why edit_file src/a.py --agent reviewer --mode acceptEdits",
        "kheishctl permission why cheap --kind route --session ses_0EXAMPLE",
    ),
)
@click.argument("tool", metavar="NAME", help="The name of a tool, or of another item.")
@click.argument("subject", required=False, help="The subject of the call: a command, a path, a URL, a host.")
@target_options
@agent_option
@click.option(
    "--kind", "item_kind", type=click.Choice(ITEM_KINDS), help="The kind of the item (default: tool)."
)
@click.option("--mode", type=click.Choice(PERMISSION_MODES), help="Assume this permission mode.")
@click.option(
    "--origin",
    "origins",
    multiple=True,
    type=click.Choice(ALL_ORIGINS),
    metavar="ORIGIN",
    help="Assume that the run has read an input of this origin, too (repeatable).",
)
@click.option(
    "--facts",
    type=JsonValue(),
    metavar="JSON",
    help='Assume these circumstances, such as {"workdir": "/srv/work"}: a grant is for exactly these.',
)
def why(app: App, **params: Any) -> None:
    """Explain, line by line, how a call would be judged now; nothing is called.

    A command line is shown as it was read: each of its commands, with its words. Remembered approvals hold
    only in the circumstances that were shown; without them, none is used. Whatever hides the item comes
    first: the definition of the agent, the session's scopes, its profile, or the same of a session above.
    """
    if params["subject"] == "":
        raise click.UsageError("SUBJECT is empty; without it, the verdict is about the tool itself")
    params["origins"] = list(params["origins"]) or None
    app.emit(app.call("permission.why", drop_unset(**params)), _format_explanation)


def _format_explanation(result: Json, display: Display) -> str:
    decision = one_line(result["decision"])
    painted = paint(decision, DECISION_STYLES.get(result["decision"], "dim"), display.color)
    note = f" ({one_line(result['note'])})" if result["note"] else ""
    lines = format_table(result["lines"], LINE_COLUMNS, display)
    if result.get("claims"):
        lines += f"\n\n{format_table(result['claims'], CLAIM_COLUMNS, display)}"
    if display.width is None:
        return f"{lines}\n{painted}\t\t{one_line(result['why'])}{note}"
    return f"{lines}\n\n{painted}: {one_line(result['why'])}{note}"


@command(
    group,
    "list",
    method="permission.list",
    examples=("kheishctl permission list", "kheishctl permission list --run run_0EXAMPLE --json"),
)
@target_options
@agent_option
@paged
def list_(app: App, everything: bool, **params: Any) -> None:
    """List the rules, grants and modes that apply, broadest first."""
    page = fetch_pages(app, "permission.list", drop_unset(**params), "permissions", everything=everything)
    app.emit(
        page, lambda result, display: format_table(_list_rows(result["permissions"]), LAYER_COLUMNS, display)
    )


def _list_rows(layers: list[Json]) -> list[Json]:
    return [row for layer in layers for row in _expand_layer(layer)]


def _expand_layer(layer: Json) -> Iterator[Json]:
    """Yield a row for the mode, each rule and each grant of a layer; an empty layer has one row."""
    source = {"layer": layer["layer"], "name": layer.get("name")}
    if layer.get("mode") is not None:
        yield source | {"says": "mode", "note": f"at most {layer['mode']}"}
    for rule in layer["rules"]:
        fields = {"says": rule["decision"], "tool": rule["tool"], "subject": rule.get("subject")}
        origin = f"for the origin {rule['origin']}" if "origin" in rule else ""
        yield source | fields | {"note": "; ".join(filter(None, (origin, rule.get("note"))))}
    for grant in layer.get("grants", ()):
        uses = f", {grant['remaining_uses']} uses left" if "remaining_uses" in grant else ""
        fields = {"says": "grant", "tool": grant["tool"], "subject": grant.get("subject")}
        note = f"{grant['grant_id']} by {grant['granted_by']}{uses}{format_facts(grant.get('facts', {}))}"
        yield source | fields | {"note": note}
    if not (layer["rules"] or layer.get("grants") or layer.get("mode")):
        yield source | {"note": "no rules"}


def _parse_rule(text: str) -> Json:
    tool, colon, subject = text.partition(":")
    if not tool.strip() or set(tool) & set("(){}[] "):
        raise click.UsageError(
            f"{text!r} is not a rule; a rule is the name of a tool, or TOOL:SUBJECT such as 'bash:git *'"
        )
    return {"tool": tool} | ({"subject": subject} if colon else {})


rule_options = options(
    click.option("--allow", multiple=True, metavar=_RULE, help="Add a rule that allows (repeatable)."),
    click.option("--ask", multiple=True, metavar=_RULE, help="Add a rule that asks a person (repeatable)."),
    click.option("--deny", multiple=True, metavar=_RULE, help="Add a rule that denies (repeatable)."),
    click.option("--remove", multiple=True, metavar=_RULE, help="Remove a rule (repeatable)."),
)
"""The options that add and remove rules."""


@command(
    group,
    "update",
    method="permission.update",
    examples=(
        "kheishctl permission update --session ses_0EXAMPLE --allow 'bash:git status'",
        "kheishctl permission update --deny 'mcp__*' --ask 'bash:git push*' --note 'others see it'",
        "kheishctl permission update --run run_0EXAMPLE --remove bash --revoke grt_0EXAMPLE",
    ),
)
@target_options
@rule_options
@click.option("--revoke", multiple=True, metavar="GRANT", help="Revoke a grant (repeatable).")
@click.option("--note", help="A note, which is shown with the new rules.")
@click.option(
    "--origin",
    type=click.Choice(ALL_ORIGINS),
    metavar="ORIGIN",
    help=f"The rules, also removed ones, are those for this origin: {', '.join(ALL_ORIGINS)}.",
)
@mutating
def update(
    app: App,
    remove: tuple[str, ...],
    revoke: tuple[str, ...],
    note: str | None,
    origin: str | None,
    allow: tuple[str, ...],
    ask: tuple[str, ...],
    deny: tuple[str, ...],
    **params: Any,
) -> None:
    """Add and remove rules, and revoke grants; effective from the next tool call.

    Without --session and --run, the rules apply to the whole daemon. TOOL is a tool name, a prefix followed
    by '*', or '*' alone; in SUBJECT, '*' matches anything. A rule replaces the rule with the same tool,
    subject and origin.
    """
    rules = {"allow": allow, "ask": ask, "deny": deny}
    added = [
        _parse_rule(text) | {"decision": decision} | drop_unset(note=note, origin=origin)
        for decision, texts in rules.items()
        for text in texts
    ]
    if not (added or remove or revoke):
        raise click.UsageError("nothing to change; use --allow, --ask, --deny, --remove or --revoke")
    removed = [_parse_rule(text) | drop_unset(origin=origin) for text in remove]
    params = drop_unset(add=added, remove=removed, revoke=list(revoke), **params)
    layer = app.call("permission.update", params)
    app.emit(layer, lambda result, display: format_table(_list_rows([result]), LAYER_COLUMNS, display))


@command(
    group,
    "audit",
    method="permission.audit",
    examples=(
        "kheishctl permission audit --limit 20",
        "kheishctl permission audit --session ses_0EXAMPLE --all",
    ),
)
@target_options
@oldest_option
@paged
def audit(app: App, oldest: bool, everything: bool, **params: Any) -> None:
    """List the verdicts on calls and people's answers, newest first."""
    params = drop_unset(order="oldest" if oldest else None, **params)
    page = fetch_pages(app, "permission.audit", params, "audits", everything=everything)
    show_table(app, page, "audits", AUDIT_COLUMNS, "No calls were judged yet.")


def format_source(row: Mapping[str, Any]) -> str:
    """Format the source of a verdict, or the person who answered and that person's notes."""
    verdict = row.get("verdict")
    if verdict is not None:
        note = verdict.get("note", "")
        return f"{verdict['why']}: {note}" if note else str(verdict["why"])
    notes = "; ".join(filter(None, (row.get("note"), row.get("justification"))))
    return f"answered by {row.get('actor')}" + (f": {notes}" if notes else "")
