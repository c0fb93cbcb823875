"""``kheishctl call``: any method, for scripts and for what has no command of its own."""

import json
import sys

import click

from kheishctl.cli import App, Duration, verb
from kheishctl.client import Json


@verb(
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
    help="The method: 'kheishctl call rpc.discover' describes them all.",
    shell_complete=lambda *a: _methods(*a),
)
@click.argument(
    "params", metavar="[JSON]", required=False, help="Its params, a JSON object; '-' reads standard input."
)
@click.option("--follow", is_flag=True, help="Go on printing the notifications that follow, as JSON lines.")
@click.option("--timeout", type=Duration(), metavar="TIME", help="Wait at most so long for the answer.")
def call(app: App, method: str, params: str | None, follow: bool, timeout: float | None) -> None:
    """Call any method of the daemon and print its result as JSON."""
    arguments = _object(sys.stdin.read() if params == "-" else params or "{}")
    result = app.call(method, arguments, timeout_s=timeout)
    if not follow:
        app.document(result)
        return
    app.line({"result": result})
    for name, notification in app.client.notifications():
        app.line({"method": name, "params": notification})
        if name == "journal.end":
            return


def _object(text: str) -> Json:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise click.UsageError(f"the params are not JSON: {error}") from None
    if not isinstance(value, dict):
        raise click.UsageError("the params must be a JSON object, as params go by name")
    return value


def _methods(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    # The names come from the rows, not from the daemon: they complete without one, too.
    from protocol.rpc.catalogue import METHODS

    return [name for name in METHODS if name.startswith(incomplete)]
