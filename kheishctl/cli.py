"""What every command is made of: common options, one way to print, one way to fail, completion.

A command is a function of an :class:`App` and its own parameters, declared by :func:`verb`. It asks the
daemon through ``app.call`` and shows the result through ``app.emit``: as one JSON document with
``--json``, else as text made by a pure function. Whatever it raises becomes a message and an exit code.
"""

import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import IO, Any, TypeVar

import click

from kheishctl import client as _client
from kheishctl import exits
from kheishctl.client import Client, Failure, Json
from kheishctl.render.layout import Look, clean, json_safe, one_line, paint, styles_only, table

F = TypeVar("F", bound=Callable[..., Any])

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

# A key press waits at most this long for names from the daemon.
COMPLETION_SECONDS = 0.3

_META = "kheishctl."


class App:
    """What one command works with: where the daemon is, how to print."""

    def __init__(self, home: str | None, path: str | None, *, as_json: bool) -> None:
        self.home = _client.home_directory(home)
        self.path = _client.socket_path(self.home, path)
        self.given_home = home
        self.given_path = path
        self.as_json = as_json
        self._client: Client | None = None

    @property
    def client(self) -> Client:
        """The connection, made at its first use. Errors: NoDaemon, NotPermitted."""
        if self._client is None:
            self._client = Client.dial(self.path)
        return self._client

    def call(self, method: str, params: Json | None = None, *, timeout_s: float | None = None) -> Any:
        """Ask the daemon; where only a check is asked for, say so. Errors: Failure of any kind."""
        result = self.client.call(method, params, timeout_s=timeout_s)
        if params and params.get("check"):
            self.note("Nothing was changed. It would give:")
        return result

    def typed(self, *words: str) -> str:
        """A command of some words for the same daemon, ready to be typed; harmless, whoever wrote them."""
        import shlex

        home = ["--home", self.given_home] if self.given_home else []
        path = ["--socket", self.given_path] if self.given_path else []
        return shlex.join(["kheishctl", *home, *path, *map(one_line, words)])

    def hang_up(self) -> None:
        """Close the connection if there is one; the next call dials anew."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def look(self) -> Look:
        """How standard output looks now."""
        tty = sys.stdout.isatty()
        columns = os.get_terminal_size(sys.stdout.fileno()).columns or 80 if tty else None
        return Look(columns, colored(tty), time.time_ns() // 1_000_000)

    def emit(self, result: Any, human: Callable[[Any, Look], str]) -> None:
        """Print a result: one JSON document with ``--json``, else what ``human`` makes of it."""
        if self.as_json:
            self.document(result)
        elif text := human(result, self.look()):
            self.say(text)

    def document(self, value: Any) -> None:
        """Print one JSON document, indented for a person, on one line for a pipe."""
        import json

        indent = 2 if sys.stdout.isatty() else None
        separators = None if indent else (",", ":")
        document = json.dumps(value, ensure_ascii=False, indent=indent, separators=separators)
        self.say(json_safe(document))

    def line(self, value: Any) -> None:
        """Print one JSON line of a stream."""
        import json

        self.say(json_safe(json.dumps(value, ensure_ascii=False, separators=(",", ":"))))

    def say(self, text: str) -> None:
        """Print a line and let it out at once. Nothing but styles acts on a terminal, whatever says it."""
        sys.stdout.write((styles_only(text) if sys.stdout.isatty() else text) + "\n")
        sys.stdout.flush()

    def note(self, text: str) -> None:
        """Tell the person something that is not the result: on standard error, never with ``--json``."""
        if not self.as_json:
            sys.stderr.write(paint(clean(text), "dim", colored(sys.stderr.isatty())) + "\n")
            sys.stderr.flush()

    def fail(self, failure: Failure) -> None:
        """Print why a command failed: one JSON document with ``--json``, else a line."""
        if self.as_json:
            self.document({"error": failure.describe()})
            return
        label = paint("kheishctl:", "red", colored(sys.stderr.isatty()))
        hint = getattr(failure, "data", {}).get("hint")
        sys.stderr.write(f"{label} {clean(str(failure))}\n")
        if hint and str(hint) not in str(failure):
            sys.stderr.write(f"  hint: {clean(str(hint))}\n")
        sys.stderr.flush()


def colored(tty: bool) -> bool:
    """Whether to use colors: on a terminal that has them, unless NO_COLOR is set (no-color.org)."""
    return tty and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _remember(ctx: click.Context, parameter: click.Parameter, value: Any) -> Any:
    """Keep a common option wherever on the command line it was given; the last one counts."""
    if value:
        ctx.meta[_META + str(parameter.name)] = value
    return value


def common_options() -> list[click.Parameter]:
    """The options that every command takes, before or after its name."""
    return [
        click.Option(
            ["--json", "as_json"],
            is_flag=True,
            expose_value=False,
            callback=_remember,
            help="Print one JSON document (a stream: JSON lines), errors included.",
        ),
        click.Option(
            ["--home"],
            metavar="DIR",
            expose_value=False,
            callback=_remember,
            help="The daemon's home; else $KHEISH_HOME, else $STATE_DIRECTORY, else ~/.kheish.",
        ),
        click.Option(
            ["--socket"],
            metavar="PATH",
            expose_value=False,
            callback=_remember,
            help="The daemon's socket, if it is not <home>/run/kheishd.sock.",
        ),
    ]


def app_of(ctx: click.Context) -> App:
    """The App that the common options ask for."""
    meta = ctx.meta
    return App(
        meta.get(_META + "home"), meta.get(_META + "socket"), as_json=bool(meta.get(_META + "as_json"))
    )


class Verb(click.Command):
    """A command. ``method`` is the row of the contract that it stands for; ``examples`` are for its help."""

    def __init__(
        self, *args: Any, method: str | None = None, examples: tuple[str, ...] = (), **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.method = method
        self.examples = examples
        self.params.extend(common_options())

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command with an App; whatever goes wrong becomes a message and an exit code."""
        app = ctx.obj = app_of(ctx)
        try:
            return super().invoke(ctx)
        except Failure as failure:
            app.fail(failure)
            ctx.exit(failure.exit_code)
        except KeyboardInterrupt:
            ctx.exit(exits.INTERRUPTED)
        except BrokenPipeError:
            raise  # Who reads has enough: click ends the command quietly.
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            app.fail(Failure(f"{where}{error.strerror or error}"))
            ctx.exit(exits.FAILED)
        finally:
            app.hang_up()

    def get_short_help_str(self, limit: int = 45) -> str:
        """The first sentence of the help, whole: lists wrap it where it is long."""
        return " ".join((self.help or "").partition("\n\n")[0].split()).split(". ")[0].rstrip(".") + "."

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples as they are typed."""
        super().format_epilog(ctx, formatter)
        if self.examples:
            with formatter.section("Examples"):
                for example in self.examples:
                    formatter.write(f"  {example}\n")


def verb(
    group: click.Group | None,
    name: str,
    *,
    method: str | None = None,
    examples: tuple[str, ...] = (),
    **attrs: Any,
) -> Callable[[Callable[..., Any]], Verb]:
    """Make a function of (app, parameters) a command, in ``group`` if one is given."""

    def decorate(function: Callable[..., Any]) -> Verb:
        command = click.command(
            name, cls=Verb, method=method, examples=examples, context_settings=CONTEXT, **attrs
        )(click.pass_obj(function))
        if group is not None:
            group.add_command(command)
        return command

    return decorate


class CommandGroup(click.Group):
    """A group of commands that answers a word it does not know with those that may be meant."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command of the first word. Errors: a usage error, saying what is near."""
        word = args[0]
        if not ctx.resilient_parsing and not word.startswith("-") and self.get_command(ctx, word) is None:
            near = [f"'{ctx.command_path} {meant}'" for meant in self.meant(ctx, word)]
            ctx.fail(f"No such command '{word}'." + (f" Did you mean {' or '.join(near)}?" if near else ""))
        return super().resolve_command(ctx, args)

    def meant(self, ctx: click.Context, word: str) -> list[str]:
        """What may be meant by a word that is no command."""
        from difflib import get_close_matches

        return get_close_matches(word, self.list_commands(ctx), 2)


def noun(name: str, about: str) -> click.Group:
    """A group of commands about one kind of object."""
    return CommandGroup(name, help=about, context_settings=CONTEXT, params=common_options())


class JsonUsageError(click.ClickException):
    """A command line that is wrong, for one who asked for JSON."""

    exit_code = exits.USAGE

    def show(self, file: IO[Any] | None = None) -> None:
        """Print it like every other failure."""
        error = {"code": None, "message": self.message, "data": {"reason": "usage"}}
        App(None, None, as_json=True).document({"error": error})


@contextmanager
def _lines_in_json(wanted: bool) -> Iterator[None]:
    try:
        yield
    except click.exceptions.NoArgsIsHelpError:
        raise
    except click.UsageError as error:
        if not wanted:
            raise
        raise JsonUsageError(error.format_message()) from None


class LazyGroup(CommandGroup):
    """The program: a group that imports a command when it is called, so that ``--help`` and one-shot
    commands stay fast.

    ``entries`` maps a heading to commands: name, where it is (``module:attribute``), what it does.
    ``also`` maps words that people try to the commands they mean.
    """

    def __init__(
        self,
        *args: Any,
        entries: Mapping[str, tuple[tuple[str, str, str], ...]],
        also: Mapping[str, str],
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.entries = entries
        self.also = also
        self._targets = {name: target for rows in entries.values() for name, target, _ in rows}

    def make_context(self, info_name: str | None, args: list[str], *rest: Any, **extra: Any) -> click.Context:
        """Read the command line up to the command. Errors: usage errors, as JSON if that is wanted."""
        as_json = "--json" in args
        with _lines_in_json(as_json):
            ctx = super().make_context(info_name, args, *rest, **extra)
        ctx.meta[_META + "json_typed"] = as_json
        return ctx

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. Errors: usage errors, as JSON if that is wanted."""
        with _lines_in_json(ctx.meta[_META + "json_typed"]):
            return super().invoke(ctx)

    def meant(self, ctx: click.Context, word: str) -> list[str]:
        """Commands of this or of a like name, and those of groups."""
        if word in self.also:
            return [self.also[word]]
        groups = {name: self.get_command(ctx, name) for name in self._targets}
        inner = [
            f"{name} {word}"
            for name, group in groups.items()
            if isinstance(group, click.Group) and word in group.commands
        ]
        return super().meant(ctx, word) + inner[:3]

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the epilog as it is, its heading in line with the others."""
        formatter.write(f"\n{self.epilog}\n")

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands, in order of their headings."""
        return list(self._targets)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a name, imported now."""
        target = self._targets.get(cmd_name)
        if target is None:
            return None
        module, _, attribute = target.partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands under their headings, without importing them."""
        for heading, rows in self.entries.items():
            with formatter.section(heading):
                formatter.write_dl([(name, summary) for name, _, summary in rows])


# Completion.

_SOURCES: dict[str, tuple[str, Json, str, str]] = {
    "agents": ("definition.list", {"limit": 500}, "definitions", "name"),
    "routes": ("route.list", {"limit": 500}, "routes", "route_id"),
    "sessions": ("session.list", {"limit": 100}, "sessions", "session_id"),
    "runs": ("run.list", {"limit": 100}, "runs", "run_id"),
    "open_runs": ("run.list", {"limit": 100, "active": True}, "runs", "run_id"),
    "senders": ("conversation.list", {"limit": 500}, "conversations", "sender"),
    "tokens": ("token.list", {"limit": 500}, "tokens", "token_id"),
    "approvals": ("approval.list", {"limit": 100}, "approvals", "approval_id"),
    "questions": ("question.list", {"limit": 100}, "questions", "question_id"),
    "tasks": ("task.list", {"limit": 100}, "tasks", "task_id"),
    "indoubts": ("indoubt.list", {"limit": 100}, "indoubts", "indoubt_id"),
}


def complete(what: str) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """A completer that asks the daemon for names; none, and no waiting, when it does not answer."""

    def names(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
        method, params, plural, field = _SOURCES[what]
        try:
            with Client.dial(app_of(ctx).path, COMPLETION_SECONDS) as connection:
                rows: Iterable[Json] = connection.call(method, params, timeout_s=COMPLETION_SECONDS)[plural]
            return list(dict.fromkeys(_starting(rows, field, incomplete)))
        except (Failure, OSError, LookupError, TypeError):
            return []

    return names


# What stands for itself in every shell. Bash puts a completion on the command line as it is: of a sender
# called '$(reboot)', which anybody may be who may speak, only the Enter key would be missing.
_PLAIN = re.compile(r"[\w.@:,/+][\w.@:,/+-]*")


def _starting(rows: Iterable[Json], field: str, incomplete: str) -> Iterator[str]:
    """Names that go on from what was typed; those that mean something to a shell are left out."""
    for row in rows:
        name = str(row[field])
        if name.startswith(incomplete) and _PLAIN.fullmatch(name):
            yield name


# Options that many commands share.


def options(*chosen: Callable[[F], F]) -> Callable[[F], F]:
    """Several options as one decorator; the help shows them in this order."""

    def decorate(function: F) -> F:
        for option in reversed(chosen):
            function = option(function)
        return function

    return decorate


mutating = options(
    click.option(
        "--idempotency-key",
        metavar="KEY",
        help="Repeat safely: the same key with the same parameters is done once (kept 7 days).",
    ),
    click.option("--check", is_flag=True, help="Only say whether it would succeed and what it would give."),
)
"""The options of a command that changes something."""

sender_option = click.option(
    "--as",
    "sender",
    metavar="SENDER",
    shell_complete=complete("senders"),
    help="Who is speaking (default: user); the same agent and sender resume.",
)
"""The option that says whose conversation is meant."""

workspace_option = click.option(
    "--workspace",
    metavar="DIR",
    callback=lambda ctx, parameter, value: value and os.path.abspath(os.path.expanduser(value)),
    help="Where the agent works; a relative path is one from here. Within [workspace] root, if that is set.",
)
"""The option that says where; the daemon, which has another directory, is told a whole path."""

paged = options(
    click.option("--limit", type=click.IntRange(1, 500), metavar="N", help="Rows a page at most."),
    click.option("--after", metavar="NEXT", help="Go on after the page that ended with NEXT."),
    click.option("--all", "everything", is_flag=True, help="All pages, not only one."),
)
"""The options of a list."""


def given(**params: Any) -> Json:
    """Params that were given: those that are None, False or empty are left out; a zero was given."""
    return {
        name: value
        for name, value in params.items()
        if value is not None and value is not False and value not in ((), [], "")
    }


def pages(app: App, method: str, params: Json, plural: str, *, everything: bool) -> Json:
    """A page of a list, or all of them as one."""
    page: Json = app.call(method, params)
    rows = list(page[plural])
    while everything and page.get("next") is not None:
        page = app.call(method, {**params, "after": page["next"]})
        rows += page[plural]
    return {**page, plural: rows}


def note_more(app: App, after: Any) -> None:
    """Say how to see the next page, as it can be typed: a name in it may mean something to a shell."""
    from shlex import quote

    app.note(f"more: --after {quote(str(after))}, or --all")


def show_table(app: App, page: Json, plural: str, columns: Any, empty: str) -> None:
    """Print a page of a list, and on a terminal how to see more."""
    app.emit(page, lambda result, look: table(result[plural], columns, look, empty))
    if page.get("next") is not None and sys.stdout.isatty():
        note_more(app, page["next"])


class Duration(click.ParamType[float]):
    """A length of time: ``90``, ``90s``, ``15m``, ``12h``, ``30d``; seconds in the end."""

    name = "duration"
    units = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds. Errors: a usage error naming the forms."""
        if isinstance(value, (int, float)):
            return float(value)
        number, unit = (value[:-1], value[-1]) if value and value[-1] in self.units else (value, "s")
        try:
            seconds = float(number) * self.units[unit]
        except ValueError:
            seconds = -1.0
        if not 0 < seconds < float("inf"):
            self.fail(f"{value!r} is not a length of time such as 90s, 15m, 12h or 30d", param, ctx)
        return seconds
