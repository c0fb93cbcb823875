"""``kheishctl mcp``: MCP servers, their states and their tools."""

from collections.abc import Mapping
from typing import Any

import click

from kheishctl import exit_codes
from kheishctl.cli import App, command, fetch_pages, make_group, show_table
from kheishctl.options import JsonValue, complete, drop_unset, id_argument, mutating, paged
from kheishctl.render.layout import Column, format_record
from protocol.text import one_line, sanitize

group = make_group("mcp", "MCP servers, whose tools agents use.")


def describe_place(row: Mapping[str, Any]) -> str:
    """Return where a server is: its URL, or its command."""
    return str(row.get("url") or " ".join(row.get("command", ())))


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
@click.argument("arguments", metavar="[JSON]", type=JsonValue(), required=False, help="The tool's arguments.")
def call(app: App, server: str, tool: str, arguments: Any) -> None:
    """Call a tool without an agent: no permission rules apply. The exit code is 1 if it reports an error."""
    result = app.call("mcp.call", drop_unset(server=server, tool=tool, arguments=arguments))
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


PROMPT_COLUMNS = (
    Column("PROMPT", "name"),
    Column("ARGUMENTS", lambda row: ", ".join(row.get("arguments", ()))),
    Column("DESCRIPTION", lambda row: one_line(row.get("description", ""))),
)


@command(group, "prompts", method="mcp.prompts", examples=("kheishctl mcp prompts everything",))
@id_argument("server", "SERVER", "mcp_servers")
def prompts(app: App, server: str) -> None:
    """List the prompts of a server."""
    show_table(app, app.call("mcp.prompts", {"server": server}), "prompts", PROMPT_COLUMNS, "No prompts.")


@command(group, "restart", method="mcp.restart", examples=("kheishctl mcp restart files",))
@id_argument("server", "SERVER", "mcp_servers")
def restart(app: App, server: str) -> None:
    """Close the connection to a server, and connect anew. Calls in flight fail."""
    app.emit(app.call("mcp.restart", {"server": server}), format_record)


@command(
    group,
    "put",
    method="mcp.put",
    examples=(
        "kheishctl mcp put files -- npx -y @modelcontextprotocol/server-filesystem /srv",
        "kheishctl mcp put tickets --url https://tickets.example.com/mcp --auth-ref slot:tickets",
        'kheishctl mcp put clock --settings \'{"command": ["clock"], "tool_timeout_s": 5}\'',
    ),
)
@id_argument("server", "SERVER", "mcp_servers")
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
    app.emit(app.call("mcp.put", drop_unset(**params)), format_record)


@command(group, "delete", method="mcp.delete", examples=("kheishctl mcp delete files",))
@id_argument("server", "SERVER", "mcp_servers")
@mutating
def delete(app: App, **params: Any) -> None:
    """Delete a stored server. It is closed after its last call."""
    app.emit(app.call("mcp.delete", drop_unset(**params)), format_record)
