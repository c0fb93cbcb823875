"""The program ``kheishctl``."""

import sys

import click

from kheishctl import __version__, exits
from kheishctl.cli import CONTEXT, LazyGroup, common_options

_COMMANDS = "kheishctl.commands"

ENTRIES: dict[str, tuple[tuple[str, str, str], ...]] = {
    "Talk": (
        ("chat", "kheishctl.shell.command:chat", "Talk with an agent, in the terminal."),
        ("send", f"{_COMMANDS}.send:send", "Say something to an agent and print the answer."),
    ),
    "Look": (
        ("status", f"{_COMMANDS}.daemon:status", "Show how the daemon is."),
        ("conversation", f"{_COMMANDS}.conversation:group", "Conversations: an agent and a sender."),
        ("session", f"{_COMMANDS}.session:group", "Sessions: the durable units of work."),
        ("run", f"{_COMMANDS}.run:group", "Runs: what answers an input."),
        ("output", f"{_COMMANDS}.output:group", "Outputs: what runs gave."),
        ("task", f"{_COMMANDS}.task:group", "Tasks, and shells in the background."),
        ("journal", f"{_COMMANDS}.journal:group", "The journal: everything that happened."),
    ),
    "Decide": (
        (
            "approval",
            f"{_COMMANDS}.approval:group",
            "Approvals: calls of tools that wait for a person's yes or no.",
        ),
        ("question", f"{_COMMANDS}.question:group", "Questions that agents ask people."),
        ("indoubt", f"{_COMMANDS}.indoubt:group", "Calls in doubt: the daemon died while they ran."),
        ("permission", f"{_COMMANDS}.permission:group", "Permissions: what agents may do, and why."),
    ),
    "Manage": (
        ("daemon", f"{_COMMANDS}.daemon:group", "Start, stop, reload, back up and examine the daemon."),
        ("definition", f"{_COMMANDS}.definition:group", "Definitions: the agents there are."),
        ("route", f"{_COMMANDS}.route:group", "Routes: the models there are."),
        ("token", f"{_COMMANDS}.token:group", "Tokens: who may connect over TCP."),
    ),
    "Script": (
        ("call", f"{_COMMANDS}.rpc:call", "Call any method of the daemon."),
        ("completion", f"{_COMMANDS}.completion:completion", "Print a shell's completion script."),
    ),
}

HELP = "Talk with agents that a kheish daemon runs, and look after the daemon."

# Words that people try, and the commands that do what they mean.
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

EPILOG = "Exit codes:\n" + "\n".join(f"  {code:>3}  {meaning}" for code, meaning in exits.MEANINGS)

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
            callback=lambda ctx, _, on: _version(ctx) if on and not ctx.resilient_parsing else None,
            help="Print the version.",
        ),
    ],
)


def _version(ctx: click.Context) -> None:
    click.echo(f"kheishctl {__version__}")
    ctx.exit()


def main() -> None:
    """Run the program; never returns."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character shows a stand-in instead of ending the command.
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    root.main(prog_name="kheishctl")


if __name__ == "__main__":
    main()
