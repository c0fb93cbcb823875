"""``kheishctl mcp``: MCP servers, their states and their tools."""

import shlex
import sys
from collections.abc import Mapping
from typing import Any

import click

from kheishctl import exit_codes
from kheishctl.cli import App, Verb, command, fetch_pages, make_group, show_table
from kheishctl.options import JsonValue, WholeNumber, complete, drop_unset, id_argument, mutating, paged
from kheishctl.render.layout import Column, Display, format_record
from protocol.text import one_line, sanitize

MAX_ADDRESS_CHARACTERS = 64 * 1024

group = make_group("mcp", "MCP servers, whose tools agents use.")


def describe_place(row: Mapping[str, Any]) -> str:
    """Return where a server is: its URL, or its command."""
    return str(row.get("url") or shlex.join(row.get("command", ())))


def may_log_in(row: Mapping[str, Any]) -> bool:
    """Whether people log in at a server."""
    return bool(row.get("oauth"))


COLUMNS = (
    Column("SERVER", "name"),
    Column("STATE", "state"),
    Column("TOOLS", lambda row: row.get("tools", 0), "count"),
    Column("FROM", lambda row: ", ".join(row["agents"]) if row.get("agents") else row["source"]),
    Column("RETRY", "retry_at_ms", "time"),
    Column("PLACE", describe_place),
    Column("PROBLEM", "problem"),
)


@command(group, "list", method="mcp.list", examples=("kheishctl mcp list",))
@paged
def list_(app: App, everything: bool, **params: Any) -> None:
    """List servers by name, with their states.

    A server that failed is tried again at the time shown, or at once by 'kheishctl mcp restart'.
    """
    page = fetch_pages(app, "mcp.list", drop_unset(**params), "servers", everything=everything)
    if app.as_json or app.display().width is None:
        show_table(app, page, "servers", COLUMNS, "No MCP servers.")
        return
    # A table truncates long cells, and a problem says what to do.
    show_table(app, page, "servers", COLUMNS[:-1], "No MCP servers.")
    for row in page["servers"]:
        for problem in filter(None, (row.get("problem"), *row.get("warnings", ()))):
            app.print(one_line(f"{row['name']}: {problem}"))


@command(group, "show", alias="get", method="mcp.get", examples=("kheishctl mcp show files",))
@id_argument("server", "SERVER", "mcp_servers")
def show(app: App, server: str) -> None:
    """Show the state of a server, with the error output of its program."""
    app.emit(app.call("mcp.get", {"server": server}), format_server)


def format_server(server: Mapping[str, Any], display: Display) -> str:
    """Return a server as text: its fields, then the lines that it wrote."""
    fields = {name: value for name, value in server.items() if name not in ("error_output", "warnings")}
    if server.get("command"):
        fields["command"] = shlex.join(server["command"])
    lines = [format_record(fields, display)]
    lines += [f"warning: {one_line(warning)}" for warning in server.get("warnings", ())]
    if server.get("error_output"):
        lines += ["", "Its error output:", *(f"  {one_line(line)}" for line in server["error_output"])]
    return "\n".join(lines)


TOOL_COLUMNS = (
    Column("TOOL", "name"),
    Column("READS ONLY", lambda row: "yes" if row.get("read_only") else ""),
    Column("DESCRIPTION", lambda row: one_line(row.get("description", ""))),
)


@command(
    group,
    "tools",
    method="mcp.tools",
    examples=("kheishctl mcp tools", "kheishctl mcp tools files --json"),
)
@click.argument(
    "server",
    metavar="[SERVER]",
    required=False,
    shell_complete=complete("mcp_servers"),
    help="Its tools only.",
)
@paged
def tools(app: App, everything: bool, **params: Any) -> None:
    """List the tools that a server offers, or all servers. The descriptions are the servers' texts."""
    page = fetch_pages(app, "mcp.tools", drop_unset(**params), "tools", everything=everything)
    show_table(app, page, "tools", TOOL_COLUMNS, "No tools.")


@command(
    group,
    "call",
    method="mcp.call",
    examples=('kheishctl mcp call files list_directory \'{"path": "/srv"}\'',),
)
@id_argument("server", "SERVER", "mcp_servers")
@click.argument("tool", metavar="TOOL", help="The server's own name of the tool.")
@click.argument("input", metavar="[JSON]", type=JsonValue(), required=False, help="The tool's arguments.")
def call(app: App, server: str, tool: str, input: Any) -> None:
    """Call a tool without an agent: no permission rules apply. The exit code is 1 if it reports an error."""
    result = app.call("mcp.call", drop_unset(server=server, tool=tool, input=input))
    app.emit(result, lambda result, display: sanitize(result["text"]))
    click.get_current_context().exit(exit_codes.FAILED if result.get("is_error") else exit_codes.OK)


RESOURCE_COLUMNS = (
    Column("URI", "uri"),
    Column("NAME", "name"),
    Column("TYPE", lambda row: "template" if row.get("is_template") else row.get("mime_type", "")),
    Column("DESCRIPTION", lambda row: one_line(row.get("description", ""))),
)


@command(group, "resources", method="mcp.resources", examples=("kheishctl mcp resources files",))
@id_argument("server", "SERVER", "mcp_servers")
def resources(app: App, server: str) -> None:
    """List the resources of a server, and the templates of their addresses."""
    result = app.call("mcp.resources", {"server": server})
    show_table(app, result, "resources", RESOURCE_COLUMNS, "No resources.")
    for warning in result.get("warnings", ()):
        app.note(f"warning: {one_line(warning)}")


PROMPT_COLUMNS = (
    Column("PROMPT", "name"),
    Column("ARGUMENTS", lambda row: ", ".join(row.get("arguments", ()))),
    Column("DESCRIPTION", lambda row: one_line(row.get("description", ""))),
)


@command(group, "prompts", method="mcp.prompts", examples=("kheishctl mcp prompts everything",))
@id_argument("server", "SERVER", "mcp_servers")
def prompts(app: App, server: str) -> None:
    """List the prompts of a server."""
    result = app.call("mcp.prompts", {"server": server})
    show_table(app, result, "prompts", PROMPT_COLUMNS, "No prompts.")
    for warning in result.get("warnings", ()):
        app.note(f"warning: {one_line(warning)}")


@command(group, "restart", method="mcp.restart", examples=("kheishctl mcp restart files",))
@id_argument("server", "SERVER", "mcp_servers")
def restart(app: App, server: str) -> None:
    """Close the connection to a server, and connect anew. Calls in flight fail."""
    app.emit(app.call("mcp.restart", {"server": server}), format_record)


class WrappingVerb(Verb):
    """A command whose last arguments are a program with options of its own."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the command line. Errors: a usage error, which says how to write the program's options."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            text = f"{error.format_message()} If it is the program's, write '--' before the program:"
            raise click.UsageError(f"{text} {ctx.command_path} SERVER -- PROGRAM ARGUMENTS", ctx) from None


@command(
    group,
    "put",
    cls=WrappingVerb,
    method="mcp.put",
    examples=(
        "kheishctl mcp put files -- npx -y @modelcontextprotocol/server-filesystem /srv",
        "kheishctl mcp put tickets --url https://tickets.example.com/mcp --auth-ref slot:tickets",
        'kheishctl mcp put clock --settings \'{"command": ["clock"], "tool_timeout_s": 5}\'',
    ),
)
@id_argument("server", "SERVER", "mcp_servers", offers=None)
@click.argument("words", metavar="[COMMAND]...", nargs=-1, help="The program and its arguments, after '--'.")
@click.option("--url", metavar="URL", help="The URL of a server that runs, instead of a program.")
@click.option("--auth-ref", metavar="REF", help="Where the bearer token for the URL is, such as slot:NAME.")
@click.option("--settings", type=JsonValue(), metavar="JSON", help="Further settings, as in config.toml.")
@mutating
def put(
    app: App,
    words: tuple[str, ...],
    url: str | None,
    auth_ref: str | None,
    settings: Any,
    **params: Any,
) -> None:
    """Store a server, or replace the stored one; the daemon connects to it at once."""
    if settings is not None and not isinstance(settings, dict):
        raise click.UsageError("--settings is no JSON object")
    named = drop_unset(command=list(words) or None, url=url, auth_ref=auth_ref)
    params["settings"] = {**(settings or {}), **named}
    stored = app.call("mcp.put", drop_unset(**params))
    app.emit(stored, format_server)
    if stored["state"] == "starting" and not params["check"]:
        app.note(f"The daemon is connecting to it; its state: {app.command_line('mcp', 'list')}")


@command(group, "delete", method="mcp.delete", examples=("kheishctl mcp delete files",))
@id_argument("server", "SERVER", "mcp_servers", offers=lambda row: row["source"] == "stored")
@mutating
def delete(app: App, **params: Any) -> None:
    """Delete a stored server, with the tokens of its login. It is closed after its last call."""
    app.emit(app.call("mcp.delete", drop_unset(**params)), format_record)


@command(
    group,
    "login",
    method="mcp.login",
    examples=("kheishctl mcp login tickets", "kheishctl mcp login tickets --device"),
)
@id_argument("server", "SERVER", "mcp_servers", offers=may_log_in)
@click.option("--paste", is_flag=True, help="Ask for the last address of a browser on another machine.")
@click.option("--device", is_flag=True, help="Show a code to type in a browser on any device.")
@click.option("--begin", is_flag=True, help="Only begin; 'kheishctl mcp login-complete' is the second step.")
@click.option(
    "--port",
    type=WholeNumber(1, 65_535),
    metavar="PORT",
    help="The port of the redirect, for a server that knows the client by it (default: a free one).",
)
def login(app: App, server: str, paste: bool, device: bool, begin: bool, port: int | None) -> None:
    """Log in at a server with 'oauth = true', in the browser; the daemon keeps the tokens in a slot.

    With --paste the browser may be on any machine: at the end it shows an address that it cannot open. So it
    may with --device, which not every server offers.
    """
    if device:
        log_in_by_code(app, server, begin=begin)
        return
    import time
    import webbrowser

    from kheishctl.loopback import LoopbackServer, read_answer

    with LoopbackServer(port or 0) as loopback:
        begun = app.call("mcp.login", {"server": server, "redirect_uri": loopback.redirect_uri})
        if begin:
            app.emit(begun, format_record)
            return
        click.echo(f"Open this address in a browser:\n{sanitize(begun['url'])}", err=True)
        try:
            if paste:
                answer = read_answer(click.prompt("The address at the end", hide_input=True, err=True))
            else:
                webbrowser.open(begun["url"])
                answer = loopback.wait(begun["expires_at_ms"] / 1000 - time.time())
        except ValueError as error:
            raise click.UsageError(sanitize(str(error))) from None
    result = app.call("mcp.login_complete", {"login_id": begun["login_id"], **answer})
    app.emit(result, format_record)


def log_in_by_code(app: App, server: str, *, begin: bool) -> None:
    """Show the code of a login, and wait until the person has typed it; ``begin``: do not wait."""
    begun = app.call("mcp.login", {"server": server})
    if begin:
        app.emit(begun, format_record)
        return
    url, code = one_line(begun["url"]), one_line(begun["user_code"])
    click.echo(f"Open {url} in a browser on any device, and type the code {code}", err=True)
    app.emit(app.call("mcp.login_complete", {"login_id": begun["login_id"]}), format_record)


@command(
    group,
    "login-complete",
    method="mcp.login_complete",
    examples=("kheishctl mcp login-complete LOGIN < address",),
)
@click.argument("login_id", metavar="LOGIN", help="The id of the login.")
@click.option("--device", is_flag=True, help="Wait until the person has typed the code; read no input.")
def login_complete(app: App, login_id: str, device: bool) -> None:
    """Complete a login that 'mcp login --begin' began. The standard input is the browser's last address."""
    if device:
        app.emit(app.call("mcp.login_complete", {"login_id": login_id}), format_record)
        return
    from kheishctl.loopback import read_answer

    try:
        answer = read_answer(sys.stdin.readline(MAX_ADDRESS_CHARACTERS))
    except ValueError as error:
        raise click.UsageError(sanitize(str(error))) from None
    app.emit(app.call("mcp.login_complete", {"login_id": login_id, **answer}), format_record)


@command(group, "logout", method="mcp.logout", examples=("kheishctl mcp logout tickets",))
@id_argument("server", "SERVER", "mcp_servers", offers=may_log_in)
@mutating
def logout(app: App, **params: Any) -> None:
    """Delete the tokens of a server, revoke them there, and close the connection."""
    app.emit(app.call("mcp.logout", drop_unset(**params)), format_record)
