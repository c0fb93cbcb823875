"""Firing cron entries on a mock clock: on time, once, over sleeps, set clocks and restarts."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import trio
from msgspec.structs import replace
from trio.testing import wait_all_tasks_blocked

from kheishd.core.cron import schedule
from kheishd.core.cron.file import CRON_FILE
from kheishd.core.cron.schedule import ScheduleError, parse_schedule
from kheishd.objects.wake import cron as handlers
from kheishd.records.doctor import examine
from kheishd.store.tables import CRONS, CRONS_FAILING, CRONS_LIVE, RUNS, SESSIONS
from kheishd.workers.cron import CronWorker
from protocol.events.cron import CronReported
from protocol.events.run import InputReceived
from protocol.limits.cron import MAX_CRON_FAILURES, RETRY_MS
from protocol.objects.cron import Cron, CronChange, CronCreate, CronExplain, CronFire, Occurrence
from protocol.objects.wake import WakeTarget
from tests.support.clocks import SetClock
from tests.support.desk import Desk, Gate, Scripted, copy_at_commits, fails, open_desk, working

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
TARGET = WakeTarget(agent="default", sender="ada", prompt="tidy up")
NINE = "0 9 * * *"


def ms(text: str) -> int:
    """Return a time with its offset in milliseconds."""
    return int(datetime.fromisoformat(text).timestamp() * 1000)


class House:
    """A store with a clock, a run worker and a cron worker."""

    def __init__(self, desk: Desk, clock: SetClock) -> None:
        self.desk = desk
        self.clock = clock

    async def create(self, schedule: str = NINE, **params: Any) -> Cron:
        """Create the entry ``tidy``."""
        fields: dict[str, Any] = {"cron_id": "tidy", "timezone": "Europe/Paris", "target": TARGET}
        created: Cron = await self.desk.do(
            handlers.create, CronCreate(schedule=schedule, **(fields | params))
        )
        return created

    def entry(self, cron_id: str = "tidy") -> Cron:
        """Return the entry."""
        with self.desk.state.read() as store:
            return store.need(CRONS, cron_id)

    def rows(self) -> list[tuple[str, str]]:
        """Return the outcomes and reasons of the entry's occurrences."""
        return [(row.outcome, row.reason) for row in self.entry().recent]

    def due(self) -> list[int]:
        """Return the due times of the entry's occurrences."""
        return [row.due_ms for row in self.entry().recent]

    async def wake_at(self, text: str) -> None:
        """Set the clock to a time, and let everything happen that is due."""
        self.clock.set(ms(text))
        await wait_all_tasks_blocked(0.01)

    async def check(self) -> None:
        """Require that the records follow from the journal."""
        diagnosis = await examine(self.desk.state.read, deep=True)
        assert diagnosis.findings == []


@asynccontextmanager
async def cron_house(
    directory: Path,
    models: Any = None,
    *,
    start: str = "2026-12-01T08:00+01:00",
    clock: SetClock | None = None,
) -> AsyncIterator[House]:
    """Run the workers on a store; leaving stops them as a kill would."""
    clock = clock or SetClock()
    async with open_desk(directory, models or Scripted()) as desk:
        clock.govern(desk)
        if start:
            clock.set(ms(start))
        worker = CronWorker(desk.services, lambda now_ms: clock)
        async with working(desk), trio.open_nursery() as nursery:
            await nursery.start(worker.serve)
            yield House(desk, clock)
            nursery.cancel_scope.cancel()


async def test_an_entry_fires_at_its_time_and_its_run_is_recorded(
    tmp_path: Path, autojump_clock: Any
) -> None:
    """One timer waits for it; the occurrence names the run, and then its end."""
    async with cron_house(tmp_path) as house:
        created = await house.create()
        assert created.next_due_ms == ms("2026-12-01T09:00+01:00")
        await house.desk.until(lambda: house.rows() == [("completed", "")])
        assert house.clock.now_ms() - ms("2026-12-01T09:00+01:00") < 1000
        row = house.entry().recent[0]
        assert house.desk.run(row.run_id or "").origins == ["schedule"]
        await house.desk.until(lambda: len(house.rows()) == 3)
        assert house.due() == [ms(f"2026-12-0{day}T09:00+01:00") for day in (1, 2, 3)]
        assert house.desk.answers(row.session_id or "") == ["You said: tidy up"] * 2
        await house.check()


async def test_entries_follow_the_changes_of_the_clocks(tmp_path: Path, autojump_clock: Any) -> None:
    """02:30 in the gap is due at 03:00, and in the repeated hour once; quarters of an hour in both."""
    async with cron_house(tmp_path, start="2026-03-29T00:00+01:00") as house:
        await house.create("30 2 * * *")
        await house.desk.until(lambda: len(house.due()) == 2)
        assert house.due() == [ms("2026-03-29T03:00+02:00"), ms("2026-03-30T02:30+02:00")]
        await house.desk.do(handlers.delete, CronChange(cron_id="tidy"))
        house.clock.set(ms("2026-10-25T01:50+02:00"))
        await house.create("*/15 1-3 * * *")
        await house.desk.until(lambda: len(house.due()) == 12)
        first = ms("2026-10-25T02:00+02:00")
        assert house.due() == [first + index * 900_000 for index in range(12)]


@pytest.mark.parametrize(
    ("misfire", "rows", "missed"),
    [("run_once", [("completed", "late")], 6), ("skip", [("missed", "late")], 6)],
)
async def test_a_machine_asleep_for_a_week(
    tmp_path: Path, autojump_clock: Any, misfire: str, rows: Any, missed: int
) -> None:
    """The latest missed firing is made up for once, or not at all; the others are counted."""
    async with cron_house(tmp_path) as house:
        await house.create(misfire=misfire)
        await house.wake_at("2026-12-08T08:00+01:00")
        assert house.rows() == rows
        (row,) = house.entry().recent
        assert (row.due_ms, row.missed) == (ms("2026-12-07T09:00+01:00"), missed)
        assert row.since_ms == ms("2026-12-01T09:00+01:00")
        assert house.entry().next_due_ms == ms("2026-12-08T09:00+01:00")
        await house.check()


async def test_a_short_delay_is_no_misfire(tmp_path: Path, autojump_clock: Any) -> None:
    """Within the grace, a firing that comes late is as if it were on time, also with ``skip``."""
    async with cron_house(tmp_path) as house:
        await house.create(misfire="skip", grace_s=600)
        await house.wake_at("2026-12-01T09:05+01:00")
        assert house.rows() == [("completed", "")]


async def test_a_clock_that_is_set_back_fires_nothing_twice(tmp_path: Path, autojump_clock: Any) -> None:
    """What fired stays fired; after a clock that was wrong by years, the real due times fire."""
    async with cron_house(tmp_path) as house:
        await house.create("0 * * * *")
        await house.desk.until(lambda: len(house.due()) == 3)
        await house.wake_at("2026-12-01T08:30+01:00")
        assert house.entry().next_due_ms == ms("2026-12-01T12:00+01:00")
        await house.desk.until(lambda: len(house.due()) == 4)
        assert len(set(house.due())) == 4
        # The clock is wrong by four years, and is then corrected.
        await house.wake_at("2030-12-01T08:30+01:00")
        assert house.due()[-1] == ms("2030-12-01T08:00+01:00")
        await house.wake_at("2026-12-01T12:10+01:00")
        assert house.entry().next_due_ms == ms("2026-12-01T13:00+01:00")
        await house.desk.until(lambda: len(house.due()) == 6)
        assert house.due()[-1] == ms("2026-12-01T13:00+01:00")
        await house.check()


async def test_a_clock_that_was_set_back_while_no_daemon_ran(tmp_path: Path, autojump_clock: Any) -> None:
    """The next daemon notices that the due times were computed in the future."""
    clock = SetClock()
    async with cron_house(tmp_path, start="2030-12-01T08:00+01:00", clock=clock) as house:
        await house.create()
        await house.desk.until(lambda: len(house.due()) == 1)
    async with cron_house(tmp_path, start="2026-12-01T08:00+01:00", clock=clock) as house:
        await house.desk.until(lambda: len(house.due()) == 2)
        assert house.due()[-1] == ms("2026-12-01T09:00+01:00")


@pytest.mark.parametrize(
    ("quiet", "schedule", "rows"),
    [
        ("skip", "0 23,9 * * *", [("skipped", "quiet_hours"), ("completed", "")]),
        ("defer", "0 23 * * *", [("completed", "")]),
        ("skip", "at 2026-12-01T23:00", [("completed", "")]),
    ],
)
async def test_quiet_hours_skip_or_defer(
    tmp_path: Path, autojump_clock: Any, quiet: str, schedule: str, rows: Any
) -> None:
    """A firing in quiet hours is skipped, or fires at their end; a single time is never dropped."""
    async with cron_house(tmp_path, start="2026-12-01T22:30+01:00") as house:
        await house.create(schedule, quiet=quiet, quiet_start="22:00", quiet_end="07:00")
        await house.desk.until(lambda: bool(house.rows()))
        assert house.rows() in ([("deferred", "quiet_hours")], [("skipped", "quiet_hours")])
        assert (
            quiet == "defer"
            or schedule.startswith("at")
            or "(22:00 to 07:00)" in house.entry().recent[0].note
        )
        await house.desk.until(lambda: house.rows() == rows)
        row = house.entry().recent[-1]
        if rows == [("completed", "")]:
            assert row.due_ms == ms("2026-12-01T23:00+01:00")
            assert row.at_ms == ms("2026-12-02T07:00+01:00")
        await house.check()


@pytest.mark.parametrize(
    ("overlap", "during", "after"),
    [
        ("skip", ["running", "skipped", "skipped"], ["completed", "skipped", "skipped"]),
        ("queue_one", ["running", "queued", "skipped"], ["completed", "completed", "skipped"]),
        ("parallel", ["running", "running", "running"], ["completed", "completed", "completed"]),
    ],
)
async def test_the_overlap_policy_applies_while_a_run_is_in_flight(
    tmp_path: Path, autojump_clock: Any, overlap: str, during: list[str], after: list[str]
) -> None:
    """The firing is skipped, waits for the run (one at most), or a run begins beside it."""
    gate = Gate()
    async with cron_house(tmp_path, Scripted([gate, *([gate] * 3)])) as house:
        await house.create("0 9-11 * * *", overlap=overlap)
        await house.desk.until(lambda: len(house.rows()) == 3)

        def outcomes() -> list[str]:
            return [row.outcome for row in sorted(house.entry().recent, key=lambda row: row.due_ms)]

        assert outcomes() == during
        gate.opened.set()
        await house.desk.until(lambda: outcomes() == after)
        await house.check()


async def test_once_and_a_maximum_complete_an_entry(tmp_path: Path, autojump_clock: Any) -> None:
    """It fires that often, and is completed; its history stays until it is deleted."""
    async with cron_house(tmp_path) as house:
        await house.create(once=True)
        await house.desk.until(lambda: house.rows() == [("completed", "")])
        assert (house.entry().status, house.entry().next_due_ms) == ("completed", None)
        await house.create(cron_id="twice", max_executions=2)
        await house.desk.until(lambda: house.entry("twice").status == "completed")
        assert house.entry("twice").executions == 2
        assert len(house.entry().recent) == 1


async def test_refused_firings_are_reported_and_disable_the_entry(
    tmp_path: Path, autojump_clock: Any
) -> None:
    """The target's session has an event of each, and the fifth in a row disables the entry."""
    async with cron_house(tmp_path) as house:
        sent = await house.desk.ask(sender="ada")
        target = WakeTarget(session_id=sent.session_id, prompt="tidy up")
        await house.create(target=target)
        session = house.desk.session(sent.session_id)
        await house.desk.state.update(
            lambda tx: tx.put(SESSIONS, session.session_id, value=replace(session, route="gone"))
        )
        await house.desk.until(lambda: house.entry().status == "disabled")
        assert house.rows() == [("refused", "route_not_found")] * MAX_CRON_FAILURES
        reports = [
            event for _, event in house.desk.journal(sent.session_id) if isinstance(event, CronReported)
        ]
        assert [report.disabled for report in reports] == [False] * (MAX_CRON_FAILURES - 1) + [True]
        assert house.desk.count(CRONS_FAILING) == 1
        await house.desk.do(handlers.resume, CronChange(cron_id="tidy"))
        assert house.desk.count(CRONS_FAILING) == 0


async def test_failed_runs_count_as_failures(tmp_path: Path, autojump_clock: Any) -> None:
    """An entry whose every run fails is disabled, too, because it only costs; a success starts over."""
    failing = lambda request: fails("bad_request", retryable=False)  # noqa: E731
    async with cron_house(tmp_path, Scripted([failing])) as house:
        await house.create()
        await house.desk.until(lambda: house.entry().status == "disabled")
        assert house.rows() == [("failed", "")] * MAX_CRON_FAILURES
        assert house.entry().note == f"{MAX_CRON_FAILURES} firings in a row failed"


async def test_failures_of_firings_by_hand_do_not_count(tmp_path: Path, autojump_clock: Any) -> None:
    """Neither refusals nor failed runs disable an entry that a client fires."""
    failing = lambda request: fails("bad_request", retryable=False)  # noqa: E731
    async with cron_house(tmp_path, Scripted([failing])) as house:
        sent = await house.desk.ask(sender="ada")
        await house.create("@yearly", target=WakeTarget(session_id=sent.session_id, prompt="tidy up"))
        for number in range(MAX_CRON_FAILURES):
            await house.desk.do(handlers.fire, CronFire(cron_id="tidy"))
            await house.desk.until(lambda: house.rows()[-1] == ("failed", "manual"))
            assert len(house.rows()) == number + 1
        await house.check()
        session = replace(house.desk.session(sent.session_id), route="gone")
        await house.desk.state.update(lambda tx: tx.put(SESSIONS, session.session_id, value=session))
        for _ in range(MAX_CRON_FAILURES):
            await house.desk.do(handlers.fire, CronFire(cron_id="tidy"))
        assert house.rows()[MAX_CRON_FAILURES:] == [("refused", "route_not_found")] * MAX_CRON_FAILURES
        assert (house.entry().status, house.entry().failures) == ("active", 0)


async def test_a_single_time_is_tried_again(tmp_path: Path, autojump_clock: Any) -> None:
    """A refusal does not lose it: it fires once the target takes it."""
    async with cron_house(tmp_path) as house:
        sent = await house.desk.ask(sender="ada")
        await house.create("at 2026-12-01T09:00", target=WakeTarget(session_id=sent.session_id, prompt="x"))
        session = house.desk.session(sent.session_id)

        async def set_route(route: str | None) -> None:
            changed = replace(house.desk.session(sent.session_id), route=route)
            await house.desk.state.update(lambda tx: tx.put(SESSIONS, session.session_id, value=changed))

        await set_route("gone")
        await house.desk.until(lambda: house.rows() == [("refused", "route_not_found")])
        assert house.entry().deferred_until_ms == ms("2026-12-01T09:00+01:00") + RETRY_MS
        await set_route(None)
        await house.desk.until(lambda: house.rows() == [("completed", "")])
        assert house.entry().status == "completed"


async def test_a_firing_survives_a_kill_and_happens_once(tmp_path: Path, autojump_clock: Any) -> None:
    """A daemon that dies after the commit leaves the run; the next one settles it and fires nothing again."""
    gate, clock = Gate(), SetClock()
    async with cron_house(tmp_path, Scripted([gate]), clock=clock) as house:
        await house.create(overlap="queue_one")
        await gate.reached.wait()
        await house.desk.until(lambda: len(house.rows()) == 2)
        assert house.rows() == [("running", ""), ("queued", "overlap")]
        assert house.desk.count(CRONS_LIVE) == 1
    async with cron_house(tmp_path, start="", clock=clock) as house:
        await house.desk.until(lambda: [row.outcome for row in house.entry().recent] == ["completed"] * 2)
        assert house.desk.count(RUNS) == 2
        await house.check()


async def test_a_firing_is_single_over_a_kill_at_any_commit(tmp_path: Path, autojump_clock: Any) -> None:
    """Whatever the commit after which the daemon dies, the entry fires once, and its run is recorded."""
    clock = SetClock()
    async with cron_house(tmp_path, clock=clock) as house:
        await house.create("at 2026-12-01T09:00")
        copies = copy_at_commits(house.desk, tmp_path)
        await house.wake_at("2026-12-01T09:00:30+01:00")
    assert len(copies) > 4
    for home in copies:
        async with cron_house(home, start="2026-12-01T09:00:30+01:00", clock=SetClock()) as house:
            await house.desk.until(lambda: house.rows() == [("completed", "")])
            (session_id,) = {row.session_id or "" for row in house.entry().recent}
            events = [event for _, event in house.desk.journal(session_id)]
            assert sum(isinstance(event, InputReceived) for event in events) == house.desk.count(RUNS) == 1
            assert house.entry().status == "completed"
            await house.check()


@pytest.mark.parametrize(
    ("schedule", "start", "restart", "due"),
    [
        # Asleep for a week.
        (NINE, "2026-12-01T08:00+01:00", "2026-12-08T08:00+01:00", "2026-12-07T09:00+01:00"),
        # A local time that does not exist, and one that occurs twice, of which the second is no due time.
        ("30 2 * * *", "2026-03-29T00:00+01:00", "2026-03-29T03:30+02:00", "2026-03-29T03:00+02:00"),
        ("30 2 * * *", "2026-10-25T00:00+02:00", "2026-10-25T02:45+01:00", "2026-10-25T02:30+02:00"),
    ],
)
async def test_due_times_while_no_daemon_ran(
    tmp_path: Path, autojump_clock: Any, schedule: str, start: str, restart: str, due: str
) -> None:
    """The next daemon makes up for the latest one; the daemon after it fires nothing again."""
    clock = SetClock()
    async with cron_house(tmp_path, start=start, clock=clock) as house:
        await house.create(schedule)
    for _ in range(2):
        async with cron_house(tmp_path, start=restart, clock=clock) as house:
            await house.wake_at(restart)
            assert house.rows() == [("completed", "late")]
            assert house.due() == [ms(due)]
            await house.check()


async def test_an_entry_whose_zone_is_gone_is_disabled_over_a_restart(
    tmp_path: Path, autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new version of the time zones lacks it: the entry says so, others fire, and the daemon goes on."""
    clock = SetClock()
    async with cron_house(tmp_path, clock=clock) as house:
        await house.create()
        await house.create(cron_id="other", timezone="Europe/Berlin")
    zone_of = schedule.zone_of

    def find_zone(name: str) -> Any:
        if name == "Europe/Paris":
            raise ScheduleError("timezone", "there is no time zone 'Europe/Paris'")
        return zone_of(name)

    monkeypatch.setattr(schedule, "zone_of", find_zone)
    parse_schedule.cache_clear()
    for _ in range(2):
        async with cron_house(tmp_path, start="", clock=clock) as house:
            await house.wake_at("2026-12-01T09:00+01:00")
            assert house.rows() == [("refused", "cron_invalid")]
            assert (house.entry().status, "no time zone" in house.entry().note) == ("disabled", True)
            assert [row.outcome for row in house.entry("other").recent] == ["completed"]
    parse_schedule.cache_clear()


async def test_a_daemon_without_entries_has_no_timer(tmp_path: Path, autojump_clock: Any) -> None:
    """The worker only waits for a commit; ten entries share one timer."""
    async with cron_house(tmp_path) as house:
        await wait_all_tasks_blocked(0.01)
        assert house.clock.waits == 0
        for number in range(10):
            await house.create(cron_id=f"entry{number}")
        before = house.clock.waits
        await house.wake_at("2026-12-01T08:59+01:00")
        assert house.clock.waits - before <= 2


async def test_a_client_fires_an_entry_now(tmp_path: Path, autojump_clock: Any) -> None:
    """It fires beside the schedule, which stays as it is; the overlap policy applies."""
    gate = Gate()
    async with cron_house(tmp_path, Scripted([gate])) as house:
        created = await house.create("0 9,13 * * *", quiet_start="00:00", quiet_end="12:00")
        fired: Occurrence = await house.desk.do(handlers.fire, CronFire(cron_id="tidy"))
        assert (fired.outcome, fired.reason) == ("running", "manual")
        await gate.reached.wait()
        again: Occurrence = await house.desk.do(handlers.fire, CronFire(cron_id="tidy"))
        assert (again.outcome, again.reason) == ("skipped", "manual")
        assert house.entry().next_due_ms == created.next_due_ms
        gate.opened.set()
        await house.desk.until(lambda: house.entry().recent[0].outcome == "completed")


async def test_a_pause_is_explained_with_its_times(tmp_path: Path, autojump_clock: Any) -> None:
    """A due time that passed during a pause is explained by the pause: its begin, its end and its note."""
    async with cron_house(tmp_path, start="2026-12-01T08:00+01:00") as house:
        await house.create()
        house.clock.set(ms("2026-12-01T08:30:05+01:00"))
        await house.desk.do(handlers.pause, CronChange(cron_id="tidy", note="holiday"))

        def explain(text: str) -> str:
            params = CronExplain(cron_id="tidy", at_ms=ms(text))
            return str(handlers.explain.answer(house.desk.call(), params).lines[-1])

        await house.wake_at("2026-12-01T09:30:07+01:00")
        assert explain("2026-12-01T09:00+01:00") == (
            "2026-12-01 09:00:00+01:00: it was paused from 2026-12-01 08:30:05+01:00 on: holiday"
        )
        await house.desk.do(handlers.resume, CronChange(cron_id="tidy"))
        await house.wake_at("2026-12-03T08:00+01:00")
        await house.desk.do(handlers.pause, CronChange(cron_id="tidy"))
        assert explain("2026-12-01T09:00+01:00") == (
            "2026-12-01 09:00:00+01:00: it was paused from 2026-12-01 08:30:05+01:00 "
            "to 2026-12-01 09:30:07+01:00: holiday"
        )


ROW = """[[cron]]
id = "tidy"
schedule = "0 9 * * *"
timezone = "Europe/Paris"
agent = "default"
prompt = "x"
"""


async def test_the_file_of_entries_is_followed_over_reloads(tmp_path: Path, autojump_clock: Any) -> None:
    """Rows are created, changed and deleted; their state stays; a bad file or row changes nothing."""
    async with cron_house(tmp_path) as house:

        async def reload(text: str | None) -> list[Cron]:
            current = house.desk.holder.current()
            file = CRON_FILE.parse(text, "crons.toml") if text is not None else None
            house.desk.holder.replace(replace(current, generation=current.generation + 1, crons=file))
            await wait_all_tasks_blocked(0.01)
            with house.desk.state.read() as store:
                return [cron for _, cron in store.scan(CRONS)]

        (cron,) = await reload(ROW)
        assert (cron.source, cron.authority, cron.status) == ("file", "operator", "active")
        assert await reload(ROW) == [cron]
        await house.desk.do(handlers.pause, CronChange(cron_id="tidy"))
        (changed,) = await reload(ROW.replace("0 9", "0 10"))
        assert (changed.schedule, changed.status, changed.next_due_ms) == ("0 10 * * *", "paused", None)
        assert await reload("[[cron") == [changed]
        assert await reload(ROW.replace("0 9", "0 99")) == [changed]
        await house.create(cron_id="own")
        clash = await reload(ROW.replace("0 9", "0 10") + ROW.replace('"tidy"', '"own"'))
        assert [cron.source for cron in clash] == ["client", "file"]
        assert [cron.cron_id for cron in await reload(None)] == ["own"]
        await house.check()


async def test_two_hundred_entries_fire_at_one_time(tmp_path: Path, autojump_clock: Any) -> None:
    """Each fires once, and all runs in flight are watched, more than the store has readers."""
    async with cron_house(tmp_path) as house:
        for number in range(200):
            target = WakeTarget(agent="default", sender=f"user{number}", prompt="x")
            await house.create("at 2026-12-01T09:00", cron_id=f"c{number}", target=target)

        def outcomes() -> set[tuple[int, str]]:
            entries = [house.entry(f"c{number}") for number in range(200)]
            return {(entry.executions, entry.recent[-1].outcome if entry.recent else "") for entry in entries}

        await house.desk.until(lambda: house.desk.count(CRONS_LIVE) > 0)
        await house.desk.until(lambda: house.desk.count(CRONS_LIVE) == 0)
        assert outcomes() == {(1, "completed")}


@pytest.mark.parametrize(
    "params", [{"once": True}, {"max_executions": 1}, {"schedule": "at 2026-12-01T23:00"}]
)
async def test_firing_by_hand_takes_nothing_from_the_schedule(
    tmp_path: Path, autojump_clock: Any, params: Any
) -> None:
    """A blocked firing by hand is skipped, and none counts: the scheduled one still comes, once."""
    gate = Gate()
    async with cron_house(tmp_path, Scripted([gate]), start="2026-12-01T22:55+01:00") as house:
        quiet = {"quiet_start": "23:00", "quiet_end": "07:00"} if "schedule" in params else {}
        await house.create(**({"overlap": "queue_one"} | quiet | params))
        if quiet:
            await house.desk.until(lambda: house.rows() == [("deferred", "quiet_hours")])
        fired = [await house.desk.do(handlers.fire, CronFire(cron_id="tidy")) for _ in range(3)]
        assert [row.outcome for row in fired] == ["running", "skipped", "skipped"]
        cron = house.entry()
        assert (cron.status, cron.executions, cron.queued_due_ms) == ("active", 0, None)
        gate.opened.set()
        await house.desk.until(lambda: house.entry().status == "completed")
        await house.desk.until(lambda: house.rows()[-1][0] == "completed")
        assert house.entry().executions == 1
        await house.check()


async def test_an_interval_that_began_in_the_future_begins_anew(tmp_path: Path, autojump_clock: Any) -> None:
    """After the clock was set back, it counts from then on, also for an entry created while it was ahead."""
    async with cron_house(tmp_path, start="2030-12-01T08:00+01:00") as house:
        await house.create("every 15m")
        await house.wake_at("2026-12-01T08:00+01:00")
        assert house.entry().next_due_ms == ms("2026-12-01T08:15+01:00")
        await house.desk.until(lambda: len(house.due()) == 2)
        assert house.due()[-1] == ms("2026-12-01T08:30+01:00")
        await house.check()


async def test_a_deferred_firing_that_is_late_is_a_misfire(tmp_path: Path, autojump_clock: Any) -> None:
    """It was to fire at the end of the quiet hours; a day later, the policy ``skip`` forbids it."""
    async with cron_house(tmp_path, start="2026-12-01T22:59+01:00") as house:
        await house.create(
            "at 2026-12-01T23:00", misfire="skip", quiet_start="22:00", quiet_end="07:00", quiet="defer"
        )
        await house.desk.until(lambda: house.rows() == [("deferred", "quiet_hours")])
        await house.wake_at("2026-12-03T08:00+01:00")
        assert house.rows() == [("missed", "late")]
        assert house.entry().status == "completed"
