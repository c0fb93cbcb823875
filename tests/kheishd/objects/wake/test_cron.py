"""Cron entries over the socket: every outcome of the methods."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from kheishd.objects.wake import cron
from kheishd.store.environment import Transaction
from kheishd.store.tables import CRONS, RUNS
from protocol.errors.conversation import SenderForbidden, SenderInvalid
from protocol.errors.cron import (
    CronChanged,
    CronExists,
    CronForbidden,
    CronFromFile,
    CronInvalid,
    CronLimit,
    CronNotActive,
    CronNotFound,
)
from protocol.errors.definition import AgentForbidden, AgentNotFound
from protocol.errors.rpc import InvalidParams
from protocol.errors.session import InputTooLarge, SessionNotFound
from protocol.errors.skill import SkillNotFound
from protocol.events.cron import CronCreated, CronOccurred
from protocol.limits.wake import MAX_WAKE_PROMPT_BYTES
from protocol.objects.cron import Occurrence
from protocol.objects.run import RunError
from protocol.objects.wake import WakeTarget
from tests.support.household import Household, household, pages, refusal_of
from tests.support.skills import make_skills, write_skill

TARGET: dict[str, Any] = {"agent": "default", "sender": "ada", "prompt": "tidy up"}
TIDY: dict[str, Any] = {"cron_id": "tidy", "schedule": "0 9 * * mon-fri", "timezone": "Europe/Paris"}


@pytest.fixture
async def idle(tmp_path: Path) -> AsyncIterator[Household]:
    """Serve a daemon whose runs stay queued, with the skill a."""
    root = tmp_path / "roots"
    write_skill(root, "a")
    skills = make_skills(tmp_path / "home", root)
    async with household(tmp_path, work=False, tcp=True, load_skills=lambda: skills) as house:
        yield house


async def create(house: Household, **params: Any) -> Any:
    """Create the entry ``tidy``."""
    return await house.call("cron.create", **(TIDY | {"target": TARGET} | params))


async def refuse_target(house: Household, method: str, target: dict[str, Any], **params: Any) -> Any:
    """Return the refusal of an entry with this target."""
    return await house.refusal_of(method, **params, target=target)


# cron.create


async def test_cron_create_ok(idle: Household) -> None:
    """An entry is active, knows its next due time, and the answer shows the next five."""
    made = await create(idle)
    assert (made["cron_id"], made.get("status", "active"), made["target"]) == ("tidy", "active", TARGET)
    assert len(made["upcoming"]) == 5
    assert made["upcoming"][0]["due_ms"] == made["next_due_ms"]
    assert made["upcoming"][0]["local"][11:19] == "09:00:00"
    other = await create(idle, cron_id=None, target={"agent": "default", "skill": "a"})
    assert other["cron_id"].startswith("crn_")
    assert other["target"]["sender"] == "user"
    checked = await create(idle, cron_id="dry", check=True)
    assert len(checked["upcoming"]) == 5
    assert isinstance(await idle.refusal_of("cron.get", cron_id="dry"), CronNotFound)


async def test_cron_create_cron_exists(idle: Household) -> None:
    """An id is used once at a time."""
    await create(idle)
    refusal = await idle.refusal_of("cron.create", **TIDY, target=TARGET)
    assert isinstance(refusal, CronExists)
    await idle.call("cron.delete", cron_id="tidy")
    await create(idle)


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"schedule": "* * *"}, "schedule"),
        ({"schedule": "* * * * * *"}, "schedule"),
        ({"schedule": "every 2s"}, "schedule"),
        ({"schedule": "at 2001-01-01T00:00"}, "schedule"),
        ({"timezone": "Mars/Base"}, "timezone"),
        ({"quiet_start": "22:00"}, "quiet_end"),
        ({"quiet_start": "25:00", "quiet_end": "07:00"}, "quiet_start"),
        ({"quiet_start": "08:00", "quiet_end": "10:00"}, "quiet_start"),
    ],
)
async def test_cron_create_cron_invalid(idle: Household, params: Any, field: str) -> None:
    """A schedule that cannot be followed is refused with its field."""
    refusal = await idle.refusal_of("cron.create", **(TIDY | {"target": TARGET} | params))
    assert isinstance(refusal, CronInvalid)
    assert refusal.field == f"$.params.{field}"


async def test_cron_create_cron_limit(idle: Household, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is a maximum of entries."""
    monkeypatch.setattr(cron, "MAX_CRONS", 1)
    await create(idle)
    assert isinstance(await idle.refusal_of("cron.create", schedule="@daily", target=TARGET), CronLimit)


async def test_cron_create_agent_forbidden(idle: Household) -> None:
    """A token stores no target that it could not write to."""
    limited = await idle.connect_limited(agents=["reviewer"])
    assert isinstance(await refusal_of(limited, "cron.create", **TIDY, target=TARGET), AgentForbidden)


async def test_cron_create_agent_not_found(idle: Household) -> None:
    """The agent exists, and the refusal names the field inside the target."""
    refusal = await refuse_target(idle, "cron.create", TARGET | {"agent": "nobody"}, **TIDY)
    assert isinstance(refusal, AgentNotFound)
    assert refusal.field == "$.params.target.agent"


async def test_cron_create_sender_forbidden(idle: Household) -> None:
    """A token wakes conversations of its own senders only."""
    limited = await idle.connect_limited(senders=["bob"])
    refusal = await refusal_of(limited, "cron.create", **TIDY, target=TARGET)
    assert isinstance(refusal, SenderForbidden)
    assert refusal.field == "$.params.target.sender"


async def test_cron_create_sender_invalid(idle: Household) -> None:
    """A sender is printable."""
    assert isinstance(
        await refuse_target(idle, "cron.create", TARGET | {"sender": "a\nb"}, **TIDY), SenderInvalid
    )


async def test_cron_create_session_not_found(idle: Household) -> None:
    """A session that is a target exists; a target has one address."""
    target = {"session_id": "ses_none", "prompt": "x"}
    assert isinstance(await refuse_target(idle, "cron.create", target, **TIDY), SessionNotFound)
    assert isinstance(await refuse_target(idle, "cron.create", TARGET | target, **TIDY), InvalidParams)


async def test_cron_create_skill_not_found(idle: Household) -> None:
    """A skill that is a task exists."""
    target = {"agent": "default", "skill": "none"}
    assert isinstance(await refuse_target(idle, "cron.create", target, **TIDY), SkillNotFound)


async def test_cron_create_input_too_large(idle: Household) -> None:
    """The task fits into an input, escaped."""
    target = {"agent": "default", "prompt": "\x01" * MAX_WAKE_PROMPT_BYTES}
    assert isinstance(await refuse_target(idle, "cron.create", target, **TIDY), InputTooLarge)


async def test_the_task_of_a_connector_is_no_instruction(idle: Household) -> None:
    """A token that only passes data on cannot store an instruction for later."""
    await create(idle)
    limited = await idle.connect_limited(origin="connector")
    await limited.call("cron.create", **(TIDY | {"cron_id": "data"}), target=TARGET)
    with idle.state.read() as store:
        assert store.need(CRONS, "tidy").authority == "operator"
        data = store.need(CRONS, "data")
        assert (data.authority, data.origins) == (None, ["connector"])


# cron.get, .list


async def test_cron_get_ok(idle: Household) -> None:
    """An entry is shown with as many next firings as wanted."""
    await create(idle)
    assert len((await idle.call("cron.get", cron_id="tidy", count=50))["upcoming"]) == 50
    once = await create(idle, cron_id="once", once=True)
    assert len(once["upcoming"]) == 1


async def test_cron_get_cron_not_found(idle: Household) -> None:
    """An entry that the token does not cover is refused as one that does not exist."""
    await create(idle)
    limited = await idle.connect_limited(agents=["reviewer"])
    for client, cron_id in ((limited, "tidy"), (idle.client, "none")):
        refusal = await refusal_of(client, "cron.get", cron_id=cron_id)
        assert isinstance(refusal, CronNotFound)
        assert refusal.message == f"there is no cron entry '{cron_id}'; cron.list shows them"


async def test_cron_list_ok(idle: Household) -> None:
    """Entries are listed by id, filtered by text, status and author, within the token."""
    for name in "abc":
        await create(idle, cron_id=name, name=f"Entry {name}")
    session = await idle.send(agent="reviewer", sender="bob")
    await create(idle, cron_id="d", target={"session_id": session["session_id"], "prompt": "x"})
    await idle.call("cron.pause", cron_id="b")
    assert [row["cron_id"] for row in await pages(idle.client, "cron.list", "crons", limit=2)] == [*"abcd"]

    async def listed(client: Any = idle.client, **params: Any) -> list[str]:
        return [row["cron_id"] for row in (await client.call("cron.list", **params))["crons"]]

    assert await listed(query="entry C") == ["c"]
    assert await listed(status="paused") == ["b"]
    assert await listed(source="agent") == []
    assert await listed(await idle.connect_limited(senders=["bob"])) == ["d"]
    assert await listed(await idle.connect_limited(agents=["default"], senders=["ada"])) == [*"abc"]


# cron.update


async def test_cron_update_ok(idle: Household) -> None:
    """Only what is given changes; the next due time follows, and the revision counts."""
    made = await create(idle, quiet_start="22:00", quiet_end="07:00")
    changed = await idle.call(
        "cron.update", cron_id="tidy", schedule="30 10 * * *", quiet_start=None, quiet_end=None
    )
    assert (changed["revision"], changed["timezone"]) == (2, "Europe/Paris")
    assert "quiet_start" not in changed
    assert changed["next_due_ms"] != made["next_due_ms"]
    same = await idle.call("cron.update", cron_id="tidy", schedule="30 10 * * *", revision=2)
    assert same["revision"] == 2
    paused = await idle.call("cron.pause", cron_id="tidy")
    assert "next_due_ms" not in paused
    assert "next_due_ms" not in await idle.call("cron.update", cron_id="tidy", schedule="@daily")


async def test_cron_update_cron_not_found(idle: Household) -> None:
    """Only an existing entry is changed."""
    assert isinstance(await idle.refusal_of("cron.update", cron_id="none", once=True), CronNotFound)


async def test_cron_update_cron_changed(idle: Household) -> None:
    """Of two clients that change the same revision, one is refused."""
    await create(idle)
    await idle.call("cron.update", cron_id="tidy", revision=1, grace_s=60)
    refusal = await idle.refusal_of("cron.update", cron_id="tidy", revision=1, grace_s=90)
    assert isinstance(refusal, CronChanged)
    assert refusal.field == "$.params.revision"


async def put_from_file(house: Household) -> None:
    """Store an entry as the file's reader does."""
    event = CronCreated(
        cron_id="filed",
        schedule="@daily",
        target=WakeTarget(agent="default", prompt="x"),
        next_due_ms=None,
        source="file",
    )
    await house.state.update(lambda tx: cron.create_cron(tx, event))


async def test_cron_update_cron_from_file(idle: Household) -> None:
    """An entry of the file is changed there; it can be paused all the same."""
    await put_from_file(idle)
    assert isinstance(await idle.refusal_of("cron.update", cron_id="filed", once=True), CronFromFile)
    assert (await idle.call("cron.pause", cron_id="filed"))["status"] == "paused"


async def test_cron_update_cron_invalid(idle: Household) -> None:
    """A change leaves the entry valid as a whole."""
    await create(idle)
    refusal = await idle.refusal_of("cron.update", cron_id="tidy", quiet_start="22:00")
    assert isinstance(refusal, CronInvalid)
    assert isinstance(await idle.refusal_of("cron.update", cron_id="tidy", schedule="x"), CronInvalid)


async def test_cron_update_agent_forbidden(idle: Household) -> None:
    """A new target is judged by the caller's token."""
    await create(idle)
    limited = await idle.connect_limited(agents=["default"])
    target = {"agent": "reviewer", "prompt": "x"}
    assert isinstance(await refusal_of(limited, "cron.update", cron_id="tidy", target=target), AgentForbidden)


async def test_cron_update_agent_not_found(idle: Household) -> None:
    """A new target's agent exists."""
    target = {"agent": "nobody", "prompt": "x"}
    assert isinstance(await refuse_target(idle, "cron.update", target, cron_id="tidy"), AgentNotFound)


async def test_cron_update_sender_forbidden(idle: Household) -> None:
    """A new target's sender is the caller's."""
    await create(idle)
    limited = await idle.connect_limited(senders=["ada"])
    target = TARGET | {"sender": "bob"}
    assert isinstance(
        await refusal_of(limited, "cron.update", cron_id="tidy", target=target), SenderForbidden
    )


async def test_cron_update_sender_invalid(idle: Household) -> None:
    """A new target's sender is printable."""
    target = TARGET | {"sender": "a\nb"}
    assert isinstance(await refuse_target(idle, "cron.update", target, cron_id="tidy"), SenderInvalid)


async def test_cron_update_session_not_found(idle: Household) -> None:
    """A new target's session exists."""
    target = {"session_id": "ses_none", "prompt": "x"}
    assert isinstance(await refuse_target(idle, "cron.update", target, cron_id="tidy"), SessionNotFound)


async def test_cron_update_skill_not_found(idle: Household) -> None:
    """A new target's skill exists."""
    target = {"agent": "default", "skill": "none"}
    assert isinstance(await refuse_target(idle, "cron.update", target, cron_id="tidy"), SkillNotFound)


async def test_cron_update_input_too_large(idle: Household) -> None:
    """A new target's task fits into an input."""
    target = {"agent": "default", "prompt": "\x01" * MAX_WAKE_PROMPT_BYTES}
    assert isinstance(await refuse_target(idle, "cron.update", target, cron_id="tidy"), InputTooLarge)


# cron.pause, .resume, .fire, .delete


async def test_cron_pause_ok(idle: Household) -> None:
    """A paused entry is not due; pausing it again changes nothing."""
    await create(idle)
    paused = await idle.call("cron.pause", cron_id="tidy", note="holiday")
    assert (paused["status"], paused["note"]) == ("paused", "holiday")
    assert await idle.call("cron.pause", cron_id="tidy") == paused


async def test_cron_pause_cron_not_found(idle: Household) -> None:
    """Only an existing entry is paused."""
    assert isinstance(await idle.refusal_of("cron.pause", cron_id="none"), CronNotFound)


async def complete(house: Household, **changes: Any) -> None:
    """Leave the entry ``tidy`` as completed."""
    await create(house)
    await house.state.update(
        lambda tx: tx.put(
            CRONS,
            "tidy",
            value=replace(tx.need(CRONS, "tidy"), status="completed", next_due_ms=None, **changes),
        )
    )


async def test_cron_pause_cron_not_active(idle: Household) -> None:
    """A completed entry cannot be paused."""
    await complete(idle)
    assert isinstance(await idle.refusal_of("cron.pause", cron_id="tidy"), CronNotActive)


async def test_cron_resume_ok(idle: Household) -> None:
    """A resumed entry is due again, from now on; its failures are forgotten."""
    made = await create(idle)
    await idle.call("cron.pause", cron_id="tidy")
    resumed = await idle.call("cron.resume", cron_id="tidy")
    assert resumed["next_due_ms"] == made["next_due_ms"]
    assert (await idle.call("cron.resume", cron_id="tidy"))["revision"] == resumed["revision"]


async def test_cron_resume_cron_not_found(idle: Household) -> None:
    """Only an existing entry is resumed."""
    assert isinstance(await idle.refusal_of("cron.resume", cron_id="none"), CronNotFound)


async def test_cron_resume_cron_not_active(idle: Household) -> None:
    """A single time that has passed does not come back."""
    await complete(idle, schedule="at 2001-01-01T00:00")
    assert isinstance(await idle.refusal_of("cron.resume", cron_id="tidy"), CronNotActive)


async def test_cron_fire_ok(idle: Household) -> None:
    """The occurrence names the run, whose input is the task with the schedule's origin."""
    await create(idle)
    fired = await idle.call("cron.fire", cron_id="tidy")
    assert (fired["outcome"], fired["reason"]) == ("running", "manual")
    events = await idle.events(run_id=fired["run_id"], types=["input_received"])
    assert (events[0]["origin"], events[0]["source"], events[0]["authority"]) == (
        "schedule",
        "cron:tidy",
        "operator",
    )
    assert events[0]["actor"] != "daemon"


async def test_cron_fire_cron_not_found(idle: Household) -> None:
    """Only an existing entry is fired."""
    assert isinstance(await idle.refusal_of("cron.fire", cron_id="none"), CronNotFound)


async def test_cron_delete_ok(idle: Household) -> None:
    """The answer is the entry as it was; its events stay in the journal."""
    await create(idle)
    assert (await idle.call("cron.delete", cron_id="tidy"))["cron_id"] == "tidy"
    assert isinstance(await idle.refusal_of("cron.get", cron_id="tidy"), CronNotFound)
    assert await idle.kinds() == ["cron_created", "cron_deleted"]
    limited = await idle.connect_limited(agents=["default"])
    assert (await limited.call("journal.read"))["events"] == []


async def test_cron_delete_cron_not_found(idle: Household) -> None:
    """Only an existing entry is deleted."""
    assert isinstance(await idle.refusal_of("cron.delete", cron_id="none"), CronNotFound)


async def test_cron_delete_cron_from_file(idle: Household) -> None:
    """An entry of the file is deleted there."""
    await put_from_file(idle)
    assert isinstance(await idle.refusal_of("cron.delete", cron_id="filed"), CronFromFile)


# cron.explain, .export


async def test_cron_explain_ok(idle: Household) -> None:
    """It tells what was decided about a time, and why nothing was: before, between and after due times."""
    made = await create(idle)
    due = made["next_due_ms"]

    async def lines(at_ms: int) -> str:
        return str((await idle.call("cron.explain", cron_id="tidy", at_ms=at_ms))["lines"][-1])

    assert "it is due then" in await lines(due)
    assert "the schedule is not due then; the next due time after it is" in await lines(due + 3_600_000)
    assert "the entry did not exist yet" in await lines(due - 28 * 86_400_000)
    assert (await idle.call("cron.explain", cron_id="tidy"))["lines"][
        -1
    ] == "no due time has been decided yet"
    fired = await idle.call("cron.fire", cron_id="tidy")
    assert f"it fired as {fired['run_id']}, which has not ended; a client fired it" in await lines(
        fired["due_ms"]
    )
    await idle.call("cron.fire", cron_id="tidy")
    explained = await idle.call("cron.explain", cron_id="tidy")
    assert f"it was skipped, because {fired['run_id']} has not ended" in explained["lines"][1]
    await idle.call("cron.pause", cron_id="tidy", note="holiday")
    assert "it will not fire, because the entry is paused" in await lines(due)
    assert "the entry is paused: holiday" in (await idle.call("cron.explain", cron_id="tidy"))["lines"][0]


async def test_cron_explain_names_the_firing_of_a_second(
    idle: Household, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A time with seconds is explained by its own firing, and a minute by all of its firings."""
    await create(idle, schedule="*/5 * * * * *", overlap="parallel")
    start_ms = (await idle.call("cron.get", cron_id="tidy"))["created_at_ms"] // 60_000 * 60_000 - 600_000

    def decide(tx: Transaction) -> None:
        stored = tx.need(CRONS, "tidy")
        for second in range(0, 120, 5):
            row = Occurrence(
                due_ms=start_ms + second * 1_000,
                at_ms=tx.now_ms,
                outcome="skipped",
                reason="overlap",
                note=f"second {second}",
            )
            cron._append(tx, CronOccurred(cron_id="tidy", occurrence=row, next_due_ms=stored.next_due_ms))

    await idle.state.update(decide)

    async def lines(second: int) -> list[str]:
        at_ms = start_ms + second * 1_000
        return list((await idle.call("cron.explain", cron_id="tidy", at_ms=at_ms))["lines"][1:])

    async def require_lines() -> None:
        (line,) = await lines(50)
        assert line.endswith(":50+01:00: it was skipped, because second 50")
        (line,) = await lines(52)
        assert "the schedule is not due then; the next due time after it is" in line
        assert [line.partition("second ")[2] for line in await lines(60)] == [
            str(second) for second in range(60, 120, 5)
        ]

    await require_lines()

    def forget(tx: Transaction) -> None:
        stored = tx.need(CRONS, "tidy")
        tx.put(CRONS, "tidy", value=replace(stored, recent=stored.recent[-3:]))

    await idle.state.update(forget)
    await require_lines()
    monkeypatch.setattr(cron, "MAX_EXPLAINED", 2)
    assert len(await lines(0)) == 2


async def test_cron_explain_names_the_error_of_a_run(idle: Household) -> None:
    """A firing whose run has failed is explained by the error of the run."""
    await create(idle)
    fired = await idle.call("cron.fire", cron_id="tidy")

    def fail(tx: Transaction) -> None:
        run = tx.need(RUNS, fired["run_id"])
        error = RunError("model_failed", "the key is refused")
        tx.put(RUNS, run.run_id, value=replace(run, status="failed", error=error))
        cron = tx.need(CRONS, "tidy")
        recent = [replace(row, outcome="failed") for row in cron.recent]
        tx.put(CRONS, "tidy", value=replace(cron, recent=recent))

    await idle.state.update(fail)
    explained = await idle.call("cron.explain", cron_id="tidy")
    assert "is failed (model_failed: the key is refused)" in explained["lines"][-1]
    assert explained["occurrences"][0]["note"] == "model_failed: the key is refused"


async def test_cron_explain_reads_old_decisions_from_the_journal(idle: Household) -> None:
    """An occurrence that the record no longer has is still explained."""
    await create(idle)
    fired = await idle.call("cron.fire", cron_id="tidy")
    await idle.state.update(
        lambda tx: tx.put(
            CRONS,
            "tidy",
            value=replace(
                tx.need(CRONS, "tidy"),
                recent=[
                    replace(tx.need(CRONS, "tidy").recent[0], due_ms=fired["due_ms"] + 10**8, run_id=None)
                ],
            ),
        )
    )
    explained = await idle.call("cron.explain", cron_id="tidy", at_ms=fired["due_ms"])
    assert fired["run_id"] in explained["lines"][-1]


async def test_an_entry_whose_zone_is_gone_can_be_read_and_mended(idle: Household) -> None:
    """Other versions of the zones may lack one: nothing fails, and an update names another zone."""
    await create(idle)
    with idle.state.read() as store:
        stored = store.need(CRONS, "tidy")
    gone = replace(stored, timezone="Mars/Base", status="paused", next_due_ms=None)
    await idle.state.update(lambda tx: tx.put(CRONS, "tidy", value=gone))
    assert "upcoming" not in await idle.call("cron.get", cron_id="tidy")
    assert "no time zone" in (await idle.call("cron.explain", cron_id="tidy"))["lines"][-1]
    assert isinstance(await idle.refusal_of("cron.resume", cron_id="tidy"), CronNotActive)
    await idle.call("cron.update", cron_id="tidy", timezone="UTC")
    assert (await idle.call("cron.resume", cron_id="tidy"))["status"] == "active"


async def test_cron_explain_cron_not_found(idle: Household) -> None:
    """Only an existing entry is explained."""
    assert isinstance(await idle.refusal_of("cron.explain", cron_id="none"), CronNotFound)


async def test_cron_export_ok(idle: Household) -> None:
    """Entries are written as rows of the file, without defaults."""
    await create(idle, once=True, target=TARGET | {"prompt": 'say "hi"\nä'})
    exported = await idle.call("cron.export")
    assert exported["crons"] == 1
    assert exported["toml"] == (
        '[[cron]]\nid = "tidy"\nschedule = "0 9 * * mon-fri"\ntimezone = "Europe/Paris"\nonce = true\n'
        'agent = "default"\nsender = "ada"\nprompt = "say \\"hi\\"\\nä"\n'
    )


async def test_cron_export_input_too_large(idle: Household, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file is written that could not be read."""
    monkeypatch.setattr(cron, "MAX_CRON_FILE_BYTES", 10)
    await create(idle)
    assert isinstance(await idle.refusal_of("cron.export"), InputTooLarge)


# Tokens whose inputs are data.


async def require_cron_forbidden(house: Household, name: str, **params: Any) -> None:
    """Require that a token whose inputs are data changes no entry of an operator, but its own."""
    await create(house)
    _, secret = await house.server.token(scopes=["operate"], origin="connector")
    client = await house.server.connect_websocket(secret)
    refusal = await refusal_of(client, f"cron.{name}", cron_id="tidy", **params)
    assert (type(refusal), refusal.field) == (CronForbidden, "$.params.cron_id")
    await client.call("cron.create", **(TIDY | {"cron_id": "own"}), target=TARGET)
    await client.call(f"cron.{name}", cron_id="own", **params)


async def test_cron_update_cron_forbidden(idle: Household) -> None:
    """An operator's entry keeps its schedule."""
    await require_cron_forbidden(idle, "update", schedule="every 1m")


async def test_cron_pause_cron_forbidden(idle: Household) -> None:
    """An operator's entry goes on."""
    await require_cron_forbidden(idle, "pause")


async def test_cron_resume_cron_forbidden(idle: Household) -> None:
    """An operator's entry stays paused."""
    await require_cron_forbidden(idle, "resume")


async def test_cron_fire_cron_forbidden(idle: Household) -> None:
    """The operator's task happens when the operator planned it, not when a program's data says so."""
    await require_cron_forbidden(idle, "fire")


async def test_cron_delete_cron_forbidden(idle: Household) -> None:
    """An operator's entry stays."""
    await require_cron_forbidden(idle, "delete")


async def test_an_export_has_only_instructions_of_operators(idle: Household) -> None:
    """The file's tasks are instructions: those of agents and connectors are left out, and counted."""
    await create(idle)
    foreign = CronCreated(
        cron_id="foreign",
        schedule="@daily",
        target=WakeTarget(agent="default", prompt="obey"),
        next_due_ms=None,
        source="agent",
        authority="agent",
    )
    await idle.state.update(lambda tx: cron.create_cron(tx, foreign))
    export = await idle.call("cron.export")
    assert (export["crons"], "obey" in export["toml"]) == (1, False)
    assert "not an operator's: 1" in export["toml"]


async def test_the_last_time_that_can_be_explained(idle: Household) -> None:
    """A time beyond all calendars is refused with its field."""
    await create(idle)
    assert (await idle.call("cron.explain", cron_id="tidy", at_ms=2**47))["lines"]
    refusal = await idle.refusal_of("cron.explain", cron_id="tidy", at_ms=2**47 + 1)
    assert (type(refusal), refusal.field) == (InvalidParams, "$.params.at_ms")
