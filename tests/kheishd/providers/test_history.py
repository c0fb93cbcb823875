"""Histories: a request with kept messages is the same, byte for byte, as one that is made from scratch."""

import tracemalloc
from collections.abc import Callable, Sequence
from hashlib import sha256
from random import Random
from typing import Any

import pytest
from msgspec import Raw
from msgspec.structs import replace

from kheishd.core.context.encodings import MAX_FORMS, MessageEncodings
from kheishd.kernel.runtime import ModelRequest
from kheishd.providers.caller import find_driver
from kheishd.providers.chat_messages import ChatHistory, ChatRules
from kheishd.providers.driver import HttpRequest
from kheishd.providers.history import DriverHistory, follow
from kheishd.providers.traits import USUAL_TRAITS, Traits
from protocol.objects.run import Pinned
from protocol.transcript import Item, Message, ProviderData, Text, ToolCall, ToolResult
from tests.support.wire_samples import BASE_URL, MODELS, Conversation

ORIGIN = "openai api.test qwen3"
SEEDS = range(60)

GOLDEN = {
    "openai": "90f351b5bd61eef8",
    "responses": "70166ba0a2342717",
    "anthropic": "d80c07bb0d76d11a",
    "google": "b80e9e78ab839574",
}
"""The digests of the requests of all conversations, before histories were kept."""

every_driver = pytest.mark.parametrize("driver", MODELS)


def post(request: ModelRequest, traits: Traits = USUAL_TRAITS) -> HttpRequest:
    """Return the HTTP request of a model call."""
    driver = find_driver(request.pinned.driver)
    assert driver is not None
    return driver.post(request, BASE_URL, "secret", traits)


def require_same(request: ModelRequest, encodings: MessageEncodings, traits: Traits = USUAL_TRAITS) -> None:
    """Require that a request with kept messages is one that is made from scratch."""
    kept = post(replace(request, encodings=encodings), traits)
    fresh = post(request, traits)
    assert kept.body == fresh.body
    assert kept.situation == fresh.situation


@every_driver
def test_requests_are_those_of_earlier_versions(driver: str) -> None:
    """The requests of many conversations are, byte for byte, those of the version that kept no messages."""
    digest = sha256()
    for seed in SEEDS:
        conversation = Conversation(driver, seed)
        for request in conversation.requests():
            sent = post(request, conversation.traits)
            digest.update(sent.body + sent.situation.encode())
    assert digest.hexdigest()[:16] == GOLDEN[driver]


@every_driver
def test_a_kept_history_changes_no_byte(driver: str) -> None:
    """Each request of a growing conversation is that of the whole transcript, also when it is sent again."""
    for seed in SEEDS:
        conversation = Conversation(driver, seed)
        encodings = MessageEncodings()
        for request in conversation.requests():
            require_same(request, encodings, conversation.traits)
            if seed % 3 == 0:
                other = {"situation": "now", "instructions": "Otherwise.", "withheld": True}
                require_same(replace(request, **other), encodings, conversation.traits)


@every_driver
def test_a_switch_changes_no_byte(driver: str) -> None:
    """Options, models, drivers and traits of the server change from request to request."""
    random = Random(driver)
    for seed in SEEDS[::2]:
        conversation = Conversation(driver, seed)
        others = [conversation] + [Conversation(random.choice(list(MODELS)), n) for n in range(4)]
        encodings = MessageEncodings()
        for request in conversation.requests():
            other = random.choice(others)
            require_same(replace(request, pinned=other.pinned), encodings, other.traits)


@every_driver
def test_another_transcript_is_not_mistaken(driver: str) -> None:
    """A transcript that is shorter, or has another message in place of the last kept one, is read anew."""
    for seed in SEEDS[:20]:
        first, second = Conversation(driver, seed), Conversation(driver, seed + 100)
        encodings = MessageEncodings()
        request = list(first.requests())[-1]
        require_same(request, encodings)
        require_same(replace(request, messages=second.messages), encodings)
        require_same(replace(request, messages=request.messages[:1]), encodings)
        require_same(
            replace(request, messages=[*request.messages[:-1], Message("user", [Text("x")])]), encodings
        )
        require_same(replace(request, messages=[]), encodings)


# How a history is kept.


def turn(number: int, *items: Item, size: int = 0) -> list[Message]:
    """Return a question and its answer."""
    texts = Text(f"question {number} " + "q" * size), Text(f"answer {number} " + "a" * size)
    return [Message("user", [texts[0]]), Message("assistant", [texts[1], *items])]


def make_request(messages: Sequence[Message], **pinned: Any) -> ModelRequest:
    """Return a request for an answer to a new question."""
    values = {"route": "r", "driver": "openai", "model": "qwen3", **pinned}
    return ModelRequest(Pinned(**values), "", [*messages])


def keep(encodings: MessageEncodings, messages: list[Message], rules: ChatRules) -> ChatHistory:
    """Return the kept history of a transcript."""
    return follow(messages, encodings, rules, lambda: ChatHistory(rules))


def test_only_new_messages_are_encoded() -> None:
    """Earlier messages stay the encoded objects that they are; the last one is still open."""
    rules, encodings = ChatRules(ORIGIN), MessageEncodings()
    messages = [message for number in range(5) for message in turn(number)]
    history = keep(encodings, messages[:-2], rules)
    first = list(history.sent)
    assert [type(sent) for sent in first] == [Raw] * 7 + [dict]
    assert keep(encodings, messages, rules) is history
    assert all(old is new for old, new in zip(first[:-1], history.sent, strict=False))
    assert [type(sent) for sent in history.sent] == [Raw] * 9 + [dict]
    assert history.count == 10


@every_driver
def test_a_block_changes_no_byte(driver: str) -> None:
    """The messages of a long conversation become one block, which is sent without a copy."""
    encodings, messages, blocks = MessageEncodings(), list[Message](), list[Any]()
    for number in range(60):
        messages += turn(number, ToolCall(f"c{number}", "look", {}), size=4_000)
        messages += [Message("tool", [ToolResult(f"c{number}", "look", "seen")])]
        request = replace(make_request(messages, driver=driver), instructions="be brief", situation="now")
        require_same(request, encodings)
        parts = post(replace(request, encodings=encodings)).parts
        blocks += parts[1:2]
        copied = sum(len(part) for part in parts if type(part) is bytes)
        assert copied < 100_000 + sum(map(len, parts)) / 8
    assert len({*map(id, (block.obj for block in blocks))}) < len(blocks) / 2, "most requests have an old one"
    assert len(blocks) > 40


def test_a_message_as_long_as_a_block() -> None:
    """Texts that look like the mark of a block, and a first message of any length, change no byte."""
    encodings = MessageEncodings()
    messages = [Message("user", [Text("a" * 100_000)])]
    for number in range(3):
        require_same(make_request(messages), encodings)
        messages = [*messages, *turn(number)]
        require_same(replace(make_request(messages), instructions="b" * 100_000), encodings)


def test_nothing_is_encoded_for_a_request_without_a_place() -> None:
    """Requests for summaries and titles keep nothing."""
    history = follow(turn(1), None, "form", lambda: ChatHistory(ChatRules(ORIGIN)))
    assert [type(sent) for sent in history.sent] == [dict, dict]


def call(call_id: str, own: str | None = None, **fields: Any) -> ToolCall:
    """Return a call with data of the provider."""
    return ToolCall(call_id, "look", {}, provider_data=ProviderData(ORIGIN, own, fields))


@pytest.mark.parametrize(
    ("early", "late"),
    [
        # The provider's id is the one that was made for an earlier call of another provider.
        (ToolCall("call_1", "look", {}), call("call_1-2", "call_1")),
        # A signature, after which each message with calls needs one.
        (call("call_1"), call("call_2", extra_content={"google": {"thought_signature": "c2ln"}})),
    ],
)
def test_a_message_that_changes_earlier_ones(early: ToolCall, late: ToolCall) -> None:
    """Some messages change what earlier ones need: then all of them are encoded again."""
    encodings, requests = MessageEncodings(), []
    messages = [*turn(0, early), Message("tool", [ToolResult(early.call_id, "look", "seen")])]
    for further in ([], turn(1), [*turn(1), *turn(2, late)]):
        request = make_request([*messages, *further])
        require_same(request, encodings)
        requests.append(post(request).body)
    assert requests[1].startswith(requests[0][:-20].rpartition(b"}")[0])
    assert not requests[2].startswith(requests[1][:-20].rpartition(b"}")[0])


@every_driver
def test_results_of_one_batch_in_two_messages(driver: str) -> None:
    """Results that come one after another are sent as those that come together, in the order of the calls."""
    encodings = MessageEncodings()
    messages = turn(0, ToolCall("a", "look", {}), ToolCall("b", "look", {}))
    for call_id in ("b", "a"):
        messages = [*messages, Message("tool", [ToolResult(call_id, "look", f"seen {call_id}")])]
        require_same(replace(make_request(messages, driver=driver), situation="now"), encodings)
    require_same(make_request([*messages, *turn(1)], driver=driver), encodings)


def test_reasoning_content_of_a_later_message() -> None:
    """Once the model has sent ``reasoning_content``, each message with calls has it, also earlier ones."""
    encodings = MessageEncodings()
    thoughtful = ProviderData(ORIGIN, fields={"thinking_name": "reasoning_content"})
    early = [*turn(0, call("call_1")), Message("tool", [ToolResult("call_1", "look", "seen")]), *turn(1)]
    require_same(make_request(early), encodings)
    assert b"reasoning_content" not in post(make_request(early)).body
    late = [*early, *turn(2)[:1], Message("assistant", [Text("hm")], provider_data=thoughtful)]
    require_same(make_request(late), encodings)
    assert b'"reasoning_content":""' in post(make_request(late)).body


def test_an_error_leaves_nothing_behind() -> None:
    """A message that cannot be sent fails the request; the next one is made from the whole transcript."""
    encodings = MessageEncodings()
    messages = [*turn(0), *turn(1)]
    require_same(make_request(messages), encodings)
    bad = Message("user", [Text("\ud800")])
    with pytest.raises(UnicodeEncodeError):
        post(replace(make_request([*messages, bad, *turn(2)]), encodings=encodings))
    assert encodings.size_bytes == 0
    require_same(make_request([*messages, *turn(3)]), encodings)


@every_driver
@pytest.mark.parametrize("size", [10, 100, 4_000])
@pytest.mark.parametrize("placed", [{}, {"placed": [{"index": 0, "block": {"type": "server"}}]}])
def test_the_size_is_that_of_the_memory(driver: str, size: int, placed: dict[str, Any]) -> None:
    """The stated size is about the memory that is kept, also for opaque blocks, which are not encoded."""
    data = ProviderData(f"{driver} api.test qwen3")
    first = Message("assistant", [Text("a")], provider_data=replace(data, fields=placed))
    messages = [
        message
        for number in range(200)
        for message in turn(
            number, ToolCall(f"c{number}", "look", {"n": number}, provider_data=data), size=size
        )
    ]
    messages = [first, *messages]
    request = replace(make_request(messages, driver=driver), encodings=MessageEncodings())
    post(make_request(messages, driver=driver))
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        post(request)
        kept = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert request.encodings is not None
    assert 0.8 * request.encodings.size_bytes < kept < 1.2 * request.encodings.size_bytes


def test_the_forms_of_a_conversation_are_bounded() -> None:
    """A conversation that changes its model at every turn keeps a few forms only."""
    encodings, sizes = MessageEncodings(), []
    for number in range(8):
        require_same(make_request(turn(0), model=f"m{number}"), encodings)
        sizes.append(encodings.size_bytes)
    assert sizes[MAX_FORMS - 1] == sizes[-1] == MAX_FORMS * sizes[0]


class Plain(DriverHistory):
    """A history that sends texts, and refuses to grow by messages that ``refuses`` names."""

    def __init__(self, refuses: Callable[[Message], bool] = lambda message: False) -> None:
        super().__init__()
        self._refuses = refuses

    def learn(self, messages: Sequence[Message], calls: Sequence[ToolCall]) -> bool:
        """Refuse."""
        return not (self.count and any(map(self._refuses, messages)))

    def add(self, message: Message) -> None:
        """Send it."""
        self.sent.append({"text": message.role})


def test_the_called_tools_are_known() -> None:
    """The names of the called tools are in the order of their first calls."""
    history = Plain()
    calls = [ToolCall(str(n), name, {}) for n, name in enumerate(("b", "a", "b"))]
    messages = [message for n, item in enumerate(calls) for message in turn(n, item)]
    for count in range(len(messages) + 1):
        assert history.follow(messages[:count])
    assert list(history.called) == ["b", "a"]
    assert history.count == len(messages)


def test_a_history_that_refuses_is_replaced() -> None:
    """A refusal leaves the history as it was."""
    history = Plain(lambda message: message.role == "user")
    messages = turn(1)
    assert history.follow(messages)
    assert not history.follow([*messages, *turn(2)])
    assert (history.count, len(history.sent), list(history.called)) == (2, 2, [])
