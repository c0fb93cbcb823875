"""The entry point of ``kheishctl``: all commands, imported when they are called."""

import sys

import click

from kheishctl import __version__, exit_codes
from kheishctl.cli import CONTEXT, LazyGroup, common_options

_COMMANDS = "kheishctl.commands"

ENTRIES: dict[str, tuple[tuple[str, str, str], ...]] = {
    "Talk": (
        ("chat", "kheishctl.shell.command:chat", "Chat with an agent in the terminal."),
        ("send", f"{_COMMANDS}.send:send", "Send a message to an agent and print its answer."),
    ),
    "Inspect": (
        ("status", f"{_COMMANDS}.daemon:status", "Show the status of the daemon."),
        ("conversation", f"{_COMMANDS}.conversation:group", "Conversations: an agent and a sender."),
        ("session", f"{_COMMANDS}.session:group", "Sessions: the durable units of work."),
        ("run", f"{_COMMANDS}.run:group", "Runs: each run answers one input."),
        ("output", f"{_COMMANDS}.output:group", "Outputs: the results of runs."),
        ("task", f"{_COMMANDS}.task:group", "Tasks and background shells."),
        ("journal", f"{_COMMANDS}.journal:group", "The journal: every event, in order."),
    ),
    "Decide": (
        ("approval", f"{_COMMANDS}.approval:group", "Approvals: tool calls that need a person's approval."),
        ("question", f"{_COMMANDS}.question:group", "Questions that agents ask people."),
        ("indoubt", f"{_COMMANDS}.indoubt:group", "Calls in doubt: the daemon crashed while they ran."),
        (
            "permission",
            f"{_COMMANDS}.permission:group",
            "Permissions: rules, grants and verdicts on tool calls.",
        ),
    ),
    "Manage": (
        ("daemon", f"{_COMMANDS}.daemon:group", "Start, stop, reload, back up and check the daemon."),
        ("definition", f"{_COMMANDS}.definition:group", "Definitions of agents."),
        ("route", f"{_COMMANDS}.route:group", "Routes to models."),
        ("token", f"{_COMMANDS}.token:group", "Tokens for connections over TCP."),
    ),
    "Script": (
        ("call", f"{_COMMANDS}.rpc:call", "Call any method of the daemon."),
        ("completion", f"{_COMMANDS}.completion:completion", "Print a shell's completion script."),
    ),
}

HELP = "Talk with the agents of a kheish daemon, and manage the daemon."

ALSO = {
    "agent": "definition",
    "agents": "definition list",
    "model": "route",
    "models": "route list",
    "log": "daemon logs",
    "restart": "daemon stop",
    "message": "send",
    "approve": "approval allow",
    "deny": "approval deny",
    "answer": "question answer",
    "help": "--help",
}
"""Words that people try, and the commands that they mean."""

EPILOG = "Exit codes:\n" + "\n".join(f"  {code:>3}  {meaning}" for code, meaning in exit_codes.MEANINGS)


def _print_version(ctx: click.Context, parameter: click.Parameter, enabled: bool) -> None:
    if enabled and not ctx.resilient_parsing:
        click.echo(f"kheishctl {__version__}")
        ctx.exit()


root = LazyGroup(
    "kheishctl",
    entries=ENTRIES,
    also=ALSO,
    help=HELP,
    epilog=EPILOG,
    context_settings=CONTEXT,
    params=[
        *common_options(),
        click.Option(
            ["--version"],
            is_flag=True,
            expose_value=False,
            is_eager=True,
            callback=_print_version,
            help="Print the version.",
        ),
    ],
)


def main() -> None:
    """Run the program; never returns."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character shows a replacement instead of ending the command.
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    root.main(prog_name="kheishctl")


if __name__ == "__main__":
    main()
