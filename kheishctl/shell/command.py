"""``kheishctl chat``: a conversation in the terminal."""

import sys

import click

from kheishctl import exits
from kheishctl.cli import App, colored, complete, sender_option, verb
from kheishctl.client import NoDaemon, dial


@verb(None, "chat", examples=("kheishctl chat", "kheishctl chat reviewer --as ada --spawn"))
@click.argument(
    "agent", required=False, shell_complete=complete("agents"), help="The agent; else the default."
)
@sender_option
@click.option("--spawn", is_flag=True, help="Start a daemon in the background if none runs, without asking.")
@click.option("--new", "fresh", is_flag=True, help="Begin a new session; the old one stays readable.")
@click.option("--thinking", is_flag=True, help="Also show the model's reasoning.")
@click.option("--verbose", "-v", is_flag=True, help="Also show what decided about calls, and what they gave.")
def chat(
    app: App, agent: str | None, sender: str | None, spawn: bool, fresh: bool, thinking: bool, verbose: bool
) -> None:
    """Talk with an agent, in the terminal.

    The agent and the sender are the whole address: the same pair goes on where it was, and shows the
    last turns. Ctrl-C stops an answer and keeps the conversation; Ctrl-D leaves, and a run goes on
    without you. What another client does in the same conversation is shown as it happens. If the daemon
    restarts, the chat waits for it and goes on.

    Where a call of a tool needs your approval, or the agent asks you something, the bell rings, and what is
    asked stands above the prompt with the keys that answer it.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise click.UsageError("chat needs a terminal; 'kheishctl send' is made for pipes")
    if app.as_json:
        raise click.UsageError("chat is for people; 'kheishctl send --json' is for programs")
    _need_daemon(app, spawn=spawn)
    # Made where used: the prompt costs ten times what starting the interpreter does.
    import asyncio

    from kheishctl.shell.chat import Chat

    async def talk() -> None:
        await Chat(
            app.path,
            agent,
            sender or "user",
            color=colored(True),
            fresh=fresh,
            thinking=thinking,
            verbose=verbose,
        ).run()

    asyncio.run(talk())


def _need_daemon(app: App, *, spawn: bool) -> None:
    """See that a daemon answers; start one if asked to. Errors: NoDaemon, NotStarted."""
    try:
        dial(app.path).close()
        return
    except NoDaemon as failure:
        if app.given_path:
            raise
        if not spawn:
            click.echo(f"No daemon is running in {app.home}.")
            if not click.confirm("Start one in the background?", default=True):
                failure.exit_code = exits.NO_DAEMON
                raise
    from kheishctl.launch import start

    status = start(app.home)
    app.note(f"Started a daemon, pid {status['pid']}; 'kheishctl daemon stop' stops it.")
