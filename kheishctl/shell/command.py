"""``kheishctl chat``: chat with an agent in the terminal."""

import sys

import click

from kheishctl import exit_codes
from kheishctl.cli import App, command, use_color
from kheishctl.client import NoDaemon, dial
from kheishctl.directories import current_directory, offer_trust
from kheishctl.options import agent_argument, drop_unset, sender_option, workspace_option


@command(None, "chat", examples=("kheishctl chat", "kheishctl chat reviewer --as ada --spawn"))
@agent_argument
@sender_option
@workspace_option
@click.option(
    "--spawn", is_flag=True, help="If no daemon is running, start one in the background without asking."
)
@click.option("--new", "fresh", is_flag=True, help="Start a new session; the old one stays readable.")
@click.option("--thinking", is_flag=True, help="Show the model's reasoning.")
@click.option("--verbose", "-v", is_flag=True, help="Show the verdicts on tool calls and their results.")
@click.option("--vi", is_flag=True, help="Edit the line with the keys of vi (default: those of emacs).")
def chat(
    app: App,
    agent: str | None,
    sender: str | None,
    workspace: str | None,
    spawn: bool,
    fresh: bool,
    thinking: bool,
    verbose: bool,
    vi: bool,
) -> None:
    """Chat with an agent in the terminal.

    The agent and the sender together are the address: the same pair continues its conversation, and the chat
    shows the last turns. A new conversation works in the current directory if the operator allows it, and
    keeps its directory; --workspace and /cd change it. Esc stops an answer and keeps the conversation; Ctrl-D
    leaves, and the run continues; ? on an empty line lists the keys. Actions of other clients in the same
    conversation appear as they happen. If the daemon restarts, the chat waits for it.

    If a tool call needs your approval, or the agent asks you a question, the bell rings, and the request
    appears above the prompt with the keys that answer it.

    Settings for every chat are in ~/.config/kheish/client.toml: editing_mode ("emacs", "vi"), notice ("auto",
    "bell", "osc9", "osc777", "off"), notice_command (a list), terminal_title (true, false), theme ("auto",
    "light", "dark").
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise click.UsageError("chat needs a terminal; 'kheishctl send' is made for pipes")
    if app.as_json:
        raise click.UsageError("chat is for people; 'kheishctl send --json' is for programs")
    _require_daemon(app, spawn=spawn)
    directory = workspace or current_directory()
    offer_trust(app, drop_unset(agent=agent, sender=sender), directory, fresh=fresh)
    app.disconnect()
    # Imported here, because the prompt costs ten times the start of the interpreter.
    import asyncio

    from kheishctl.shell.chat import Chat
    from kheishctl.shell.settings import locate_settings, read_settings

    settings = read_settings(locate_settings())

    async def run() -> None:
        await Chat(
            app.path,
            agent,
            sender or "user",
            color=use_color(True),
            fresh=fresh,
            directory=directory,
            moves=workspace is not None,
            thinking=thinking,
            verbose=verbose,
            settings=settings.prefer(vi=vi),
        ).run()

    asyncio.run(run())


def _require_daemon(app: App, *, spawn: bool) -> None:
    """Check that a daemon is running, or start one if the person agrees. Errors: NoDaemon, StartFailed."""
    try:
        dial(app.path).close()
        return
    except NoDaemon as failure:
        if app.path_option:
            raise
        if not spawn:
            click.echo(f"No daemon is running in {app.home}.")
            if not click.confirm("Start one in the background?", default=True):
                failure.exit_code = exit_codes.NO_DAEMON
                raise
    from kheishctl.launch import start

    status = start(app.home)
    app.note(f"Started a daemon, pid {status['pid']}; 'kheishctl daemon stop' stops it.")
