"""The base of every command: common options, output, errors and exit codes.

A command is a function of an :class:`App` and its own parameters, declared by :func:`command`. It calls the
daemon through ``app.call`` and shows the result through ``app.emit``: as one JSON document with ``--json``,
else as text from a pure function. :class:`Verb` turns exceptions into messages and exit codes.
"""

import errno
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import IO, Any

import click

from kheishctl import exit_codes
from kheishctl.client import Client, Failure, RequestRefused, resolve_home, resolve_socket
from kheishctl.contract import Json
from kheishctl.hints import HINTS
from kheishctl.pager import should_page, show_in_pager
from kheishctl.render.layout import Column, Display, format_table, paint, sanitize_styled
from kheishctl.render.methods import name_commands
from protocol.text import escape_json, one_line, sanitize

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

_META = "kheishctl."

REPEAT = _META + "repeat"
"""The place of a function of (app, run) that runs the command repeatedly, if an option says so."""


class App:
    """The environment of one command: the daemon's address and the output.

    ``names_methods``: error messages name methods, not the commands that call them. ``has_pager``: text that
    is longer than the terminal is shown in a pager.
    """

    def __init__(self, home: str | None, path: str | None, *, as_json: bool) -> None:
        self.home = resolve_home(home)
        self.path = resolve_socket(self.home, path)
        self.home_option = home
        self.path_option = path
        self.as_json = as_json
        self.names_methods = False
        self.has_pager = True
        # The printed texts while a command runs for ``--watch``, which draws them.
        self.recorded: list[str] | None = None
        self._client: Client | None = None

    @property
    def client(self) -> Client:
        """The connection, opened at its first use. Errors: NoDaemon, SocketForbidden."""
        if self._client is None:
            self._client = Client.dial(self.path)
        return self._client

    def call(self, method: str, params: Json | None = None, *, timeout_s: float | None = None) -> Any:
        """Call a method of the daemon; note a dry run. Errors: Failure of any kind."""
        try:
            result = self.client.call(method, params, timeout_s=timeout_s)
        except RequestRefused as refused:
            agent_id = self._find_agent(refused, params)
            if agent_id is None:
                raise
            result = self.client.call(method, {**(params or {}), "session_id": agent_id}, timeout_s=timeout_s)
        if params and params.get("check"):
            self.note("Dry run: nothing was changed. The result would be:")
        return result

    def _find_agent(self, refused: RequestRefused, params: Json | None) -> str | None:
        """Return the id of the agent that was given as a session; None for other refusals."""
        address, field = (params or {}).get("session_id"), refused.data.get("field")
        is_unknown = refused.reason == "session_not_found" or field == "$.params.session_id"
        if not is_unknown or not isinstance(address, str):
            return None
        try:
            return str(self.client.call("agent.get", {"agent": address})["agent_id"])
        except RequestRefused:
            return None

    def command_line(self, *words: str) -> str:
        """Return a command for the same daemon, sanitized and quoted, ready to paste into a shell."""
        import shlex

        home = ["--home", self.home_option] if self.home_option else []
        path = ["--socket", self.path_option] if self.path_option else []
        return shlex.join(["kheishctl", *home, *path, *map(one_line, words)])

    def disconnect(self) -> None:
        """Close the connection if it is open; the next call opens a new one."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def display(self) -> Display:
        """Return the current properties of standard output."""
        tty = sys.stdout.isatty()
        columns = os.get_terminal_size(sys.stdout.fileno()).columns or 80 if tty else None
        return Display(columns, use_color(tty), time.time_ns() // 1_000_000)

    def emit(self, result: Any, format_result: Callable[[Any, Display], str]) -> None:
        """Print a result: one JSON document with ``--json``, else the text that ``format_result`` returns."""
        if self.as_json:
            self.print_json(result)
        elif text := format_result(result, self.display()):
            if not (self.has_pager and should_page(text) and show_in_pager(sanitize_styled(text))):
                self.print(text)

    def print_json(self, value: Any) -> None:
        """Print one JSON document: indented on a terminal, on one line for a pipe."""
        import json

        indent = 2 if sys.stdout.isatty() else None
        separators = None if indent else (",", ":")
        document = json.dumps(value, ensure_ascii=False, indent=indent, separators=separators)
        self.print(escape_json(document))

    def print_json_line(self, value: Any) -> None:
        """Print one JSON line of a stream."""
        import json

        self.print(escape_json(json.dumps(value, ensure_ascii=False, separators=(",", ":"))))

    def print(self, text: str) -> None:
        """Print a line and flush it. A terminal receives no escape sequences except styles."""
        if self.recorded is not None:
            self.recorded.append(text)
            return
        try:
            sys.stdout.write((sanitize_styled(text) if sys.stdout.isatty() else text) + "\n")
            sys.stdout.flush()
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise
            with suppress(OSError):
                sys.stderr.write(f"kheishctl: cannot write the output: {error.strerror}\n")
                sys.stderr.flush()
            raise SystemExit(exit_codes.FAILED) from None

    def note(self, text: str) -> None:
        """Print a note, which is not part of the result, on standard error, unless ``--json`` is set."""
        if not self.as_json and self.recorded is None:
            sys.stderr.write((sanitize_styled(text) if sys.stderr.isatty() else text) + "\n")
            sys.stderr.flush()

    def describe(self, failure: Failure) -> Json:
        """Return a failure as a JSON object, with its hint in ``data``."""
        error = failure.describe()
        hint = error["data"].get("hint")
        if hint is None and failure.reason in HINTS:
            hint = self.command_line(*HINTS[failure.reason])
        return error | {"data": error["data"] | ({"hint": hint} if hint else {})}

    def fail(self, failure: Failure) -> None:
        """Print the message of a failure with its hint; as one JSON document with ``--json``."""
        error = self.describe(failure)
        hint = error["data"].get("hint")
        if self.as_json:
            self.print_json({"error": error})
            return
        label = paint("kheishctl:", "red", use_color(sys.stderr.isatty()))
        text = failure.text if self.names_methods else name_commands(failure.text, self.command_line)
        sys.stderr.write(f"{label} {sanitize(text)}\n")
        if hint and str(hint) not in text:
            sys.stderr.write(f"  hint: {sanitize(str(hint))}\n")
        sys.stderr.flush()


def use_color(tty: bool) -> bool:
    """Whether to use colors: on a terminal that has them, unless NO_COLOR is set (no-color.org)."""
    return tty and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _store_option(ctx: click.Context, parameter: click.Parameter, value: Any) -> Any:
    """Store a common option, given at any position of the command line; the last one counts."""
    if value:
        ctx.meta[_META + str(parameter.name)] = value
    return value


def common_options() -> list[click.Parameter]:
    """Return the options of every command; they are valid before and after its name.

    They are eager, so that they are known when an abbreviated id is resolved.
    """
    return [
        click.Option(
            ["--json", "as_json"],
            is_flag=True,
            expose_value=False,
            is_eager=True,
            callback=_store_option,
            help="Print JSON (one document, or JSON lines for streams), including errors.",
        ),
        click.Option(
            ["--home"],
            metavar="DIR",
            expose_value=False,
            is_eager=True,
            callback=_store_option,
            help="The daemon's home (default: $KHEISH_HOME, else $STATE_DIRECTORY, else ~/.kheish).",
        ),
        click.Option(
            ["--socket"],
            metavar="PATH",
            expose_value=False,
            is_eager=True,
            callback=_store_option,
            help="The daemon's socket (default: <home>/run/kheishd.sock).",
        ),
        click.Option(
            ["--no-pager"],
            is_flag=True,
            expose_value=False,
            is_eager=True,
            callback=_store_option,
            help="Do not show long output of a terminal in $PAGER (default: less).",
        ),
    ]


def make_app(ctx: click.Context) -> App:
    """Return the App for the common options of a command line."""
    meta = ctx.meta
    app = App(meta.get(_META + "home"), meta.get(_META + "socket"), as_json=bool(meta.get(_META + "as_json")))
    app.has_pager = not meta.get(_META + "no_pager")
    return app


class Verb(click.Command):
    """A command. ``method`` is the method of the contract that it calls; its help shows the ``examples``."""

    def __init__(
        self, *args: Any, method: str | None = None, examples: tuple[str, ...] = (), **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.method = method
        self.examples = examples
        self.params.extend(common_options())

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command with an App; report failures and exit with their code."""
        app = ctx.obj = make_app(ctx)
        try:
            if REPEAT in ctx.meta:
                ctx.meta[REPEAT](app, lambda: super(Verb, self).invoke(ctx))
                return None
            return super().invoke(ctx)
        except Failure as failure:
            app.fail(failure)
            ctx.exit(failure.exit_code)
        except KeyboardInterrupt:
            ctx.exit(exit_codes.INTERRUPTED)
        except BrokenPipeError:
            raise  # The reader closed the pipe: the program ends without a message.
        except OSError as error:
            file = f"{error.filename}: " if error.filename else ""
            app.fail(Failure(f"{file}{error.strerror or error}"))
            ctx.exit(exit_codes.FAILED)
        finally:
            app.disconnect()

    def get_short_help_str(self, limit: int = 45) -> str:
        """Return the first sentence of the help untruncated, because lists wrap it."""
        return " ".join((self.help or "").partition("\n\n")[0].split()).split(". ")[0].rstrip(".") + "."

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples exactly as a user types them."""
        super().format_epilog(ctx, formatter)
        if self.examples:
            with formatter.section("Examples"):
                for example in self.examples:
                    formatter.write(f"  {example}\n")


def command(
    group: click.Group | None,
    name: str,
    *,
    method: str | None = None,
    examples: tuple[str, ...] = (),
    alias: str | None = None,
    cls: type[Verb] = Verb,
    **attrs: Any,
) -> Callable[[Callable[..., Any]], Verb]:
    """Make a function of (app, parameters) a command, in ``group`` if given; ``alias`` stays hidden."""

    def decorate(function: Callable[..., Any]) -> Verb:
        verb = click.command(
            name, cls=cls, method=method, examples=examples, context_settings=CONTEXT, **attrs
        )(click.pass_obj(function))
        if group is not None:
            group.add_command(verb)
            if alias is not None:
                assert isinstance(group, CommandGroup)
                group.aliases[alias] = name
        return verb

    return decorate


class CommandGroup(click.Group):
    """A group of commands, which suggests commands for an unknown word.

    ``aliases`` maps hidden names to commands.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.aliases: dict[str, str] = {}

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of a name or alias."""
        return super().get_command(ctx, self.aliases.get(cmd_name, cmd_name))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command of the first word. Errors: a usage error that suggests similar commands."""
        word = args[0]
        if not ctx.resilient_parsing and not word.startswith("-") and self.get_command(ctx, word) is None:
            near = [f"'{ctx.command_path} {suggestion}'" for suggestion in self.suggest(ctx, word)]
            ctx.fail(f"No such command '{word}'." + (f" Did you mean {' or '.join(near)}?" if near else ""))
        return super().resolve_command(ctx, args)

    def suggest(self, ctx: click.Context, word: str) -> list[str]:
        """Return the commands that an unknown word may mean: those that begin with it, else similar ones."""
        from difflib import get_close_matches

        names = self.list_commands(ctx)
        near = [name for name in names if name.startswith(word)][:3] or get_close_matches(word, names, 2)
        # Some objects are only listed.
        return near or (["list"] if word in ("show", "get") and "list" in names else [])


def make_group(name: str, summary: str) -> CommandGroup:
    """Return a group of commands for one kind of object."""
    return CommandGroup(name, help=summary, context_settings=CONTEXT, params=common_options())


class JsonUsageError(click.ClickException):
    """An invalid command line with ``--json``."""

    exit_code = exit_codes.USAGE

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the error like every other failure."""
        error = {"code": None, "message": self.message, "data": {"reason": "usage"}}
        App(None, None, as_json=True).print_json({"error": error})


@contextmanager
def _usage_errors_as_json(enabled: bool) -> Iterator[None]:
    try:
        yield
    except click.exceptions.NoArgsIsHelpError:
        raise
    except click.UsageError as error:
        if not enabled:
            raise
        raise JsonUsageError(error.format_message()) from None


@contextmanager
def _ends_as_exit() -> Iterator[None]:
    """End the program at Ctrl-C and at a closed pipe, with their codes and without click's message."""
    try:
        yield
    except KeyboardInterrupt:
        raise click.exceptions.Exit(exit_codes.INTERRUPTED) from None
    except BrokenPipeError:
        raise click.exceptions.Exit(exit_codes.PIPE_CLOSED) from None


class LazyGroup(CommandGroup):
    """The program: a group that imports a command when it is called, so that every start is fast.

    ``entries`` maps a heading to commands: name, location (``module:attribute``), summary. ``also`` maps
    words that people try to the commands that they mean.
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
        """Parse the command line up to the command. Errors: usage errors, as JSON with ``--json``."""
        as_json = "--json" in args
        with _usage_errors_as_json(as_json), _ends_as_exit():
            ctx = super().make_context(info_name, args, *rest, **extra)
        ctx.meta[_META + "json_typed"] = as_json
        return ctx

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. Errors: usage errors, as JSON with ``--json``."""
        with _usage_errors_as_json(ctx.meta[_META + "json_typed"]), _ends_as_exit():
            return super().invoke(ctx)

    def suggest(self, ctx: click.Context, word: str) -> list[str]:
        """Return similar commands of this program, and commands of this name in its groups."""
        if word in self.also:
            return [self.also[word]]
        groups = {name: self.get_command(ctx, name) for name in self._targets}
        inner = [
            f"{name} {word}"
            for name, group in groups.items()
            if isinstance(group, click.Group) and word in group.commands
        ]
        return super().suggest(ctx, word) + inner[:3]

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the epilog unchanged, its heading aligned with the other headings."""
        formatter.write(f"\n{self.epilog}\n")

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands in the order of their headings."""
        return list(self._targets)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command of a name and return it."""
        target = self._targets.get(cmd_name)
        if target is None:
            return None
        module, _, attribute = target.partition(":")
        verb: click.Command = getattr(import_module(module), attribute)
        return verb

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands under their headings, without importing them."""
        for heading, rows in self.entries.items():
            with formatter.section(heading):
                formatter.write_dl([(name, summary) for name, _, summary in rows])


# Pages of lists.


def fetch_pages(app: App, method: str, params: Json, plural: str, *, everything: bool) -> Json:
    """Return a page of a list, or all its pages as one."""
    page: Json = app.call(method, params)
    rows = list(page[plural])
    while everything and page.get("next") is not None:
        page = app.call(method, {**params, "after": page["next"]})
        rows += page[plural]
    return {**page, plural: rows}


def note_next_page(app: App, token: Any) -> None:
    """Print the option that shows the next page, quoted, because a page token may hold special characters."""
    from shlex import quote

    app.note(f"more: --after {quote(str(token))}, or --all")


def note_empty(app: App, rows: Sequence[Any], empty: str) -> None:
    """Note that a list is empty: a pipe receives no rows, and a terminal shows ``empty`` as the list."""
    if not rows and not sys.stdout.isatty():
        app.note(empty)


def show_table(app: App, page: Json, plural: str, columns: Sequence[Column], empty: str) -> None:
    """Print a page of a list, and on a terminal the option that shows the next page."""
    app.emit(page, lambda result, display: format_table(result[plural], columns, display, empty))
    if page.get("next") is not None and sys.stdout.isatty():
        note_next_page(app, page["next"])
