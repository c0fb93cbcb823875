"""The program ``kheishctl``: all commands, imported when they are called, and its orderly end."""

import _thread
import os
import signal
import sys
from contextlib import suppress
from typing import Any, NoReturn

import click

from kheishctl import exit_codes
from kheishctl.cli import CONTEXT, LazyGroup, common_options
from protocol import __version__
from protocol.text import one_line, sanitize

_COMMANDS = "kheishctl.commands"

ENTRIES: dict[str, tuple[tuple[str, str, str], ...]] = {
    "Talk": (
        ("chat", "kheishctl.shell.command:chat", "Chat with an agent in the terminal."),
        ("resume", "kheishctl.shell.command:resume", "Choose an earlier session and continue it in a chat."),
        ("send", f"{_COMMANDS}.send:send", "Send a message to an agent and print its answer."),
    ),
    "Inspect": (
        ("status", f"{_COMMANDS}.daemon:status", "Show the status of the daemon."),
        ("top", f"{_COMMANDS}.top:top", "Watch runs, waits, timers and rates."),
        ("logs", f"{_COMMANDS}.daemon:logs", "Print the log of a daemon in the background."),
        ("conversation", f"{_COMMANDS}.conversation:group", "Conversations: an agent and a sender."),
        ("session", f"{_COMMANDS}.session:group", "Sessions: the durable units of work."),
        ("agent", f"{_COMMANDS}.agent:group", "Agents: the trees of agents that sessions form."),
        ("run", f"{_COMMANDS}.run:group", "Runs: each run answers one input."),
        ("output", f"{_COMMANDS}.output:group", "Outputs: the results of runs."),
        ("mailbox", f"{_COMMANDS}.mailbox:group", "Mailboxes: the messages between agents."),
        ("task", f"{_COMMANDS}.task:group", "Tasks and background shells."),
        ("journal", f"{_COMMANDS}.journal:group", "The journal: every event, in order."),
    ),
    "Decide": (
        ("approval", f"{_COMMANDS}.approval:group", "Approvals: tool calls that need a person's approval."),
        ("question", f"{_COMMANDS}.question:group", "Questions that agents ask people."),
        ("indoubt", f"{_COMMANDS}.indoubt:group", "Calls in doubt: the daemon crashed while they ran."),
        ("goal", f"{_COMMANDS}.goal:group", "Goals of sessions."),
        (
            "permission",
            f"{_COMMANDS}.permission:group",
            "Permissions: rules, grants and verdicts on tool calls.",
        ),
    ),
    "Manage": (
        (
            "setup",
            f"{_COMMANDS}.setup:setup",
            "Create the first key, route and agent.",
        ),
        ("daemon", f"{_COMMANDS}.daemon:group", "Start, stop, reload, back up and check the daemon."),
        ("definition", f"{_COMMANDS}.definition:group", "Definitions of agents."),
        ("persona", f"{_COMMANDS}.persona:group", "Personas: instructions that are bound to sessions."),
        (
            "cron",
            f"{_COMMANDS}.cron:group",
            "Cron entries: schedules on which the daemon wakes conversations.",
        ),
        ("memory", f"{_COMMANDS}.memory:group", "Memory: the notes of agents."),
        ("skill", f"{_COMMANDS}.skill:group", "Skills: reusable instructions for agents."),
        ("event", f"{_COMMANDS}.event:group", "The event bus: publish and follow events."),
        ("trigger", f"{_COMMANDS}.trigger:group", "Triggers: events that wake agents."),
        ("route", f"{_COMMANDS}.route:group", "Routes to models."),
        ("mcp", f"{_COMMANDS}.mcp:group", "MCP servers, whose tools agents use."),
        ("secret", f"{_COMMANDS}.secret:group", "Secrets: encrypted slots for credentials."),
        ("token", f"{_COMMANDS}.token:group", "Tokens for connections over TCP."),
        (
            "checkpoint",
            f"{_COMMANDS}.checkpoint:group",
            "Checkpoints: former contents of workspace files.",
        ),
        ("workspace", f"{_COMMANDS}.workspace:group", "Trusted roots."),
        ("hook", f"{_COMMANDS}.hook:group", "Lifecycle hooks: programs and servers of the operator."),
    ),
    "Script": (
        ("call", f"{_COMMANDS}.rpc:call", "Call any method of the daemon."),
        ("completion", f"{_COMMANDS}.completion:completion", "Print a shell's completion script."),
    ),
}

HELP = "Talk with the agents of a kheish daemon, and manage the daemon."

ALSO = {
    "crons": "cron list",
    "schedule": "cron",
    "agents": "agent list",
    "tree": "agent tree",
    "skills": "skill list",
    "model": "route",
    "models": "route list",
    "log": "logs",
    "restart": "daemon stop",
    "message": "send",
    "mail": "mailbox list",
    "approve": "approval allow",
    "deny": "approval deny",
    "answer": "question answer",
    "key": "secret put",
    "init": "setup",
    "help": "--help",
}
"""Words that people try, and the commands that they mean."""

EPILOG = "\n".join(
    (
        "Exit codes:",
        *(f"  {code:>3}  {meaning}" for code, meaning in exit_codes.MEANINGS),
        exit_codes.OF_START,
    )
)


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


# The stream of each standard descriptor, and its mode.
STREAMS = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))

DEBUG_VARIABLE = "KHEISHCTL_DEBUG"


def prepare_streams() -> None:
    """Make the standard streams usable: closed ones lead nowhere, and no character fails to be printed."""
    for number, (name, mode) in enumerate(STREAMS):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number, so that no file that is opened later becomes a standard stream.
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character shows a replacement instead of ending the command.
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]


def decode_argument(argument: str) -> str:
    """Return an argument as UTF-8, in every locale."""
    try:
        return os.fsencode(argument).decode()
    except UnicodeError:
        return argument


def finish_streams(code: int) -> int:
    """Write buffered output; return the exit code, which tells if the output could not be written."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError) as error:
            is_closed_pipe = isinstance(error, BrokenPipeError)
            code = code or (exit_codes.PIPE_CLOSED if is_closed_pipe else exit_codes.FAILED)
            if stream is sys.stdout and isinstance(error, OSError) and not is_closed_pipe:
                print_error(f"cannot write the output: {error.strerror}")
            # What is still buffered must not fail once more at the exit.
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return code


def report_error(error: Exception) -> int:
    """Report an unexpected error, with its place for a bug report; return the exit code."""
    if os.environ.get(DEBUG_VARIABLE):
        import traceback

        print_error("".join(traceback.format_exception(error)))
        return exit_codes.FAILED
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f" in {os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}" if trace else ""
    print_error(
        f"unexpected {type(error).__name__}{place}: {one_line(str(error))}; "
        f"the daemon may have another version. {DEBUG_VARIABLE}=1 shows details"
    )
    return exit_codes.FAILED


def print_error(text: str) -> None:
    """Print a message on standard error, if that is possible."""
    with suppress(OSError, ValueError):
        sys.stderr.write(f"kheishctl: {sanitize(text)}\n")
        sys.stderr.flush()


def repeat_interrupt(unraisable: "sys.UnraisableHookArgs") -> None:
    """Repeat a Ctrl-C that came where Python ignores exceptions; report everything else as Python does."""
    if isinstance(unraisable.exc_value, KeyboardInterrupt):
        # From another thread, because an exception in this function would be ignored, too.
        _thread.start_new_thread(signal.pthread_kill, (_thread.get_ident(), signal.SIGINT))
    else:
        sys.__unraisablehook__(unraisable)


def run() -> NoReturn:
    """Run the program, and end it with an exit code and without a traceback."""
    code: Any = exit_codes.FAILED
    try:
        prepare_streams()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.unraisablehook = repeat_interrupt
        sys.argv = [sys.argv[0], *map(decode_argument, sys.argv[1:])]
        try:
            root.main(prog_name="kheishctl")
        finally:
            # Nothing is left to interrupt, and Python's own end must not be.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
    except SystemExit as end:
        code = end.code
    except KeyboardInterrupt:
        code = exit_codes.INTERRUPTED
    except Exception as error:
        code = report_error(error)
    sys.exit(finish_streams(code if isinstance(code, int) else int(code is not None)))
