"""A conversation: addressed by agent and sender."""

import pytest

from protocol.limits.names import MAX_AGENT_BYTES, MAX_SENDER_BYTES
from protocol.limits.rpc import MAX_WAIT_SECONDS
from protocol.limits.session import MAX_INPUT_ITEMS
from protocol.objects.conversation import SEND, ConversationCancel, ConversationRef, ConversationSend
from protocol.transcript import AssetReference, Text
from tests.support.samples import refuse, take


def test_the_least_that_can_be_sent() -> None:
    """By default, the sender is ``user`` and the answer comes at acceptance."""
    sent = take(ConversationSend, {"content": "hello"})
    assert (sent.agent, sent.sender, sent.content) == (None, "user", "hello")
    assert (sent.wait, sent.stream, sent.timeout_s, sent.check) == ("accepted", False, None, False)


def test_items() -> None:
    """Input is text and asset references, in order."""
    items = [{"kind": "text", "text": "see"}, {"kind": "asset", "asset_id": "ast_1"}]
    sent = take(ConversationSend, {"input_items": items})
    assert sent.input_items == [Text("see"), AssetReference("ast_1")]


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"agent": ""}, "$.params.agent"),
        ({"agent": "x" * (MAX_AGENT_BYTES + 1)}, "$.params.agent"),
        ({"sender": ""}, "$.params.sender"),
        ({"sender": None}, "$.params.sender"),
        ({"sender": "x" * (MAX_SENDER_BYTES + 1)}, "$.params.sender"),
        ({"content": 5}, "$.params.content"),
        ({"input_items": [{"kind": "tool_call"}]}, "$.params.input_items[0].kind"),
        ({"input_items": [{"kind": "text", "text": ""}] * (MAX_INPUT_ITEMS + 1)}, "$.params.input_items"),
        ({"wait": "forever"}, "$.params.wait"),
        ({"stream": "yes"}, "$.params.stream"),
        ({"timeout_s": 0}, "$.params.timeout_s"),
        ({"timeout_s": MAX_WAIT_SECONDS + 1}, "$.params.timeout_s"),
        ({"metadata": []}, "$.params.metadata"),
        ({"message": "hello"}, "$.params.message"),
    ],
)
def test_refused(params: dict[str, object], field: str) -> None:
    """A value of a wrong type or length and an unknown field are refused, and the refusal names the path."""
    assert refuse(ConversationSend, params) == field


def test_how_to_wait_is_not_what_to_do() -> None:
    """The params of waiting, and the sender's directory, are not compared between repeated sends."""
    assert set(SEND.uncompared) == {"wait", "stream", "timeout_s", "cwd"}


def test_address() -> None:
    """The default agent's conversation with ``user`` needs no params."""
    assert take(ConversationRef, {}) == ConversationRef(agent=None, sender="user")
    assert take(ConversationCancel, {"agent": "a", "sender": "b"}).note == ""
