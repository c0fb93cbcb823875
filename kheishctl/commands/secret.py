"""``kheishctl secret``: encrypted slots for credentials, which the daemon uses and never shows."""

import sys
from typing import Any

import click

from kheishctl.cli import App, command, fetch_pages, make_group, show_table
from kheishctl.contract import MAX_SECRET_BYTES
from kheishctl.options import drop_unset, id_argument, mutating, paged
from kheishctl.render.layout import Column, format_record
from protocol.text import one_line

group = make_group("secret", "Secrets: encrypted slots for credentials. Their values are never shown.")

COLUMNS = (
    Column("SLOT", "slot_id"),
    Column("KIND", "kind"),
    Column("REVISION", "revision"),
    Column("UPDATED", "updated_at_ms", "time"),
    Column("USED BY", lambda row: ", ".join(row.get("used_by", ()))),
    Column("PROBLEM", "problem"),
)


@command(
    group,
    "put",
    method="secret.put",
    examples=(
        "kheishctl secret put openai --kind api_key",
        "kheishctl secret put deploy-key --stdin < key.pem",
    ),
)
@id_argument("slot_id", "SLOT", "secrets", offers=None)
@click.option("--stdin", "from_stdin", is_flag=True, help="Read the value from the standard input.")
@click.option(
    "--kind",
    type=click.Choice(("opaque", "api_key")),
    help="'api_key' refuses a value that no HTTP header can hold (default: the kind "
    "'api_key' is kept; else opaque).",
)
@click.option(
    "--replace-unreadable",
    is_flag=True,
    help="Store it although slots cannot be read, because their master key is lost.",
)
@click.argument(
    "arguments", metavar="", nargs=-1, type=click.UNPROCESSED, help="None: the value is never an argument."
)
@mutating
def put(
    app: App,
    slot_id: str,
    arguments: tuple[str, ...],
    from_stdin: bool,
    replace_unreadable: bool,
    **params: Any,
) -> None:
    """Store a value in a slot; routes with auth_ref = "slot:SLOT" use it from their next call on.

    The value is asked for, or read from the standard input without its last line break. It is never an
    argument: the list of processes and the shell's history would show it.
    """
    if arguments:
        raise click.UsageError("the value is never an argument; use --stdin, or the prompt in a terminal")
    if not from_stdin and not sys.stdin.isatty():
        raise click.UsageError("the standard input is no terminal; read the value from it with --stdin")
    value = read_value() if from_stdin else click.prompt("Value", hide_input=True, err=True)
    if not value:
        raise click.UsageError("the value is empty")
    if replace_unreadable:
        params["replace_unreadable"] = True
    result = app.call("secret.put", drop_unset(slot_id=slot_id, value=value, **params))
    app.emit(result, format_record)
    if not result.get("redacted", True):
        app.note("The value is so short that it is not redacted where it occurs in texts.")


def read_value() -> str:
    """Return the standard input without its last line break. Errors: a usage error."""
    content = sys.stdin.buffer.read(MAX_SECRET_BYTES + 3)
    content = content.removesuffix(b"\n").removesuffix(b"\r")
    if len(content) > MAX_SECRET_BYTES:
        raise click.UsageError(f"the value has more than {MAX_SECRET_BYTES} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise click.UsageError("the value is not UTF-8 text; encode it first, such as with base64") from None


@command(group, "list", method="secret.list", examples=("kheishctl secret list",))
@paged
def list_(app: App, everything: bool, **params: Any) -> None:
    """List the slots by id, with their users and problems."""
    page = fetch_pages(app, "secret.list", drop_unset(**params), "secrets", everything=everything)
    show_table(app, page, "secrets", COLUMNS, "No secrets.")


@command(group, "rotate", method="secret.rotate", examples=("kheishctl secret rotate",))
@click.argument(
    "arguments", metavar="", nargs=-1, help="None: every slot is sealed again, and each keeps its value."
)
@mutating
def rotate(app: App, arguments: tuple[str, ...], **params: Any) -> None:
    """Replace the master key and seal every slot again.

    A key that the daemon did not generate is yours to change: write a new one into the first line of its
    file, above the present one, and rotate; then remove the old line. A backup from before needs the old key.
    """
    if arguments:
        line = app.command_line("secret", "put", arguments[0], "--stdin")
        raise click.UsageError(f"rotate replaces the master key; to replace a value: {line}")
    result = app.call("secret.rotate", drop_unset(**params))
    slots = "1 slot" if result["slots"] == 1 else f"{result['slots']} slots"
    app.emit(result, lambda key, _: f"sealed {slots} by the new key in {one_line(key['path'])}")


@command(group, "delete", method="secret.delete", examples=("kheishctl secret delete openai",))
@id_argument("slot_id", "SLOT", "secrets")
@mutating
def delete(app: App, **params: Any) -> None:
    """Delete a slot and its value; refused while something uses it."""
    app.emit(app.call("secret.delete", drop_unset(**params)), format_record)
