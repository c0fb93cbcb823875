"""Options and argument types that several commands share, and completion with names from the daemon."""

import json
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from math import inf
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from kheishctl.cli import make_app
from kheishctl.client import Client, Failure
from kheishctl.contract import MAX_PAGE_ROWS, ORIGINS, Json
from kheishctl.watch import watch_option

F = TypeVar("F", bound=Callable[..., Any])

NO_STDIN = "kheishctl.no_stdin"
"""The key under which the context of a command keeps ``--no-stdin``."""

# Completion.

# A key press waits at most this long for the daemon's names.
COMPLETION_SECONDS = 0.3

COMPLETIONS: dict[str, tuple[str, Json, str, str]] = {
    "agents": ("definition.list", {"limit": 500}, "definitions", "name"),
    "agent_paths": ("agent.list", {"limit": 500}, "agents", "path"),
    "routes": ("route.list", {"limit": 500}, "routes", "route_id"),
    "mcp_servers": ("mcp.list", {"limit": 500}, "servers", "name"),
    "sessions": ("session.list", {"limit": 100}, "sessions", "session_id"),
    "runs": ("run.list", {"limit": 100}, "runs", "run_id"),
    "open_runs": ("run.list", {"limit": 100, "active": True}, "runs", "run_id"),
    "senders": ("conversation.list", {"limit": 500}, "conversations", "sender"),
    "secrets": ("secret.list", {"limit": 500}, "secrets", "slot_id"),
    "tokens": ("token.list", {"limit": 500}, "tokens", "token_id"),
    "approvals": ("approval.list", {"limit": 100}, "approvals", "approval_id"),
    "questions": ("question.list", {"limit": 100}, "questions", "question_id"),
    "personas": ("persona.list", {"limit": 500}, "personas", "persona_id"),
    "hooks": ("hook.list", {"limit": 500}, "hooks", "name"),
    "crons": ("cron.list", {"limit": 500}, "crons", "cron_id"),
    "notes": ("memory.list", {"agent": "default", "limit": 100}, "notes", "name"),
    "tasks": ("task.list", {"limit": 100}, "tasks", "task_id"),
    "skills": ("skill.list", {"limit": 500}, "skills", "name"),
    "triggers": ("trigger.list", {"limit": 500}, "triggers", "trigger_id"),
    "events": ("event.list", {"limit": 100}, "events", "event_id"),
    "indoubts": ("indoubt.list", {"limit": 100}, "indoubts", "indoubt_id"),
}
"""The source of each kind of name: the method, its params, the list in its result, the field in a row."""

ID_KINDS = frozenset(
    "sessions agent_paths runs open_runs approvals questions indoubts tasks crons events triggers personas "
    "tokens".split()
)
"""The kinds of objects that ids name."""

# Characters that no shell interprets. Bash inserts a completion unquoted: a sender named '$(reboot)', which
# any client with the right to send may choose, would be executed when the user presses Enter.
_PLAIN = re.compile(r"[\w.@:,/+][\w.@:,/+-]*")


Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def complete(kind: str) -> Completer:
    """Return a completer that asks the daemon for names; it offers none if the daemon does not answer.

    Shells that can show it get the title, status or description of each object with its name.
    """

    def complete_names(
        ctx: click.Context, parameter: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        method, params, plural, field = COMPLETIONS[kind]
        if "agent" in params and ctx.params.get("agent"):
            params = params | {"agent": ctx.params["agent"]}
        try:
            with Client.dial(make_app(ctx).path, COMPLETION_SECONDS) as connection:
                rows: list[Json] = connection.call(method, params, timeout_s=COMPLETION_SECONDS)[plural]
            from kheishctl.picker import describe_row

            details = {str(row[field]): describe_row(row, kind) for row in rows}
            names = dict.fromkeys(filter_plain_names(rows, field, incomplete))
            return [CompletionItem(name, help=details[name] or None) for name in names]
        except (Failure, OSError, LookupError, TypeError):
            return []

    return complete_names


def filter_plain_names(rows: Iterable[Json], field: str, incomplete: str) -> Iterator[str]:
    """Yield the names that start with the typed text and contain no shell syntax."""
    for row in rows:
        name = str(row[field])
        if name.startswith(incomplete) and _PLAIN.fullmatch(name):
            yield name


# Argument types.


class Duration(click.ParamType[float]):
    """A length of time in seconds: ``90``, ``90s``, ``15m``, ``12h``, ``30d``."""

    name = "duration"
    units = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds. Errors: a usage error that names the valid forms."""
        if isinstance(value, (int, float)):
            return float(value)
        number, unit = (value[:-1], value[-1]) if value and value[-1] in self.units else (value, "s")
        try:
            seconds = float(number) * self.units[unit]
        except ValueError:
            seconds = -1.0
        if not 0 < seconds < inf:
            self.fail(f"{value!r} is not a length of time such as 90s, 15m, 12h or 30d", param, ctx)
        return seconds


class Name(click.ParamType[str]):
    """A name. An empty one is refused: it is the value of a variable that a script did not set."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name. Errors: a usage error if it is empty."""
        if not str(value).strip():
            self.fail("it is empty; leave the option out for its default", param, ctx)
        return str(value)


# The first part of an id begins with its kind and an underscore; a table may have cut it. The last part has
# at least four characters: 20 bits of randomness.
_ABBREVIATION = re.compile(r"(?P<start>[a-z]{3}_[0-9A-V]{1,25})…?|…?(?P<end>[0-9A-V]{4,26})")

MAX_NAMED_CANDIDATES = 5


class ObjectId(Name):
    """An id of one of the daemon's objects, which may be abbreviated. ``kind`` is a key of COMPLETIONS."""

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the full id, or the text itself if it is no abbreviation.

        Errors: a usage error for an abbreviation of several ids.
        """
        text = super().convert(value, param, ctx)
        match = _ABBREVIATION.fullmatch(text)
        if match is None or ctx is None or ctx.resilient_parsing:
            return text
        from kheishctl.ids import find_candidates
        from kheishctl.picker import may_pick, pick

        app = make_app(ctx)
        parts = (match["start"] or "", match["end"] or "")
        try:
            candidates = find_candidates(app, self._kind, COMPLETIONS, *parts, text)
        except Failure as failure:
            app.fail(failure)
            ctx.exit(failure.exit_code)
        finally:
            app.disconnect()
        if len(candidates) > 1 and may_pick(app):
            return pick(app, "of them", list(candidates.items()))
        if len(candidates) > 1:
            names = ", ".join(list(candidates)[:MAX_NAMED_CANDIDATES])
            more = len(candidates) - MAX_NAMED_CANDIDATES
            names += f" and {more} more" if more > 0 else ""
            self.fail(f"'{text}' abbreviates several ids: {names}", param, ctx)
        return next(iter(candidates), text)


def name_type(kind: str) -> Name:
    """Return the type of a name of the daemon's objects: an id if they have ids."""
    return ObjectId(kind) if kind in ID_KINDS else Name()


class WholeNumber(click.IntRange):
    """A whole number within a range; the message about another text says so."""

    name = "whole number"


class Amount(click.ParamType[float]):
    """A positive amount of money in units of a currency: ``0.5``."""

    name = "amount"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the amount. Errors: a usage error unless it is a finite number above 0."""
        try:
            amount = float(value)
        except ValueError:
            amount = 0.0
        if not 0 < amount < inf:
            self.fail(f"{value!r} is not an amount such as 0.5", param, ctx)
        return amount


class JsonValue(click.ParamType[Any]):
    """A JSON value. The daemon validates its shape."""

    name = "json"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value. Errors: a usage error if the text is not JSON."""
        try:
            return json.loads(value) if isinstance(value, str) else value
        except (ValueError, RecursionError) as error:
            self.fail(f"it is not JSON: {error}", param, ctx)


class SchemaFile(click.ParamType[Json]):
    """A file with a JSON object, such as a JSON Schema. The daemon validates the schema."""

    name = "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Json:
        """Return the object. Errors: a usage error if the file cannot be read or contains no object."""
        if isinstance(value, dict):
            return value
        try:
            # Not pathlib: importing it takes as long as the rest of this module.
            with open(value, "rb") as file:
                content = json.load(file)
        except OSError as error:
            self.fail(f"{value}: {error.strerror}", param, ctx)
        except (ValueError, RecursionError) as error:
            self.fail(f"{value} is not JSON: {error}", param, ctx)
        if not isinstance(content, dict):
            self.fail(f"{value} does not contain a JSON object", param, ctx)
        return content


# Params.


def drop_unset(**params: Any) -> Json:
    """Return the params without None, False and empty values; a zero stays."""
    return {
        name: value
        for name, value in params.items()
        if value is not None and value is not False and value not in ((), [], "")
    }


def make_contract(schema: Json | None, **limits: Any) -> Json | None:
    """Return the contract param of a schema; None without a schema."""
    if schema is None:
        return None
    return {"schema": schema, **{name: value for name, value in limits.items() if value is not None}}


def parse_pairs(values: tuple[str, ...]) -> Json:
    """Return ``KEY=VALUE`` words as an object. Errors: a usage error that names the invalid word."""
    for value in values:
        if "=" not in value:
            raise click.UsageError(f"{value!r} is not of the form KEY=VALUE")
    return dict(value.split("=", 1) for value in values)


# Options.


def options(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    """Combine several options into one decorator; the help shows them in this order."""

    def decorate(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


def name_option(
    name: str, field: str, kind: str, help_text: str, *, metavar: str | None = None, **attrs: Any
) -> Callable[[F], F]:
    """Return an option whose value is completed by the daemon's names."""
    metavar = metavar or name.removeprefix("--").upper()
    completion = complete(kind)
    return click.option(
        name, field, type=name_type(kind), metavar=metavar, shell_complete=completion, help=help_text, **attrs
    )


mutating = options(
    click.option(
        "--idempotency-key",
        metavar="KEY",
        help="Retry safely: requests with the same key and parameters are executed once (kept for 7 days).",
    ),
    click.option("--check", is_flag=True, help="Dry run: report what would happen, change nothing."),
)
"""The options of every command that calls a mutation."""

sender_option = name_option(
    "--as",
    "sender",
    "senders",
    "The sender (default: user); the same agent and sender continue their conversation.",
    metavar="SENDER",
)
"""The option for the sender of a conversation."""

agent_argument = click.argument(
    "agent",
    required=False,
    shell_complete=complete("agents"),
    help="The agent (default: the configured default agent).",
)
"""The agent of a conversation."""


def _store_no_stdin(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    ctx.meta[NO_STDIN] = value


text_argument = options(
    click.argument("text", nargs=-1, help="The message; '-' at its end, or no TEXT, reads standard input."),
    click.option(
        "--no-stdin",
        is_flag=True,
        expose_value=False,
        callback=_store_no_stdin,
        help="Do not append the data of a pipe or file on standard input to TEXT.",
    ),
)
"""The text of a message; :func:`kheishctl.message_text.read_text` reads it."""


class Workspace(click.ParamType[str]):
    """A directory of this machine, as an absolute path: the daemon has another working directory."""

    name = "directory"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the path. Errors: a usage error if it is no directory; one that is hidden may be."""
        path = os.path.abspath(os.path.expanduser(str(value)))
        try:
            if not stat.S_ISDIR(os.stat(path).st_mode):
                self.fail(f"{path} is not a directory", param, ctx)
        except (FileNotFoundError, NotADirectoryError):
            self.fail(f"{path} does not exist; create it first", param, ctx)
        except OSError:
            # The daemon may see more than this user.
            pass
        return path


workspace_option = click.option(
    "--workspace",
    type=Workspace(),
    metavar="DIR",
    help="The agent's working directory, within workspace.root if that is configured.",
)
"""The option for the working directory of an agent."""


def budget_options(subject: str) -> Callable[[F], F]:
    """Return the options that limit a subject's use; ``take_budget`` reads them."""
    return options(
        click.option(
            "--max-tokens", type=WholeNumber(1), metavar="N", help=f"Limit the tokens of {subject}."
        ),
        click.option(
            "--max-time", type=Duration(), metavar="TIME", help=f"Limit the working time of {subject}."
        ),
        click.option("--max-cost", type=Amount(), metavar="AMOUNT", help=f"Limit the cost of {subject}."),
    )


def take_budget(params: Json) -> Json | None:
    """Remove the limits from the params of a command and return them as a budget; None without one."""
    limits = {"max_tokens": "max_tokens", "max_work_s": "max_time", "max_cost": "max_cost"}
    return drop_unset(**{field: params.pop(name) for field, name in limits.items()}) or None


timeout_option = click.option(
    "--timeout", type=Duration(), metavar="TIME", help="Stop waiting after this time (90s, 15m)."
)
"""The option that limits waiting."""

note_option = click.option("--note", help="A note, which is recorded in the journal.")
"""The option for a note on a change."""

author_options = options(
    click.option(
        "--origin",
        type=click.Choice(ORIGINS),
        metavar="ORIGIN",
        help=f"The kind of the message's author: {', '.join(ORIGINS)} (default: person).",
    ),
    click.option("--source", metavar="TEXT", help="The author's name, address or id."),
)
"""The options for the author of a message."""

answer_as_option = name_option(
    "--as",
    "sender",
    "senders",
    "The person for whom you answer, if you may answer for several.",
    metavar="SENDER",
)
"""The option for the person who answers an approval or a question."""

metadata_option = click.option(
    "--metadata", "-m", multiple=True, metavar="KEY=VALUE", help="Attach metadata (repeatable)."
)
"""The option for metadata."""

session_filter = name_option("--session", "session_id", "sessions", "Filter by session.")
"""The option that limits a list to a session."""

request_filters = options(session_filter, name_option("--run", "run_id", "open_runs", "Filter by run."))
"""The options that limit pending requests to a session or a run."""

conversation_filters = options(
    name_option("--agent", "agent", "agents", "Filter by agent."),
    click.option(
        "--as",
        "--sender",
        "sender",
        type=Name(),
        metavar="SENDER",
        shell_complete=complete("senders"),
        help="Filter by sender.",
    ),
)
"""The options that limit a list to an agent and a sender."""


def status_option(choices: tuple[str, ...], default: str | None = None) -> Callable[[F], F]:
    """Return the option that limits a list to a status; its help names the daemon's default."""
    suffix = f" (default: {default})" if default else ""
    return click.option(
        "--status",
        type=click.Choice(choices),
        metavar="STATUS",
        help=f"Filter by status: {', '.join(choices)}{suffix}.",
    )


paged = options(
    click.option("--limit", type=WholeNumber(1, MAX_PAGE_ROWS), metavar="N", help="Maximum rows per page."),
    click.option("--after", metavar="NEXT", help="Continue after the page that ended with NEXT."),
    click.option("--all", "everything", is_flag=True, help="Fetch all pages."),
    watch_option,
)
"""The options of a list."""

newest_option = click.option("--newest", is_flag=True, help="Start with the newest.")
"""The option that reads a history from its end."""

oldest_option = click.option("--oldest", is_flag=True, help="Oldest first instead of newest first.")
"""The option that reverses a list."""


class PickedArgument(click.Argument):
    """An argument that names one of the daemon's objects; without it, a person in a terminal picks one.

    ``kind`` is a key of COMPLETIONS, and ``offers`` decides whether a row of that list is a choice.
    Nothing is picked if the command needs further arguments, which would be missing afterwards.
    """

    def __init__(
        self, *args: Any, kind: str, offers: Callable[[Json], bool], noun: str = "", **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._noun = noun or str(self.metavar).lower().rstrip(".")
        self._kind = kind
        self._offers = offers

    def process_value(self, ctx: click.Context, value: Any) -> Any:
        """Return the value. Errors: a usage error if it is missing and cannot be picked."""
        arguments = [item for item in ctx.command.params if isinstance(item, click.Argument)]
        is_alone = [item for item in arguments if item.required] == [self]
        if self.value_is_missing(value) and is_alone and not ctx.resilient_parsing:
            from kheishctl.picker import may_pick, pick_row

            app = make_app(ctx)
            if may_pick(app):
                try:
                    picked = pick_row(app, self._kind, self._noun, COMPLETIONS[self._kind], self._offers)
                    value = (picked if self.nargs == 1 else [picked]) if picked else value
                except Failure as failure:
                    app.fail(failure)
                    ctx.exit(failure.exit_code)
                finally:
                    app.disconnect()
        try:
            return super().process_value(ctx, value)
        except click.MissingParameter as error:
            words = COMPLETIONS[self._kind][0].split(".")
            text = f"Names and ids: {make_app(ctx).command_line(*words)}"
            raise click.MissingParameter(text, error.ctx, error.param, error.param_hint) from None


def id_argument(
    field: str,
    metavar: str,
    kind: str,
    *,
    noun: str | None = None,
    help_text: str | None = None,
    offers: Callable[[Json], bool] | None = lambda row: True,
) -> Callable[[F], F]:
    """Return the argument that names one object, completed by the daemon's names.

    Without it, a person in a terminal picks an object for which ``offers`` returns true. For the name of a
    new object, ``offers`` is None. ``noun`` is the object's name in sentences, by default the metavar.
    """
    noun = noun or metavar.lower().rstrip(".")
    picked: dict[str, Any] = {}
    if offers is not None:
        picked = {"cls": PickedArgument, "kind": kind, "noun": noun, "offers": offers}
    return click.argument(
        field,
        metavar=metavar,
        type=None if offers is None else name_type(kind),
        shell_complete=complete(kind),
        help=help_text or f"The {noun}.",
        **picked,
    )


session_argument = id_argument(
    "session_id",
    "SESSION",
    "sessions",
    help_text="The session: its id, or the path or nickname of its agent.",
)
run_argument = id_argument("run_id", "RUN", "runs")
