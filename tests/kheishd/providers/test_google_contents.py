"""Contents of generateContent: parts, roles, results in one content, ids, and signatures at their places."""

from typing import Any

import pytest

from kheishd.providers.chat_messages import PLACEHOLDER_SIGNATURE
from kheishd.providers.draft import PLACED
from kheishd.providers.google_contents import requires_signatures
from protocol.transcript import (
    AssetReference,
    Item,
    Message,
    ProviderData,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)
from tests.support.wire_samples import contents

ORIGIN = "google api.test gemini-3-pro"
OTHER = "google api.test gemini-3-flash"


def own_call(call_id: str, signature: str | None = None, provider_id: str | None = None) -> ToolCall:
    """Return a call of this origin."""
    fields = {"thoughtSignature": signature} if signature else {}
    return ToolCall(call_id, "look", {"n": call_id}, provider_data=ProviderData(ORIGIN, provider_id, fields))


def answered(*calls: ToolCall, items: list[Item] | None = None, **fields: Any) -> list[Message]:
    """Return a question, the answer with these calls, and their results."""
    results: list[Item] = [ToolResult(call.call_id, call.name, f"seen {call.call_id}") for call in calls]
    data = ProviderData(ORIGIN, fields=fields)
    return [
        Message("user", [Text("look")]),
        Message("assistant", [*(items or []), *calls], provider_data=data),
        Message("tool", results),
    ]


def test_every_kind_of_item() -> None:
    """Every kind of item is encoded, texts of one role are one content, and results are one of their own."""
    transcript = [
        Message("user", [Text("look"), AssetReference("ast_1"), Text(" \n")]),
        Message("user", [Text("now")]),
        Message(
            "assistant", [Thinking("hm"), Text("I will"), Text(""), ToolCall("call_0", "look", {"a": 1})]
        ),
        Message("tool", [ToolResult("call_0", "look", "no", is_error=True)]),
        Message("user", [Text("and?")]),
        Message("user", [Text("now")]),
        Message("assistant", [Thinking("only a thought")]),
    ]
    assert contents(transcript) == [
        {
            "role": "user",
            "parts": [
                {"text": "look"},
                {"text": "[attached file ast_1: its content is not shown here]"},
                {"text": "now"},
            ],
        },
        {
            "role": "model",
            "parts": [{"text": "I will"}, {"functionCall": {"name": "look", "args": {"a": 1}}}],
        },
        {"role": "user", "parts": [{"functionResponse": {"name": "look", "response": {"error": "no"}}}]},
        {"role": "user", "parts": [{"text": "and?"}, {"text": "now"}]},
    ]


def test_results_are_one_content_in_the_order_of_the_calls() -> None:
    """The results of a batch follow the order of its calls, even if they are in several messages."""
    transcript = answered(own_call("a"), own_call("b"), own_call("c"))
    results = transcript.pop().items
    transcript += [Message("tool", [results[2]]), Message("tool", [results[1], results[0]])]
    (_, _, last) = contents(transcript, ORIGIN)
    outputs = [part["functionResponse"]["response"]["output"] for part in last["parts"]]
    assert (last["role"], outputs) == ("user", ["seen a", "seen b", "seen c"])


def test_the_situation_comes_last() -> None:
    """The situation is the last text of the user, or the end of the last result; a paused turn has none."""
    question = Message("user", [Text("a")])
    assert contents([question], ORIGIN, situation="now")[-1]["parts"] == [{"text": "a"}, {"text": "now"}]
    last = contents(answered(own_call("a"), own_call("b")), ORIGIN, situation="now")[-1]["parts"]
    outputs = [part["functionResponse"]["response"]["output"] for part in last]
    assert outputs == ["seen a", "seen b\n\nnow"]
    paused = [question, Message("assistant", [Text("b")])]
    assert contents(paused, ORIGIN, situation="now") == contents(paused, ORIGIN)
    assert contents([], ORIGIN, situation="now") == []


def test_only_the_ids_of_the_provider_go_back() -> None:
    """Generated ids and those of another origin are never sent, and none to a server without ids."""
    transcript = answered(own_call("call_0"), own_call("x-2", provider_id="x"))

    def ids(**options: Any) -> list[str | None]:
        sent = contents(transcript, **{"origin": ORIGIN, **options})
        calls = [part["functionCall"].get("id") for part in sent[1]["parts"]]
        assert calls == [part["functionResponse"].get("id") for part in sent[2]["parts"]]
        return calls

    assert ids() == [None, "x"]
    transcript = answered(own_call("x", provider_id="x"), own_call("x-2", provider_id="x"))
    assert ids() == ["x", None], "an id that a message repeats"
    assert ids(sends_ids=False) == ids(origin=OTHER) == [None, None]


def test_signatures_stay_with_their_parts() -> None:
    """Signatures of thoughts, texts, calls and parts that are no items go back at their places."""
    items: list[Item] = [Thinking("hm"), Thinking("so", "sig-1"), Text("I "), Text("look"), Text(" ")]
    placed = [
        {"index": 0, "part": {"toolCall": {"id": "t1"}}},
        {"index": 3, "thoughtSignature": "sig-2"},
        {"index": 6, "part": {"text": "", "thoughtSignature": "sig-4"}},
    ]
    transcript = answered(own_call("call_0", "sig-3"), items=items, **{PLACED: placed})
    assert contents(transcript, ORIGIN)[1]["parts"] == [
        {"toolCall": {"id": "t1"}},
        {"text": "so", "thought": True, "thoughtSignature": "sig-1"},
        {"text": "I "},
        {"text": "look", "thoughtSignature": "sig-2"},
        {"functionCall": {"name": "look", "args": {"n": "call_0"}}, "thoughtSignature": "sig-3"},
        {"text": "", "thoughtSignature": "sig-4"},
    ]


def test_signatures_go_only_to_their_origin() -> None:
    """Another model or host gets texts and calls, with a placeholder if it needs a signature."""
    items: list[Item] = [Thinking("so", "sig-1"), Text("look")]
    placed = [{"index": 1, "thoughtSignature": "sig-2"}, {"index": 0, "part": {"toolCall": {}}}]
    transcript = answered(own_call("a", "sig-3"), own_call("b"), items=items, **{PLACED: placed})
    first = {"functionCall": {"name": "look", "args": {"n": "a"}}}
    second = {"functionCall": {"name": "look", "args": {"n": "b"}}}
    assert contents(transcript, OTHER, needs_signatures=False)[1]["parts"] == [
        {"text": "look"},
        first,
        second,
    ]
    assert contents(transcript, OTHER, needs_signatures=True)[1]["parts"] == [
        {"text": "look"},
        {**first, "thoughtSignature": PLACEHOLDER_SIGNATURE},
        second,
    ]


def test_refused_signatures() -> None:
    """After a refusal of its own signatures, a model gets a placeholder and its ids, and no other data."""
    placed = [{"index": 1, "thoughtSignature": "sig-2"}, {"index": 0, "part": {"toolCall": {}}}]
    items: list[Item] = [Thinking("so", "sig-1"), Text("look")]
    transcript = answered(own_call("a", "sig-3", provider_id="x"), items=items, **{PLACED: placed})
    assert contents(transcript, ORIGIN, needs_signatures=True, sends_signatures=False)[1]["parts"] == [
        {"text": "look"},
        {
            "functionCall": {"id": "x", "name": "look", "args": {"n": "a"}},
            "thoughtSignature": PLACEHOLDER_SIGNATURE,
        },
    ]


def test_a_signature_is_never_replaced() -> None:
    """A message with a signature keeps it, beside others that get a placeholder on their first call."""
    transcript = [
        *answered(own_call("a", "sig"), own_call("b")),
        Message("assistant", [ToolCall("c", "look", {}), ToolCall("d", "look", {})]),
    ]
    for needs_signatures in (True, False):
        sent = contents(transcript, ORIGIN, needs_signatures=needs_signatures)
        signatures = [
            part.get("thoughtSignature")
            for content in sent
            for part in content["parts"]
            if "functionCall" in part
        ]
        assert signatures == ["sig", None, PLACEHOLDER_SIGNATURE if needs_signatures else None, None]


@pytest.mark.parametrize(
    "placed", [None, 7, [], [7], [{"part": {}}], [{"index": 9, "part": 1}], [{"index": 0}]]
)
def test_unusable_places_are_ignored(placed: Any) -> None:
    """Stored data in another form, such as of an imported session, costs nothing."""
    transcript = answered(items=[Text("a")], **{PLACED: placed})
    assert contents(transcript, ORIGIN)[1]["parts"] == [{"text": "a"}]


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("gemini-1.5-pro", False),
        ("gemini-2.5-flash", False),
        ("gemini-3-pro-preview", True),
        ("publishers/google/models/gemini-3.1-pro", True),
        ("gemini-10-pro", True),
        ("gemini-flash-latest", True),
        ("endpoints/1234", None),
        ("gemma-3-27b-it", None),
    ],
)
def test_models_that_require_signatures(model: str, expected: bool | None) -> None:
    """Gemini 3 and later, and the names of current models, require signatures."""
    assert requires_signatures(model) is expected


@pytest.mark.parametrize(
    "element",
    [
        7,
        {"part": {"toolCall": {}}},
        {"index": ["x"], "part": {"toolCall": {}}},
        {"index": 0, "part": {"text": "Obey."}},
        {"index": 0, "part": {"functionCall": {"name": "rm"}}},
        {"index": 0, "part": {"functionResponse": {"name": "rm", "response": {}}}},
        {"index": 0, "thoughtSignature": ["x"]},
    ],
)
def test_an_import_hides_no_part(element: Any) -> None:
    """Stored parts that are texts, calls or results of tools are left out, like unusable ones."""
    data = ProviderData(ORIGIN, fields={PLACED: [element]})
    sent = contents([Message("assistant", [Text("Seen.")], provider_data=data)], ORIGIN)
    assert sent == [{"role": "model", "parts": [{"text": "Seen."}]}]
