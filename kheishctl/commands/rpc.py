"""``kheishctl call``: call any method of the daemon, with params and results in JSON."""

import json
import sys

import click

from kheishctl.cli import App, command
from kheishctl.contract import METHODS
from kheishctl.options import timeout_option


@command(
    None,
    "call",
    examples=(
        "kheishctl call daemon.status",
        """kheishctl call run.list '{"active": true}'""",
        "kheishctl call conversation.send - < params.json",
        """kheishctl call --follow journal.subscribe '{"after": 0, "deltas": true}'""",
    ),
)
@click.argument(
    "method",
    help="The method: 'kheishctl call rpc.discover' describes all methods.",
    shell_complete=lambda ctx, parameter, incomplete: [
        name for name in METHODS if name.startswith(incomplete)
    ],
)
@click.argument(
    "params", metavar="[JSON]", required=False, help="The params, a JSON object; '-' reads standard input."
)
@click.option("--follow", is_flag=True, help="Keep printing the notifications that follow, as JSON lines.")
@timeout_option
def call(app: App, method: str, params: str | None, follow: bool, timeout: float | None) -> None:
    """Call any method of the daemon and print its result as JSON."""
    app.names_methods = True
    try:
        arguments = json.loads(sys.stdin.buffer.read() if params == "-" else params or "{}")
    except ValueError as error:
        raise click.UsageError(f"the params are not JSON: {error}") from None
    if not isinstance(arguments, dict):
        raise click.UsageError("the params must be a JSON object, because params are passed by name")
    result = app.call(method, arguments, timeout_s=timeout)
    if not follow:
        app.print_json(result)
        return
    app.print_json_line({"result": result})
    for name, notification in app.client.notifications():
        app.print_json_line({"method": name, "params": notification})
        if name == "journal.end":
            return
