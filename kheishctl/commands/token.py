"""``kheishctl token``: bearer tokens for connections over TCP."""

from typing import Any

import click

from kheishctl.cli import App, command, fetch_pages, make_group, show_table
from kheishctl.contract import ORIGINS, SCOPES, Json
from kheishctl.options import (
    Duration,
    complete,
    drop_unset,
    id_argument,
    mutating,
    note_option,
    options,
    paged,
)
from kheishctl.render.layout import Column, Display, format_record
from protocol.text import one_line

group = make_group("token", "Tokens for connections over TCP. A token's secret is shown once.")

# The start of every secret; ids begin otherwise.
SECRET_PREFIX = "kht_"

COLUMNS = (
    Column("TOKEN", "token_id"),
    Column("NAME", "name"),
    Column("SCOPES", lambda row: " ".join(row["grant"]["scopes"])),
    Column("AGENTS", lambda row: _join_names(row["grant"].get("agents"))),
    Column("SENDERS", lambda row: _join_names(row["grant"].get("senders"))),
    Column("ORIGIN", lambda row: row["grant"].get("origin")),
    Column("EXPIRES", lambda row: row["grant"].get("expires_at_ms"), "time"),
    Column("REVOKED", "revoked_at_ms", "time"),
)


def _join_names(names: list[str] | None) -> str:
    return "all" if names is None else " ".join(names) or "none"


grant_options = options(
    click.option("--name", help="A name, for people."),
    click.option(
        "--scope",
        "scopes",
        multiple=True,
        type=click.Choice(SCOPES),
        help="A right of the token (repeatable).",
    ),
    click.option(
        "--agent",
        "agents",
        multiple=True,
        metavar="AGENT",
        shell_complete=complete("agents"),
        help="Allow only this agent (repeatable; default: all).",
    ),
    click.option(
        "--sender",
        "senders",
        multiple=True,
        metavar="SENDER",
        help="Allow only this sender (repeatable; default: all).",
    ),
    click.option(
        "--origin",
        type=click.Choice(ORIGINS),
        metavar="ORIGIN",
        help=f"Everything that the token sends has this origin: {', '.join(ORIGINS)}.",
    ),
    click.option("--expires", type=Duration(), metavar="TIME", help="Lifetime of the token (12h, 30d)."),
    mutating,
)
"""The options for the rights of a token."""


def _make_params(expires: float | None, **params: Any) -> Json:
    lists = {name: list(value) if isinstance(value, tuple) else value for name, value in params.items()}
    return drop_unset(**lists, expires_in_s=None if expires is None else max(1, int(expires)))


@command(
    group,
    "create",
    method="token.create",
    examples=("kheishctl token create --name ci --scope read --scope converse --sender ci --expires 30d",),
)
@grant_options
def create(app: App, **params: Any) -> None:
    """Create a bearer token; its secret is shown only now."""
    if not params["scopes"]:
        raise click.UsageError("a token without a scope cannot do anything; use at least one --scope")
    app.emit(app.call("token.create", _make_params(**params)), _format_created)


@command(
    group,
    "narrow",
    method="token.narrow",
    examples=("kheishctl token narrow tok_0EXAMPLE --scope read --expires 1h",),
)
@id_argument("token_id", "TOKEN", "tokens")
@grant_options
def narrow(app: App, token_id: str, **params: Any) -> None:
    """Create a weaker token from a token; omitted rights stay unchanged."""
    _reject_secret(token_id)
    app.emit(app.call("token.narrow", {"token_id": token_id, **_make_params(**params)}), _format_created)


def _reject_secret(token_id: str) -> None:
    """Reject a secret in place of an id, before it is sent and repeated. Errors: a usage error."""
    if token_id.startswith(SECRET_PREFIX):
        raise click.UsageError(
            "this is the secret of a token; name the token by its id, see 'kheishctl token list'. "
            "The secret is in your shell's history now"
        )


def _format_created(result: Json, display: Display) -> str:
    secret = one_line(str(result["secret"]))
    if display.width is None:
        return secret
    record = format_record(result["token"], display)
    return f"{record}\n\nsecret  {secret}\nKeep it now: it is not shown again."


@command(group, "list", method="token.list", examples=("kheishctl token list --revoked",))
@click.option("--revoked", is_flag=True, help="Include revoked and expired tokens.")
@paged
def list_(app: App, everything: bool, **params: Any) -> None:
    """List tokens, oldest first, without their secrets."""
    page = fetch_pages(app, "token.list", drop_unset(**params), "tokens", everything=everything)
    show_table(app, page, "tokens", COLUMNS, "No tokens.")


@command(
    group,
    "revoke",
    method="token.revoke",
    examples=("kheishctl token revoke tok_0EXAMPLE --note 'it was lost'",),
)
@id_argument("token_id", "TOKEN", "tokens")
@note_option
@mutating
def revoke(app: App, token_id: str, note: str | None, **mutation: Any) -> None:
    """Revoke a token and the tokens narrowed from it, and close their connections."""
    _reject_secret(token_id)
    result = app.call("token.revoke", drop_unset(token_id=token_id, note=note, **mutation))
    app.emit(result, lambda token, _: f"revoked {token['token_id']}")
