"""Forks over the socket: what they inherit, and that they copy and widen nothing."""

from pathlib import Path
from typing import Any

from kheishd.core.context.transcript import Transcript
from kheishd.objects.talk.lineage import lineage
from kheishd.store.tables import CHECKPOINTS, META, SESSIONS
from kheishd.workers.runs.transcript import TranscriptReader, newest_checkpoint
from protocol.errors.definition import AgentForbidden, AgentNotFound
from protocol.errors.journal import CursorPruned
from protocol.errors.rpc import InvalidParams
from protocol.errors.session import ImportInvalid, SessionAlreadyEnded, SessionNotFound, TooDeep
from protocol.errors.token import ScopeMissing
from protocol.events.session import SessionCreated
from protocol.journal.envelope import Envelope
from protocol.journal.line import decode_envelope, decode_event
from protocol.limits.session import MAX_FORKS
from protocol.transcript import Item, ToolCall, text_of
from tests.support.desk import gives, says
from tests.support.families import root, spawn, until
from tests.support.household import AGENTS, Household, pages, refusal_of
from tests.support.runtimes import make_runtime
from tests.support.transcripts import assert_valid


def fork(house: Household, session_id: str, **params: Any) -> Any:
    """Fork a session."""
    return house.call("session.fork", session_id=session_id, **params)


async def send(house: Household, session_id: str, content: str) -> Any:
    """Send to a session and wait for the answer."""
    return await house.call("session.send", session_id=session_id, content=content, wait="settled")


async def texts(house: Household, session_id: str, **params: Any) -> list[str]:
    """Return the texts of a session's messages."""
    rows = await pages(house.client, "session.history", "messages", session_id=session_id, **params)
    return [row["message"]["items"][0].get("text", "") for row in rows]


def read_prompt(house: Household) -> list[str]:
    """Return the texts of the newest model call."""
    return [text_of(message.items) for message in house.models.requests[-1].messages]


async def test_session_fork_ok(house: Household) -> None:
    """A fork continues from the parent's state; later messages belong to one of the two."""
    session_id = (await house.ask("one"))["session_id"]
    head = house.head()
    branch = await fork(house, session_id)
    assert house.head() == head + 1
    assert branch["session_id"] != session_id
    assert (branch["agent"], branch["sender"], branch.get("runs")) == ("default", "user", None)
    assert (branch["fork_of"]["session_id"], branch["fork_of"]["cursor"]) == (session_id, head)
    await house.ask("two")
    await send(house, branch["session_id"], "other two")
    assert read_prompt(house) == ["one", "You said: one", "other two"]
    mine = ["one", "You said: one", "other two", "You said: other two"]
    for limit in (1, 3, 50):
        assert await texts(house, branch["session_id"], limit=limit) == mine
        newest = await texts(house, branch["session_id"], limit=limit, order="newest")
        assert newest == mine[::-1]
    assert await texts(house, session_id) == ["one", "You said: one", "two", "You said: two"]
    # The address is still bound to the first session.
    assert (await house.call("conversation.get"))["session_id"] == session_id


async def test_session_fork_ok_at_a_cursor(house: Household) -> None:
    """A fork at a cursor has the state at that cursor, or at the last event before it."""
    first = await house.ask("one")
    newest = house.head()
    await house.ask("elsewhere", sender="other")
    between = house.head()
    await house.ask("two")
    for cursor in (newest, between):
        branch = await fork(house, first["session_id"], at=cursor, title="Another way")
        assert (branch["fork_of"]["cursor"], branch["title"]) == (newest, "Another way")
        await send(house, branch["session_id"], "three")
        assert read_prompt(house) == ["one", "You said: one", "three"]


async def test_session_fork_ok_check_leaves_nothing_behind(idle: Household) -> None:
    """Neither a check nor a repeated request creates a second fork."""
    sent = await idle.send("one")
    head = idle.head()
    assert (await fork(idle, sent["session_id"], check=True))["fork_of"]["cursor"] == head
    assert (idle.head(), idle.sessions()) == (head, 1)
    first = await fork(idle, sent["session_id"], idempotency_key="k")
    assert await fork(idle, sent["session_id"], idempotency_key="k") == first
    assert idle.sessions() == 2


async def test_session_fork_ok_anywhere_in_a_run(house: Household) -> None:
    """At every cursor, even between a call and its result, the fork's model reads a valid transcript."""
    calls: list[Item] = [ToolCall("a", "look", {}), ToolCall("b", "look", {})]
    house.models.answers_to["look"] = lambda request: gives(*calls, stop_reason="tool_calls")
    gate = house.gate("slow")
    sent = await house.send("slow")
    await house.send("queued")
    await gate.reached.wait()
    await house.call("conversation.steer", content="look")
    gate.opened.set()
    await house.call("run.wait", run_id=sent["run_id"])
    with house.state.read() as store:
        lines = [(cursor, line) for cursor, line in store.entries(sent["session_id"])]
    transcript = Transcript()
    for cursor, line in lines:
        transcript.fold(decode_envelope(line), decode_event(line))
        branch = await fork(house, sent["session_id"], at=cursor)
        branched = Transcript(transcript.cursor, list(transcript.entries))
        branched.calls, branched.results = dict(transcript.calls), dict(transcript.results)
        branched.pending = list(transcript.pending)
        branched.fold(Envelope(cursor=cursor + 1, at_ms=0), SessionCreated(agent="default"))
        reading = TranscriptReader(house.state, branch["session_id"])
        assert (await reading.read()).transcript.messages == branched.messages
        assert_valid(branched.messages)
        await send(house, branch["session_id"], "go on")
        assert_valid(house.models.requests[-1].messages)
        assert read_prompt(house)[-1] == "go on"
        # A queued input comes where its run started.
        assert ("queued" in read_prompt(house)) == (
            not transcript.inputs and "queued" in texts_of(transcript)
        )


def texts_of(transcript: Transcript) -> list[str]:
    """Return the texts of a transcript's messages."""
    return [text_of(message.items) for message in transcript.messages]


async def test_session_fork_ok_of_a_fork(house: Household) -> None:
    """A fork can be forked, also before its own fork point."""
    root = (await house.ask("one"))["session_id"]
    head = house.head()
    await house.ask("two")
    first = await fork(house, root)
    await send(house, first["session_id"], "three")
    second = await fork(house, first["session_id"])
    await send(house, second["session_id"], "four")
    assert read_prompt(house)[::2] == ["one", "two", "three", "four"]
    assert await texts(house, second["session_id"], limit=3) == await texts(house, second["session_id"])
    early = await fork(house, second["session_id"], at=head)
    assert early["fork_of"] == (await fork(house, root, at=head))["fork_of"]
    await send(house, early["session_id"], "another two")
    assert read_prompt(house) == ["one", "You said: one", "another two"]


async def test_session_fork_ok_before_and_after_a_summary(house: Household) -> None:
    """A fork before a summary has every message; one after it has the summary, and may add its own."""
    for number in range(5):
        session_id = (await house.ask(f"{number} " + "word " * 100))["session_id"]
    head = house.head()
    done = await house.call("session.compact", session_id=session_id, wait="settled")
    assert done["status"] == "completed"
    early, late = await fork(house, session_id, at=head), await fork(house, session_id)
    await send(house, early["session_id"], "x")
    assert len(read_prompt(house)) == 11
    await send(house, late["session_id"], "x")
    assert len(read_prompt(house)) == 8
    assert "They talked." in read_prompt(house)[0]
    house.models.summary_answers = [lambda request: says("They talked on.")]
    await house.call("session.compact", session_id=late["session_id"], wait="settled")
    await send(house, late["session_id"], "y")
    assert "They talked on." in read_prompt(house)[0]
    await house.ask("z")
    assert "They talked on." not in read_prompt(house)[0]
    assert len(await texts(house, late["session_id"])) == 14


async def test_session_fork_ok_reads_the_parents_checkpoint(house: Household) -> None:
    """A checkpoint from before the fork point is used; a later one is skipped."""
    for number in range(14):
        session_id = (await house.ask(f"{number}"))["session_id"]
    with house.state.read() as store:
        ((key, _),) = store.scan(CHECKPOINTS, session_id)
    for cursor in (None, key[1], key[1] - 1):
        branch = await fork(house, session_id, at=cursor)
        reading = TranscriptReader(house.state, branch["session_id"])
        with house.state.read() as store:
            record = store.need(SESSIONS, branch["session_id"])
            begun = newest_checkpoint(store, lineage(store, record))[0].cursor
        assert begun == (0 if cursor == key[1] - 1 else key[1])
        messages = texts_of((await reading.read()).transcript)
        assert messages == (await texts(house, session_id))[: len(messages)]
        assert (len(messages) == 28) == (cursor is None)


# Rights.


async def test_session_fork_ok_inherits_the_boundary(idle: Household, srv: Path) -> None:
    """A fork has the scope, mode, parent, workspace, route, contracts and metadata of the other session."""
    flag = {"type": "object", "properties": {}, "additionalProperties": False}
    parent = await idle.call("session.create", scope={"tools": ["a", "b"]}, workspace=f"{srv}/a")
    made = await idle.call(
        "session.create",
        parent_session_id=parent["session_id"],
        scope={"tools": ["a"]},
        permission_mode="plan",
        workspace=f"{srv}/a/b",
        route="local",
        model="m",
        title="T",
        metadata={"k": "v"},
        input_contract={"schema": flag},
        output_contract={"schema": flag},
    )
    branch = await fork(idle, made["session_id"])
    names = ("agent", "parent_session_id", "root_session_id", "scope", "permission_mode", "workspace")
    for name in (*names, "route", "model", "title", "metadata", "input_contract", "output_contract"):
        assert branch[name] == made[name], name
    children = await idle.call("session.list", parent_session_id=parent["session_id"])
    assert branch["session_id"] in [row["session_id"] for row in children["sessions"]]


async def test_session_fork_ok_for_another_agent_is_no_wider(idle: Household) -> None:
    """Another agent gets the rights that both allow, and its own route and model."""
    made = await idle.call("session.create", scope={"tools": ["grep", "bash"], "mcp": []}, route="local")
    branch = await fork(idle, made["session_id"], agent="reviewer")
    assert branch["scope"] == {"tools": ["grep"], "mcp": []}
    assert branch["permission_mode"] == "plan"
    assert "route" not in branch
    strict = await idle.call("session.create", agent="reviewer")
    branch = await fork(idle, strict["session_id"], agent="critic")
    assert branch["scope"]["tools"] == ["read_file", "grep"]
    assert branch["permission_mode"] == "plan"


async def test_session_fork_ok_takes_the_rules_that_narrow(idle: Household) -> None:
    """A fork has the narrowing rules of the other session, and not its allow rules."""
    session_id = (await idle.send())["session_id"]
    rules = [{"tool": "bash", "decision": "deny"}, {"tool": "grep", "decision": "allow"}]
    await idle.call("permission.update", session_id=session_id, add=rules)
    branch = await fork(idle, session_id)
    assert [(rule["tool"], rule["decision"]) for rule in branch["rules"]] == [("bash", "deny")]
    assert (await idle.call("session.get", session_id=branch["session_id"])).items() >= branch.items()


async def test_session_fork_a_wider_mode_requires_approve(idle: Household) -> None:
    """A fork with a wider mode requires ``approve``, as a new session does."""
    made = await idle.call("session.create", permission_mode="bypassPermissions")
    operator = await idle.connect_limited(scopes=["read", "operate"])
    refusal = await refusal_of(operator, "session.fork", session_id=made["session_id"])
    assert isinstance(refusal, ScopeMissing)
    assert (await fork(idle, made["session_id"]))["permission_mode"] == "bypassPermissions"


async def test_session_fork_ok_has_the_same_sender(house: Household) -> None:
    """A token that covers the sender of the session may fork it and read the fork."""
    session_id = (await house.ask("mine", sender="ann"))["session_id"]
    ann = await house.connect_limited(senders=["ann"])
    branch = await ann.call("session.fork", session_id=session_id)
    page = await ann.call("session.history", session_id=branch["session_id"])
    assert len(page["messages"]) == 2
    bob = await house.connect_limited(senders=["bob"])
    refusal = await refusal_of(bob, "session.history", session_id=branch["session_id"])
    assert isinstance(refusal, SessionNotFound)


# Refusals.


async def test_session_fork_session_not_found(idle: Household) -> None:
    """An unknown session, and one that the token does not cover, are refused alike."""
    sent = await idle.send(sender="bob")
    ann = await idle.connect_limited(senders=["ann"])
    for client, session_id in ((idle.client, "ses_none"), (ann, sent["session_id"])):
        assert isinstance(await refusal_of(client, "session.fork", session_id=session_id), SessionNotFound)


async def test_session_fork_refuses_cursors_outside_of_the_session(idle: Household) -> None:
    """A cursor before the first event or in the future is refused."""
    await idle.send()
    sent = await idle.send(sender="other")
    first = (await idle.call("session.get", session_id=sent["session_id"]))["created_cursor"]
    for cursor in (0, first - 1, idle.head() + 1):
        refusal = await idle.refusal_of("session.fork", session_id=sent["session_id"], at=cursor)
        assert (type(refusal), refusal.field) == (InvalidParams, "$.params.at")
    assert (await fork(idle, sent["session_id"], at=first))["fork_of"]["cursor"] == first


async def test_session_fork_agent_not_found(idle: Household) -> None:
    """The named agent does not exist, or the session's own agent is gone."""
    made = await idle.call("session.create", agent="critic")
    refusal = await idle.refusal_of("session.fork", session_id=made["session_id"], agent="nobody")
    assert isinstance(refusal, AgentNotFound)
    remaining = {name: agent for name, agent in AGENTS.items() if name != "critic"}
    idle.holder.replace(make_runtime(2, models=idle.models, definitions=remaining))
    assert isinstance(await idle.refusal_of("session.fork", session_id=made["session_id"]), AgentNotFound)
    assert (await fork(idle, made["session_id"], agent="reviewer"))["agent"] == "reviewer"


async def test_session_fork_agent_forbidden(idle: Household) -> None:
    """The caller's token does not cover the agent."""
    sent = await idle.send(agent="critic")
    critic = await idle.connect_limited(agents=["critic"])
    refusal = await refusal_of(critic, "session.fork", session_id=sent["session_id"], agent="reviewer")
    assert isinstance(refusal, AgentForbidden)


async def test_session_fork_cursor_pruned(idle: Household) -> None:
    """A pruned cursor cannot be a fork point."""
    sent = await idle.send()
    mark = sent["cursor"].to_bytes(8, "big")
    await idle.state.update(lambda tx: tx.put(META, f"pruned:{sent['session_id']}", value=mark))
    refusal = await idle.refusal_of("session.fork", session_id=sent["session_id"], at=sent["cursor"] - 1)
    assert isinstance(refusal, CursorPruned)
    assert (await fork(idle, sent["session_id"]))["fork_of"]["cursor"] == sent["cursor"]


async def test_session_fork_too_deep(idle: Household) -> None:
    """The depth of forks of forks is limited, because reading a transcript walks through all of them."""
    session_id = (await idle.send())["session_id"]
    for _ in range(MAX_FORKS):
        session_id = (await fork(idle, session_id))["session_id"]
    assert isinstance(await idle.refusal_of("session.fork", session_id=session_id), TooDeep)
    # A queued input is not part of a fork.
    assert (await idle.call("session.history", session_id=session_id))["messages"] == []


# As a file.


async def test_session_fork_session_already_ended(house: Household) -> None:
    """Nothing opens below a session that has ended or is being closed; a root can be forked after its end."""
    parent = await root(house)
    child = (await spawn(house, parent))["agent_id"]
    inner = (await spawn(house, child))["agent_id"]
    await until(house, inner, "idle")
    await house.call("agent.close", agent=child)
    refusal = await house.refusal_of("session.fork", session_id=inner)
    assert isinstance(refusal, SessionAlreadyEnded)
    assert refusal.field == "$.params.session_id"
    assert (await fork(house, child))["parent_session_id"] == parent
    other = await root(house)
    created = await root(house, parent_session_id=other)
    await house.call("session.end", session_id=other)
    assert isinstance(await house.refusal_of("session.fork", session_id=created), SessionAlreadyEnded)
    assert (await fork(house, other))["status"] == "open"


async def test_a_fork_of_an_agent_has_its_instructions(house: Household) -> None:
    """Also a fork of a fork; one that works as another definition has only those of that."""
    child = (await spawn(house, await root(house), instructions="Be kind."))["agent_id"]
    await until(house, child, "idle")
    branch = await fork(house, child)
    twig = await fork(house, branch["session_id"])
    other = await fork(house, child, agent="critic")
    texts_sent = []
    for session in (branch, twig, other):
        await send(house, session["session_id"], "go on")
        texts_sent.append(house.models.requests[-1].instructions)
    assert ["Be kind." in text for text in texts_sent] == [True, True, False]


async def export_lines(house: Household, session_id: str) -> list[str]:
    """Return the lines of a session's export."""
    lines: list[str] = await pages(house.client, "session.export", "lines", session_id=session_id, limit=3)
    return lines


async def test_a_fork_is_exported_whole(house: Household) -> None:
    """The export begins with the first session, and its hash chain continues across the fork point."""
    session_id = (await house.ask("one"))["session_id"]
    cursor = house.head()
    await house.ask("not in it")
    branch = await fork(house, session_id, at=cursor)
    await send(house, branch["session_id"], "two")
    lines = await export_lines(house, branch["session_id"])
    for size in (1, 4, len(lines)):
        answer: dict[str, Any] = {}
        for begin in range(0, len(lines), size):
            previous = {name: answer[name] for name in ("session_id", "last_hash") if answer}
            part, more = lines[begin : begin + size], begin + size < len(lines)
            answer = await house.call("session.import", lines=part, more=more, **previous)
        assert sorted(await texts(house, answer["session_id"])) == sorted(
            ["one", "You said: one", "two", "You said: two"]
        )
        await send(house, answer["session_id"], "three")
        assert read_prompt(house)[-1] == "three"
        assert_valid(house.models.requests[-1].messages)


async def test_a_fork_without_its_beginning_is_not_imported(house: Household) -> None:
    """The fork point names the hash of the events before it."""
    session_id = (await house.ask("one"))["session_id"]
    unrelated = (await house.ask("else", sender="other"))["session_id"]
    branch = await fork(house, session_id)
    lines = await export_lines(house, branch["session_id"])
    own = lines[-1:]
    for wrong in (own, lines[:-2] + own, await export_lines(house, unrelated) + own):
        assert isinstance(await house.refusal_of("session.import", lines=wrong), ImportInvalid)


async def test_a_fork_inherits_the_origins(house: Household) -> None:
    """Its model has read what the session's model read, also in a run that has not ended."""
    session_id = (await house.ask("ring", origin="event"))["session_id"]
    assert (await fork(house, session_id))["origins"] == ["event"]
    gate = house.gate_next()
    await house.send("slow", origin="connector")
    await gate.reached.wait()
    assert (await fork(house, session_id))["origins"] == ["event", "connector"]
    gate.opened.set()
