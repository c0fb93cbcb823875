"""``kheishctl cron``: schedules on which the daemon wakes conversations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kheishctl.cli import App, command, fetch_pages, make_group, show_table
from kheishctl.options import (
    Duration,
    WholeNumber,
    drop_unset,
    id_argument,
    mutating,
    name_option,
    note_option,
    options,
    paged,
    sender_option,
    status_option,
)
from kheishctl.render.layout import Column, Display, format_record, format_table
from kheishctl.render.units import format_age, format_utc
from protocol.text import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from kheishctl.contract import Json

group = make_group("cron", "Cron entries: schedules on which the daemon wakes conversations.")


def _name_target(row: Mapping[str, Any]) -> str:
    """Return the target of an entry: its session, or its conversation."""
    target = row["target"]
    return str(target.get("session_id") or f"{target['agent']} as {target.get('sender', 'user')}")


def _find_next(row: Mapping[str, Any]) -> int | None:
    """Return the time of the next firing of an entry: the deferred one, if it comes first."""
    times = [row.get("next_due_ms"), row.get("deferred_until_ms")]
    return min((at_ms for at_ms in times if at_ms is not None), default=None)


COLUMNS = (
    Column("CRON", "cron_id"),
    Column("STATUS", "status"),
    Column("NEXT", _find_next, "time"),
    Column("SCHEDULE", "schedule"),
    Column("ZONE", lambda row: row.get("timezone", "UTC")),
    Column("TARGET", _name_target),
    Column("NAME", "name"),
)
OCCURRENCE_COLUMNS = (
    Column("DUE", lambda row: row.get("due") or format_utc(row["due_ms"])),
    Column("OUTCOME", "outcome"),
    Column("REASON", "reason"),
    Column("RUN", "run_id"),
    Column("NOTE", "note"),
)

DUE_FIELDS = ("next_due_ms", "deferred_due_ms", "deferred_until_ms", "queued_due_ms")
"""The due times of an entry, which a terminal shows in the zone of the entry."""

_cron = id_argument("cron_id", "CRON", "crons", noun="cron entry")
_dry_run = click.option(
    "--dry-run", is_flag=True, help="Validate the entry and show its next firings; create nothing."
)


class Moment(click.ParamType["datetime"]):
    """A time, ``2026-12-01T09:00`` or ``09:00`` of today, in the zone of the entry unless it has its own."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Return the time, without a zone if it has no offset. Errors: a usage error."""
        from datetime import date, datetime

        text = str(value)
        try:
            return datetime.fromisoformat(f"{date.today()}T{text}" if len(text) <= 8 else text)
        except ValueError:
            self.fail(f"{value!r} is not a time such as 2026-12-01T09:00 or 09:00", param, ctx)


_properties = options(
    name_option("--agent", "agent", "agents", "The agent of the conversation (default: default)."),
    sender_option,
    name_option("--session", "session_id", "sessions", "Wake this session instead of a conversation."),
    name_option("--skill", "skill", "skills", "Let the agent use this skill, instead of a prompt."),
    click.option("--arguments", metavar="TEXT", help="The arguments of the skill."),
    click.option("--name", metavar="NAME", help="A name, for people."),
    click.option(
        "--zone", "timezone", metavar="ZONE", help="A time zone, such as Europe/Paris (default: UTC)."
    ),
    click.option("--quiet-from", "quiet_start", metavar="HH:MM", help="Quiet hours begin: it does not fire."),
    click.option("--quiet-until", "quiet_end", metavar="HH:MM", help="Quiet hours end."),
    click.option("--quiet", type=click.Choice(("skip", "defer")), help="What happens in quiet hours."),
    click.option(
        "--misfire", type=click.Choice(("run_once", "skip")), help="What happens if it is too late."
    ),
    click.option(
        "--grace", "grace_s", type=Duration(), metavar="TIME", help="Later is too late (default: 5m)."
    ),
    click.option(
        "--overlap",
        type=click.Choice(("skip", "queue_one", "parallel")),
        help="What happens while a run of the entry is in flight.",
    ),
    click.option("--max-executions", type=WholeNumber(1), metavar="N", help="Complete it after N firings."),
)


def _make_params(prompt: str | None, *, with_target: bool, **params: Any) -> Json:
    """Return the params of an entry: the target's fields together, the others as they are."""
    names = ("agent", "sender", "session_id", "skill", "arguments")
    target = drop_unset(prompt=prompt, **{name: params.pop(name) for name in names})
    if with_target and "session_id" not in target and "agent" not in target:
        target["agent"] = "default"
    grace = params.pop("grace_s")
    check = params.pop("check", False) or params.pop("dry_run", False)
    return drop_unset(
        target=target or None,
        grace_s=None if grace is None else int(grace),
        check=check,
        **params,
    )


def format_upcoming(firings: list[Json], display: Display) -> str:
    """Format the next firings in the zone of the entry."""
    rows = [
        {
            "local": str(firing["local"]).replace("T", " "),
            "note": firing.get("note", ""),
            "at": firing["due_ms"],
        }
        for firing in firings
    ]
    columns = [Column("NEXT FIRINGS", "local"), Column("IN", "at", "time"), Column("NOTE", "note")]
    return format_table(rows, columns, display, "It is not due any more.")


def _format_in_zone(at_ms: int, zone: str) -> str:
    """Return a time in the zone of an entry, as its next firings are shown; in UTC for an unknown zone."""
    from datetime import datetime
    from zoneinfo import ZoneInfo

    try:
        return datetime.fromtimestamp(at_ms / 1_000, ZoneInfo(zone)).isoformat(sep=" ", timespec="seconds")
    except (KeyError, ValueError, OSError, OverflowError):
        return format_utc(at_ms)


def format_cron(cron: Json, display: Display) -> str:
    """Format an entry with its newest occurrences and its next firings."""
    shown = ("recent", "upcoming", "covered", "anchor_ms", "planned_at_ms")
    record = {field: value for field, value in cron.items() if field not in shown}
    recent = list(reversed(cron.get("recent", [])))
    if display.width is not None:
        zone = str(cron.get("timezone", "UTC"))
        record = {
            name.removesuffix("_ms") if name in DUE_FIELDS else name: (
                f"{_format_in_zone(value, zone)} ({format_age(value, display.now_ms)})"
                if name in DUE_FIELDS and value is not None
                else value
            )
            for name, value in record.items()
        }
        recent = [row | {"due": _format_in_zone(row["due_ms"], zone)} for row in recent]
    parts = [format_record(record, display)]
    if recent:
        parts.append(format_table(recent, OCCURRENCE_COLUMNS, display))
    if "upcoming" in cron or cron["status"] == "active":
        parts.append(format_upcoming(cron.get("upcoming", []), display))
    return "\n\n".join(parts)


@command(
    group,
    "create",
    method="cron.create",
    examples=(
        "kheishctl cron create '0 9 * * mon-fri' 'What is on today?' --zone Europe/Paris --dry-run",
        "kheishctl cron create 'every 15m' --skill triage --quiet-from 22:00 --quiet-until 07:00 --id triage",
        "kheishctl cron create 'at 2027-03-01T09:00' 'Renew the certificate.' --zone Europe/Paris",
    ),
)
@click.argument("schedule", help="Five cron fields, six with seconds, @daily, 'every 15m', 'at TIME'.")
@click.argument("prompt", nargs=-1, metavar="[PROMPT]", help="The task, in quotes.")
@click.option("--id", "cron_id", metavar="ID", help="An id of your choice (default: a generated id).")
@click.option("--once", is_flag=True, help="Fire once, at the first due time.")
@_dry_run
@_properties
@mutating
def create(app: App, prompt: tuple[str, ...], **params: Any) -> None:
    """Create a cron entry and show its next five firings.

    Put the schedule in quotes: without them, the shell splits it and replaces '*' by the names of files.
    """
    if len(prompt) > 1:
        text = "too many arguments; put the schedule and the prompt in quotes"
        raise click.UsageError(f"{text}: kheishctl cron create '0 9 * * mon-fri' 'What is on today?'")
    task = prompt[0] if prompt else None
    if (task is None) == (params["skill"] is None):
        raise click.UsageError("pass either PROMPT, the task in quotes, or --skill NAME")
    if (params["quiet_start"] is None) != (params["quiet_end"] is None):
        raise click.UsageError("quiet hours need both --quiet-from and --quiet-until")
    app.emit(app.call("cron.create", _make_params(task, with_target=True, **params)), format_cron)


@command(group, "list", method="cron.list", examples=("kheishctl cron list --status disabled",))
@click.option("--query", metavar="TEXT", help="Only those with this text in their id, name or target.")
@status_option(("active", "paused", "completed", "disabled"))
@click.option("--source", type=click.Choice(("client", "file", "agent")), help="Filter by author.")
@paged
def list_(app: App, everything: bool, **params: Any) -> None:
    """List cron entries by id."""
    page = fetch_pages(app, "cron.list", drop_unset(**params), "crons", everything=everything)
    show_table(app, page, "crons", COLUMNS, "No cron entries.")


_count = click.option("--count", type=WholeNumber(0, 50), metavar="N", help="Show N next firings.")


@command(group, "show", alias="get", method="cron.get", examples=("kheishctl cron show triage",))
@_cron
@_count
def show(app: App, cron_id: str, count: int | None) -> None:
    """Show a cron entry, its newest occurrences and its next firings."""
    app.emit(app.call("cron.get", drop_unset(cron_id=cron_id, count=count)), format_cron)


@command(
    group,
    "update",
    method="cron.update",
    examples=("kheishctl cron update triage --schedule 'every 30m' --revision 1",),
)
@_cron
@click.option("--schedule", metavar="SCHEDULE", help="Another schedule.")
@click.option("--prompt", metavar="TEXT", help="Another task; the target is replaced as a whole.")
@click.option("--revision", type=WholeNumber(1), metavar="N", help="Refuse any other revision.")
@click.option("--once/--no-once", default=None, help="Fire once, at the next due time.")
@_dry_run
@_properties
@mutating
def update(app: App, prompt: str | None, once: bool | None, **params: Any) -> None:
    """Change a cron entry; its history remains.

    Options that are left out keep their values; any part of the target replaces all of it.
    """
    made = _make_params(prompt, with_target=False, **params)
    if "target" in made and (prompt is None) == (params["skill"] is None):
        raise click.UsageError("the target is replaced as a whole: pass either --prompt TEXT or --skill NAME")
    if "target" in made and "session_id" not in made["target"]:
        made["target"].setdefault("agent", "default")
    if once is not None:
        made["once"] = once
    app.emit(app.call("cron.update", made), format_cron)


@command(group, "pause", method="cron.pause", examples=("kheishctl cron pause triage --note holiday",))
@_cron
@note_option
@mutating
def pause(app: App, **params: Any) -> None:
    """Pause a cron entry."""
    app.emit(app.call("cron.pause", drop_unset(**params)), format_cron)


@command(group, "resume", method="cron.resume", examples=("kheishctl cron resume triage",))
@_cron
@note_option
@mutating
def resume(app: App, **params: Any) -> None:
    """Resume a cron entry that is paused, disabled or completed."""
    app.emit(app.call("cron.resume", drop_unset(**params)), format_cron)


@command(group, "fire", method="cron.fire", examples=("kheishctl cron fire triage",))
@_cron
@mutating
def fire(app: App, **params: Any) -> None:
    """Fire a cron entry now, beside its schedule."""
    app.emit(app.call("cron.fire", drop_unset(**params)), format_record)


@command(group, "delete", method="cron.delete", examples=("kheishctl cron delete triage",))
@_cron
@note_option
@mutating
def delete(app: App, **params: Any) -> None:
    """Delete a cron entry; its runs go on."""
    app.emit(app.call("cron.delete", drop_unset(**params)), format_cron)


@command(
    group,
    "explain",
    method="cron.explain",
    examples=("kheishctl cron explain triage --at 09:00", "kheishctl cron explain triage --count 10"),
)
@_cron
@click.option(
    "--at", "at_ms", type=Moment(), metavar="TIME", help="The time to explain, in the entry's zone."
)
@_count
def explain(app: App, at_ms: datetime | None, **params: Any) -> None:
    """Explain why a cron entry did or did not fire, and show its next firings."""
    if at_ms is not None:
        if at_ms.tzinfo is None:
            from zoneinfo import ZoneInfo

            entry = app.call("cron.get", {"cron_id": params["cron_id"]})
            at_ms = at_ms.replace(tzinfo=ZoneInfo(entry.get("timezone", "UTC")))
        params["at_ms"] = int(at_ms.timestamp() * 1_000)

    def format_explanation(result: Json, display: Display) -> str:
        lines = [one_line(str(line)) for line in result["lines"]]
        return "\n".join(lines) + "\n\n" + format_upcoming(result["upcoming"], display)

    app.emit(app.call("cron.explain", drop_unset(**params)), format_explanation)


@command(group, "export", method="cron.export", examples=("kheishctl cron export > crons.toml",))
def export(app: App) -> None:
    """Print the cron entries in the format of cron/crons.toml."""
    app.emit(app.call("cron.export"), lambda result, _: str(result["toml"]).rstrip("\n"))
