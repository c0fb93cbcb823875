"""Export and import over the socket; a changed file is not imported."""

import hashlib
import json
from typing import Any

import pytest

from kheishd.store.journal import NO_HASH
from protocol.errors.conversation import SenderForbidden
from protocol.errors.definition import AgentForbidden, AgentNotFound
from protocol.errors.rpc import InvalidParams
from protocol.errors.session import ExportKeyUnusable, ImportInvalid, InputTooLarge, SessionNotFound
from protocol.export import ExportEnd, encode_end
from protocol.limits.session import MAX_IMPORT_BYTES, MAX_IMPORT_LINE_BYTES
from protocol.transcript import Item, ToolCall, text_of
from tests.support.desk import gives
from tests.support.household import Household, pages, refusal_of
from tests.support.transcripts import assert_valid


async def export_lines(house: Household, session_id: str, limit: int = 50) -> list[str]:
    """Return the lines of a session's export."""
    lines: list[str] = await pages(
        house.client, "session.export", "lines", session_id=session_id, limit=limit
    )
    return lines


async def texts(house: Household, session_id: str) -> list[tuple[str, str]]:
    """Return the roles and texts of a session's history."""
    rows = await pages(house.client, "session.history", "messages", session_id=session_id)
    return [(row["message"]["role"], row["message"]["items"][0]["text"]) for row in rows]


def chain_lines(*events: Any, end: bool = True) -> list[str]:
    """Return lines with a valid hash chain and end for any events; raw JSON text is used unchanged."""
    digest, cursor, lines = NO_HASH, 0, []
    for cursor, event in enumerate(events, 1):
        line = event if isinstance(event, str) else json.dumps({"cursor": cursor, "at_ms": 1, **event})
        digest = hashlib.sha256(digest + line.encode()).digest()
        lines.append(f'{{"hash":"{digest.hex()}","event":{line}}}')
    return [*lines, make_end(len(lines), cursor, digest)] if end else lines


def make_end(lines: int, cursor: int, digest: bytes) -> str:
    """Return the last line of an export."""
    return encode_end(
        ExportEnd(
            session_id="ses_x", lines=lines, cursor=cursor, hash=digest.hex(), epoch="e", exported_at_ms=1
        )
    )


async def import_in_parts(house: Household, lines: list[str], size: int) -> list[dict[str, Any]]:
    """Import lines in parts of a size; return the answers."""
    answers: list[dict[str, Any]] = []
    for begin in range(0, len(lines), size):
        previous = {name: answers[-1][name] for name in ("session_id", "last_hash") if answers}
        more = begin + size < len(lines)
        answers.append(
            await house.call("session.import", lines=lines[begin : begin + size], more=more, **previous)
        )
    return answers


BEGUN = {"type": "session_created", "agent": "default", "session_id": "ses_x"}


def input_event(number: int, text: str = "x") -> dict[str, Any]:
    """Return the event of an input."""
    items = [{"kind": "text", "text": text}]
    return {"type": "input_received", "input_id": f"i{number}", "run_id": f"r{number}", "items": items}


TEXT = {"kind": "text", "text": "x"}
CALL = {"kind": "tool_call", "call_id": "c1", "name": "look", "arguments": {}}


def message(role: str, *items: dict[str, Any], **fields: str) -> dict[str, Any]:
    """Return the event of a message."""
    message = {"role": role, "items": list(items), **fields}
    return {"type": "message_appended", "item_id": "i", "message": message}


def result(call_id: str, name: str = "look") -> dict[str, Any]:
    """Return a result."""
    return {"kind": "tool_result", "call_id": call_id, "name": name, "text": "seen"}


# session.export


async def test_session_export_ok(house: Household) -> None:
    """The export holds the journal's own lines and a hash chain that anybody can verify, in pages."""
    sent = await house.ask("one")
    for limit in (1, 3, 50):
        lines = await export_lines(house, sent["session_id"], limit)
        digest = NO_HASH
        *lines, last = lines
        for line in lines:
            event = line[len('{"hash":"') + 64 + len('","event":') : -1]
            digest = hashlib.sha256(digest + event.encode()).digest()
            assert json.loads(line) == {"hash": digest.hex(), "event": json.loads(event)}
        assert [json.loads(line)["event"]["type"] for line in lines] == await house.kinds(
            session_id=sent["session_id"]
        )
        end = json.loads(last)["end"]
        assert (end["lines"], end["hash"]) == (len(lines), digest.hex())
        assert end["cursor"] == json.loads(lines[-1])["event"]["cursor"]
    for token in ("x", "9" * 20):
        refusal = await house.refusal_of("session.export", session_id=sent["session_id"], after=token)
        assert isinstance(refusal, InvalidParams)


async def test_session_export_session_not_found(house: Household) -> None:
    """An unknown session, and one that the token does not cover, are refused alike."""
    sent = await house.ask(sender="bob")
    ann = await house.connect_limited(senders=["ann"])
    for client, session_id in ((house.client, "ses_none"), (ann, sent["session_id"])):
        assert isinstance(await refusal_of(client, "session.export", session_id=session_id), SessionNotFound)


# session.import


async def test_session_import_ok(house: Household) -> None:
    """An import is a new session with the same messages, which can be continued."""
    for text in ("one", "two"):
        sent = await house.ask(text)
    await house.call("session.rename", session_id=sent["session_id"], title="A title")
    lines = await export_lines(house, sent["session_id"])
    imported = await house.call("session.import", lines=lines)
    session_id = imported["session_id"]
    assert session_id != sent["session_id"]
    assert (imported["messages"], imported["last_hash"]) == (4, json.loads(lines[-2])["hash"])
    assert await texts(house, session_id) == await texts(house, sent["session_id"])
    again = await house.call("session.send", session_id=session_id, content="three", wait="settled")
    assert again["output"] == "You said: three"
    assert len(house.models.requests[-1].messages) == 5
    # An imported session can be exported and imported again.
    second = await house.call("session.import", lines=await export_lines(house, session_id))
    assert await texts(house, second["session_id"]) == await texts(house, session_id)


async def test_session_import_ok_in_parts(house: Household) -> None:
    """Each part names the session and the hash that it continues."""
    for text in ("one", "two", "three"):
        sent = await house.ask(text)
    lines = await export_lines(house, sent["session_id"])
    answers = await import_in_parts(house, lines, 4)
    assert sum(answer["messages"] for answer in answers) == 6
    imported = await texts(house, answers[-1]["session_id"])
    assert sorted(imported) == sorted(await texts(house, sent["session_id"]))


async def test_session_import_ok_in_the_order_the_model_read(house: Household) -> None:
    """A queued input comes after the answer of the run before it; a cancelled one is left out."""
    gate = house.gate("slow")
    first = await house.send("slow")
    await house.send("second")
    cancelled = await house.send("cancelled")
    last = await house.send("last")
    await house.call("run.cancel", run_id=cancelled["run_id"])
    await gate.reached.wait()
    gate.opened.set()
    await house.call("run.wait", run_id=last["run_id"])
    imported = await house.call("session.import", lines=await export_lines(house, first["session_id"]))
    assert await texts(house, imported["session_id"]) == [
        ("user", "slow"),
        ("assistant", "so far and so on"),
        ("user", "second"),
        ("assistant", "You said: second"),
        ("user", "last"),
        ("assistant", "You said: last"),
    ]


async def test_session_import_ok_with_calls_and_steers(house: Household) -> None:
    """However the file is cut, the model reads every call with its result right after it."""
    calls: list[Item] = [ToolCall("a", "look", {}), ToolCall("b", "look", {})]
    house.models.answers_to["look"] = lambda request: gives(*calls, stop_reason="tool_calls")
    gate = house.gate("slow")
    sent = await house.send("slow")
    await gate.reached.wait()
    await house.call("conversation.steer", content="look")
    gate.opened.set()
    await house.call("run.wait", run_id=sent["run_id"])
    lines = await export_lines(house, sent["session_id"])
    for size in (1, 2, 3, len(lines)):
        answer = (await import_in_parts(house, lines, size))[-1]
        await house.call("session.send", session_id=answer["session_id"], content="x", wait="settled")
        messages = house.models.requests[-1].messages
        assert_valid(messages)
        assert [message.role for message in messages].count("tool") == 1
        assert {"slow", "look", "x"} <= {text_of(message.items) for message in messages}


async def test_session_import_ok_with_steers_before_the_run_started(house: Household) -> None:
    """A steer before the start of its run belongs to the run's input."""
    steered = {
        "type": "steered",
        "steer_id": "s1",
        "run_id": "r1",
        "items": [{"kind": "text", "text": "two"}],
    }
    started = {"type": "run_started", "starts": 1, "run_id": "r1"}
    imported = await house.call(
        "session.import", lines=chain_lines(BEGUN, input_event(1, "one"), steered, started)
    )
    assert imported["messages"] == 1
    history = await house.call("session.history", session_id=imported["session_id"])
    assert [item["text"] for item in history["messages"][0]["message"]["items"]] == ["one", "two"]
    lines = chain_lines(BEGUN, input_event(1, "one"), steered | {"origin": "event"}, started)
    for parts in ([lines], [lines[:3], lines[3:]]):
        answer: dict[str, Any] = {}
        for number, part in enumerate(parts, 1):
            previous = {name: answer[name] for name in ("session_id", "last_hash") if answer}
            more = number < len(parts)
            answer = await house.call("session.import", lines=part, more=more, **previous)
        history = await house.call("session.history", session_id=answer["session_id"])
        origins = [message["message"].get("origin", "person") for message in history["messages"]]
        assert origins == ["person", "event"]


async def test_session_import_ok_with_notes_about_shells(house: Household) -> None:
    """Notes that the model read about a shell are imported; the task is not."""
    model_asked = {"type": "model_asked", "item_id": "i", "turn": 1, "attempt": 1, "run_id": "r1"}
    ended = {
        "type": "task_ended",
        "task_id": "tsk_1",
        "status": "completed",
        "terminal_reason": "exited",
        "note": "It ended.",
    }
    started = {"type": "run_started", "starts": 1, "run_id": "r1"}
    lines = chain_lines(BEGUN, input_event(1, "one"), started, ended, model_asked)
    imported = await house.call("session.import", lines=lines)
    assert await texts(house, imported["session_id"]) == [("user", "one"), ("user", "It ended.")]
    assert (await house.call("task.list", session_id=imported["session_id"], status="any"))["tasks"] == []


async def test_session_import_ok_with_pending_inputs(house: Household) -> None:
    """An input that waited at the time of the export is imported."""
    gate = house.gate("slow")
    sent = await house.send("slow")
    await house.send("waiting")
    await gate.reached.wait()
    imported = await house.call("session.import", lines=await export_lines(house, sent["session_id"]))
    assert await texts(house, imported["session_id"]) == [("user", "slow"), ("user", "waiting")]
    gate.opened.set()


async def test_session_import_ok_check_leaves_nothing_behind(house: Household) -> None:
    """Neither a check nor a repeated request imports a second time."""
    sent = await house.ask("one")
    lines = await export_lines(house, sent["session_id"])
    head = house.head()
    assert (await house.call("session.import", lines=lines, check=True))["messages"] == 2
    assert (house.head(), house.sessions()) == (head, 1)
    first = await house.call("session.import", lines=lines, idempotency_key="k")
    assert await house.call("session.import", lines=lines, idempotency_key="k") == first
    assert house.sessions() == 2


async def test_session_import_ok_skips_unknown_events(house: Household) -> None:
    """Unknown events of a later version are skipped."""
    lines = chain_lines(BEGUN, {"type": "something_new", "field": [1]}, input_event(1))
    assert (await house.call("session.import", lines=lines))["messages"] == 1


async def test_session_import_import_invalid(house: Household) -> None:
    """A changed, missing, moved, truncated or forged line is found, and nothing is imported."""
    sent = await house.ask("one")
    lines = await export_lines(house, sent["session_id"])
    sessions = house.sessions()
    wrong = [
        [*lines[:2], lines[2].replace("one", "two"), *lines[3:]],
        [*lines[:2], *lines[3:]],
        [lines[1], lines[0], *lines[2:]],
        lines[1:],
        [*lines[:-1], lines[-1][:-10]],
        ["{}"],
        ["[]"],
        ["not JSON"],
        ['{"hash":"00","event":5}'],
        ['{"hash":"zz","event":{}}'],
        chain_lines({"type": "input_received", "input_id": "i", "items": []}),
        chain_lines({**BEGUN, "title": "t" * 10_000}),
        chain_lines(BEGUN, '{"cursor":2,"at_ms":1,"type":"input_received","input_id":5}'),
        chain_lines(BEGUN, '{"cursor":2,"at_ms":1,"type":"new","deep":' + "[" * 600 + "]" * 600 + "}"),
        chain_lines(BEGUN, '{"cursor":2,"at_ms":1,"type":"new","deep":' + "[" * 5000 + "]" * 5000 + "}"),
    ]
    for damaged in wrong:
        assert isinstance(await house.refusal_of("session.import", lines=damaged), ImportInvalid), damaged
    assert house.sessions() == sessions


async def test_session_import_import_invalid_when_a_part_is_missing(house: Household) -> None:
    """A part continues the previous one only."""
    sent = await house.ask("one")
    lines = await export_lines(house, sent["session_id"])
    begun = await house.call("session.import", lines=lines[:3], more=True)
    good = {"session_id": begun["session_id"], "last_hash": begun["last_hash"]}
    for wrong in (
        good | {"last_hash": "00" * 32},
        good | {"session_id": sent["session_id"]},
    ):
        refusal = await house.refusal_of("session.import", lines=lines[3:], **wrong)
        assert isinstance(refusal, ImportInvalid)
    for incomplete in (
        {"session_id": begun["session_id"]},
        {"last_hash": begun["last_hash"]},
        good | {"last_hash": "x"},
    ):
        refusal = await house.refusal_of("session.import", lines=lines[3:], **incomplete)
        assert isinstance(refusal, InvalidParams)
    await house.call("session.rename", session_id=begun["session_id"], title="meanwhile")
    assert isinstance(await house.refusal_of("session.import", lines=lines[3:], **good), ImportInvalid)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ('{"n":' * 300 + "1" + "}" * 300, "deeper than 256 levels"),
        ('{"n":18446744073709551616}', "more than 64 bits"),
    ],
)
async def test_session_import_import_invalid_values(house: Household, arguments: str, words: str) -> None:
    """Values that would make the session unreadable are refused."""
    call = f'{{"kind":"tool_call","call_id":"c","name":"t","arguments":{arguments}}}'
    message = f'{{"role":"assistant","items":[{call}]}}'
    line = f'{{"cursor":3,"at_ms":1,"type":"message_appended","item_id":"i","message":{message}}}'
    refusal = await house.refusal_of("session.import", lines=chain_lines(BEGUN, input_event(1), line))
    assert isinstance(refusal, ImportInvalid)
    assert "line 3" in refusal.message
    assert words in refusal.message


@pytest.mark.parametrize(
    ("events", "line", "words"),
    [
        ([message("user", CALL)], 3, "role 'user' has an item of the kind 'tool_call'"),
        ([message("tool", result("c1"))], 3, "the call 'c1', which does not exist"),
        ([message("assistant", CALL), message("tool", result("c1")), message("tool", result("c1"))], 5, "c1"),
        ([message("assistant", CALL), message("user", TEXT)], 4, "'c1' has no result before"),
        ([message("assistant", CALL), message("assistant", TEXT)], 4, "'c1' has no result before"),
        ([message("assistant", CALL, CALL)], 3, "two calls have the id 'c1'"),
        ([message("assistant", TEXT), message("assistant", TEXT)], 4, "follows another one"),
        ([message("assistant", CALL), message("tool", result("c1", "other"))], 4, "names another tool"),
        ([message("assistant")], 3, "has no content"),
        ([message("user", {"kind": "text", "text": ""})], 3, "has no content"),
        ([message("assistant", TEXT, agent="x\n\x1b[2J")], 3, "a name that no agent can have"),
    ],
)
@pytest.mark.parametrize("size", [1, 100])
async def test_session_import_import_invalid_transcript(
    house: Household, events: list[dict[str, Any]], line: int, words: str, size: int
) -> None:
    """A transcript that a provider would refuse is refused, with its line; in parts as well as whole."""
    lines = chain_lines(BEGUN, message("user", TEXT), *events)
    with pytest.raises(ImportInvalid) as refused:
        await import_in_parts(house, lines, size)
    assert f"line {line} makes a transcript that is not valid" in refused.value.message
    assert words in refused.value.message


async def test_session_import_import_invalid_first_message(house: Household) -> None:
    """A transcript that begins with an answer is refused."""
    lines = chain_lines(BEGUN, message("assistant", TEXT))
    refusal = await house.refusal_of("session.import", lines=lines)
    assert "begins with a message of the assistant" in refusal.message


async def test_session_import_ok_closes_open_calls(house: Household) -> None:
    """The calls of an export that ended while they ran get a result, so the transcript is valid."""
    lines = chain_lines(BEGUN, message("user", TEXT), message("assistant", CALL))
    imported = await house.call("session.import", lines=lines)
    assert imported["messages"] == 3
    await house.call("session.send", session_id=imported["session_id"], content="x", wait="settled")
    assert_valid(house.models.requests[-1].messages)


async def test_session_import_import_invalid_end(house: Household) -> None:
    """An export without its end, or with lines missing before it, is refused as truncated."""
    lines = await export_lines(house, (await house.ask("one"))["session_id"])
    for truncated, words in (
        (lines[:-1], "truncated: after line"),
        ([*lines[:-2], lines[-1]], f"truncated at line {len(lines) - 1}"),
        (lines[:1], "truncated: after line 1"),
    ):
        refusal = await house.refusal_of("session.import", lines=truncated)
        assert words in refusal.message, truncated
    assert house.sessions() == 1
    assert (await house.call("session.import", lines=lines[:-1], without_end=True))["messages"] == 2


async def test_session_import_ok_signed(house: Household) -> None:
    """The key that signed an export is named; an import may require it."""
    sent = await house.ask("one")
    own = (await house.call("session.key"))["key"]
    signed: list[str] = await pages(
        house.client, "session.export", "lines", session_id=sent["session_id"], sign=True
    )
    assert (await house.call("session.import", lines=signed, signed_by=own))["signed_by"] == own
    plain = await export_lines(house, sent["session_id"])
    other = "ed25519:" + "A" * 43 + "="
    for lines, key, problem in ((plain, own, "is not signed"), (signed, other, f"not by the key {other}")):
        refusal = await house.refusal_of("session.import", lines=lines, signed_by=key)
        assert problem in refusal.message
    forged = [*signed[:-1], signed[-1].replace('"lines":', '"lines": ')]
    assert (await house.call("session.import", lines=forged))["signed_by"] == own, "the same values"
    forged = [*signed[:-1], signed[-1].replace('"exported_at_ms":', '"exported_at_ms":1')]
    assert own in (await house.refusal_of("session.import", lines=forged)).message


async def test_session_export_ok_with_a_forged_token(house: Household) -> None:
    """A token with a wrong number of lines spoils the end of that export, never a signed one."""
    sent = await house.ask("one")
    lines = await export_lines(house, sent["session_id"])
    for signed, count in ((False, 1), (True, len(lines) - 1)):
        params = {"session_id": sent["session_id"], "after": "99999-1", "sign": signed}
        (end,) = (await house.call("session.export", **params))["lines"]
        assert json.loads(end)["end"]["lines"] == count
    old = await house.call("session.export", session_id=sent["session_id"], after="99999")
    assert json.loads(old["lines"][0])["end"]["lines"] == len(lines) - 1


async def test_session_key_ok(house: Household) -> None:
    """The key is the same each time."""
    key = (await house.call("session.key"))["key"]
    assert key == (await house.call("session.key"))["key"]
    assert key.startswith("ed25519:")


async def test_session_key_export_key_unusable(house: Household) -> None:
    """A key that cannot be read or made is a refusal of its own."""
    house.control.problem = "it is a directory"
    assert isinstance(await house.refusal_of("session.key"), ExportKeyUnusable)


async def test_session_export_export_key_unusable(house: Household) -> None:
    """Without its key, a home signs no export; it still exports."""
    sent = await house.ask("one")
    house.control.problem = "it is a directory"
    refusal = await house.refusal_of("session.export", session_id=sent["session_id"], sign=True)
    assert isinstance(refusal, ExportKeyUnusable)
    assert await export_lines(house, sent["session_id"])


async def test_session_import_input_too_large(house: Household) -> None:
    """A part is one transaction, and metadata has its usual limit."""
    half = "ä" * (MAX_IMPORT_BYTES // 4)
    refusal = await house.refusal_of(
        "session.import", lines=chain_lines(BEGUN, input_event(1, half), input_event(2, half))
    )
    assert isinstance(refusal, InputTooLarge)
    refusal = await house.refusal_of("session.import", lines=["x" * (MAX_IMPORT_LINE_BYTES + 1)])
    assert isinstance(refusal, InputTooLarge)
    refusal = await house.refusal_of(
        "session.import", lines=chain_lines({**BEGUN, "metadata": {"a": "b" * 20_000}})
    )
    assert isinstance(refusal, InputTooLarge)


async def test_session_import_ok_up_to_its_limits(house: Household) -> None:
    """The largest part and the longest answer fit into their transactions."""
    lines = chain_lines(BEGUN, *(input_event(number, "x" * 260) for number in range(400)))
    assert 150_000 < sum(map(len, lines)) < MAX_IMPORT_BYTES
    assert (await house.call("session.import", lines=lines))["messages"] == 400
    answer = {"role": "assistant", "items": [{"kind": "text", "text": "x" * 196_000}]}
    started = {"type": "run_started", "starts": 1, "run_id": "r1"}
    appended = {"type": "message_appended", "item_id": "i", "message": answer}
    lines = chain_lines(BEGUN, input_event(1), started, appended)
    begun = await house.call("session.import", lines=lines[:3], more=True)
    going_on = {name: begun[name] for name in ("session_id", "last_hash")}
    continued = await house.call("session.import", lines=[lines[3]], more=True, **going_on)
    assert continued["messages"] == 1
    going_on = {name: continued[name] for name in ("session_id", "last_hash")}
    assert (await house.call("session.import", lines=[lines[4]], **going_on))["messages"] == 0


async def test_session_import_agent_not_found(house: Household) -> None:
    """The agent of the export is not defined here; another one can be named."""
    lines = chain_lines({**BEGUN, "agent": "elsewhere"}, input_event(1))
    assert isinstance(await house.refusal_of("session.import", lines=lines), AgentNotFound)
    imported = await house.call("session.import", lines=lines, agent="critic")
    assert (await house.call("session.get", session_id=imported["session_id"]))["agent"] == "critic"


async def test_session_import_agent_forbidden(house: Household) -> None:
    """The caller's token does not cover the agent."""
    critic = await house.connect_limited(agents=["critic"])
    assert isinstance(await refusal_of(critic, "session.import", lines=chain_lines(BEGUN)), AgentForbidden)


async def test_session_import_sender_forbidden(house: Household) -> None:
    """A token that covers certain senders imports no session, because it has no sender."""
    ann = await house.connect_limited(senders=["ann"])
    assert isinstance(await refusal_of(ann, "session.import", lines=chain_lines(BEGUN)), SenderForbidden)


async def test_session_import_session_not_found(house: Household) -> None:
    """An unknown session, and one that the token does not cover, are refused alike."""
    lines = chain_lines(BEGUN, input_event(1))
    begun = await house.call("session.import", lines=lines[:1], more=True)
    critic = await house.connect_limited(agents=["critic"])
    for client, session_id in ((house.client, "ses_none"), (critic, begun["session_id"])):
        part = {"lines": lines[1:], "session_id": session_id, "last_hash": begun["last_hash"]}
        assert isinstance(await refusal_of(client, "session.import", **part), SessionNotFound)


# Origins.


async def test_an_import_keeps_the_origins(house: Household) -> None:
    """An imported message has the origin that it had, and the session has read it."""
    session_id = (await house.ask("ring", origin="event", source="bell"))["session_id"]
    lines = await export_lines(house, session_id)
    copy = (await house.call("session.import", lines=lines))["session_id"]
    (first, _) = (await house.call("session.history", session_id=copy))["messages"]
    assert (first["message"]["origin"], first["message"]["source"]) == ("event", "bell")
    assert (await house.call("session.get", session_id=copy))["origins"] == ["event"]


async def test_an_import_is_no_more_trusted_than_its_token(house: Household) -> None:
    """A token that fixes the origin imports no person's words."""
    session_id = (await house.ask("hello"))["session_id"]
    lines = await export_lines(house, session_id)
    bridge = await house.connect_limited(scopes=["read", "operate"], origin="connector")
    copy = (await bridge.call("session.import", lines=lines))["session_id"]
    assert (await house.call("session.get", session_id=copy))["origins"] == ["connector"]
    (first, _) = (await house.call("session.history", session_id=copy))["messages"]
    assert first["message"]["origin"] == "connector"
