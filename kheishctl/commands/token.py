"""``kheishctl token``: who may connect over TCP, and what for."""

from typing import Any

import click

from kheishctl.cli import (
    App,
    Duration,
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
from kheishctl.render.layout import Column, Look, facts, one_line

group = noun("token", "Tokens: who may connect over TCP. A token's secret is shown once.")

SCOPES = ("read", "converse", "approve", "operate", "admin")
COLUMNS = (
    Column("TOKEN", "token_id"),
    Column("NAME", "name"),
    Column("SCOPES", lambda row: " ".join(row["grant"]["scopes"])),
    Column("AGENTS", lambda row: _covered(row["grant"].get("agents"))),
    Column("SENDERS", lambda row: _covered(row["grant"].get("senders"))),
    Column("EXPIRES", lambda row: row["grant"].get("expires_at_ms"), "time"),
    Column("REVOKED", "revoked_at_ms", "time"),
)


def _covered(names: list[str] | None) -> str:
    return "all" if names is None else " ".join(names) or "none"


grant_options = options(
    click.option("--name", help="What it is for, for people."),
    click.option(
        "--scope",
        "scopes",
        multiple=True,
        type=click.Choice(SCOPES),
        help="A right it has; repeat for more.",
    ),
    click.option(
        "--agent",
        "agents",
        multiple=True,
        metavar="AGENT",
        shell_complete=complete("agents"),
        help="Only this agent; repeat for more (default: all).",
    ),
    click.option(
        "--sender",
        "senders",
        multiple=True,
        metavar="SENDER",
        help="Only this sender; repeat for more (default: all).",
    ),
    click.option("--expires", type=Duration(), metavar="TIME", help="It ends after this time (12h, 30d)."),
    mutating,
)
"""The options that say what a token allows."""


def _grant(expires: float | None, **options: Any) -> Json:
    params = {
        name: list(value) if isinstance(value, tuple) else value for name, value in options.items() if value
    }
    return given(**params, expires_in_s=None if expires is None else max(1, int(expires)))


@verb(
    group,
    "create",
    method="token.create",
    examples=("kheishctl token create --name ci --scope read --scope converse --sender ci --expires 30d",),
)
@grant_options
def create(app: App, **options: Any) -> None:
    """Make a bearer token; its secret is shown this once."""
    if not options["scopes"]:
        raise click.UsageError("a token without any --scope opens nothing; give at least one")
    app.emit(app.call("token.create", _grant(**options)), _made)


@verb(
    group,
    "narrow",
    method="token.narrow",
    examples=("kheishctl token narrow tok_0EXAMPLE --scope read --expires 1h",),
)
@click.argument(
    "token_id", metavar="TOKEN", shell_complete=complete("tokens"), help="The token to start from."
)
@grant_options
def narrow(app: App, token_id: str, **options: Any) -> None:
    """Make a weaker token from one; what is not given stays as it is."""
    app.emit(app.call("token.narrow", {"token_id": token_id, **_grant(**options)}), _made)


def _made(result: Json, look: Look) -> str:
    secret = one_line(str(result["secret"]))
    if look.width is None:
        return secret
    lines = [
        facts(result["token"], look),
        "",
        f"secret  {secret}",
        "Keep it now: it is not shown again.",
    ]
    return "\n".join(lines)


@verb(group, "list", method="token.list", examples=("kheishctl token list --revoked",))
@click.option("--revoked", is_flag=True, help="Also revoked and expired ones.")
@paged
def list_(app: App, revoked: bool, limit: int | None, after: str | None, everything: bool) -> None:
    """List tokens, oldest first; never their secrets."""
    params = given(revoked=revoked, limit=limit, after=after)
    page = pages(app, "token.list", params, "tokens", everything=everything)
    show_table(app, page, "tokens", COLUMNS, "No tokens.")


@verb(
    group,
    "revoke",
    method="token.revoke",
    examples=("kheishctl token revoke tok_0EXAMPLE --note 'it was lost'",),
)
@click.argument("token_id", metavar="TOKEN", shell_complete=complete("tokens"), help="The token.")
@click.option("--note", help="Why; it is kept in the journal.")
@mutating
def revoke(app: App, token_id: str, note: str | None, **mutation: Any) -> None:
    """Revoke a token, those narrowed from it, and close their connections."""
    result = app.call("token.revoke", given(token_id=token_id, note=note, **mutation))
    app.emit(result, lambda token, _: f"{token['token_id']} opens nothing any more")
