"""Resolution of the names in a request."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from kheishd.kernel.call import Call, Caller
from kheishd.objects.talk.address import (
    definition_of,
    find_addressed,
    find_definition,
    find_route,
    require_valid_sender,
)
from protocol.errors.conversation import ConversationNotFound, SenderInvalid
from protocol.errors.definition import AgentForbidden, AgentNotFound
from protocol.errors.refusal import Refusal
from protocol.errors.route import RouteNotFound
from protocol.errors.session import SessionNotFound
from protocol.objects.conversation import ConversationHistoryParams
from protocol.objects.session import Session, SessionHistoryParams
from tests.support.household import AGENTS, ROUTES, Household
from tests.support.runtimes import make_runtime

RUNTIME = make_runtime(definitions=AGENTS, routes=ROUTES)


def caller(**limits: Any) -> Call:
    """Return the call of an unlimited caller, or of one with a token."""
    return cast("Call", SimpleNamespace(caller=Caller("token:t", frozenset(), **limits), runtime=RUNTIME))


def refusal_field(function: Any, refusal: type[Refusal]) -> str | None:
    """Return the field that a refusal names."""
    with pytest.raises(refusal) as caught:
        function()
    return caught.value.field


async def test_a_session_has_two_addresses(idle: Household) -> None:
    """Its id, and the agent and sender of its conversation, address the same session."""
    sent = await idle.send(sender="ann")
    by_id = SessionHistoryParams(session_id=sent["session_id"])
    by_pair = ConversationHistoryParams(sender="ann")
    with idle.state.read() as store:
        assert find_addressed(store, caller(), by_id) == find_addressed(store, caller(), by_pair)
        with pytest.raises(ConversationNotFound):
            find_addressed(store, caller(), ConversationHistoryParams(sender="bob"))
        with pytest.raises(SessionNotFound):
            find_addressed(store, caller(senders=frozenset()), by_id)


def test_an_agent_is_found_by_name() -> None:
    """Without a name the default agent is used; a refusal names the field in which the name arrived."""
    assert find_definition(caller(), None).name == "default"
    assert find_definition(caller(), "critic") is AGENTS["critic"]
    guest = "$.params.guest"
    assert refusal_field(lambda: find_definition(caller(), "nobody", guest), AgentNotFound) == guest
    limited = caller(agents=frozenset(("default",)))
    assert refusal_field(lambda: find_definition(limited, "critic", guest), AgentForbidden) == guest


def test_the_agent_of_a_session_may_be_gone() -> None:
    """The refusal names no field: the request does not hold the name."""
    session = Session(session_id="s", agent="gone", status="open", created_at_ms=0, updated_at_ms=0)
    assert refusal_field(lambda: definition_of(RUNTIME, session), AgentNotFound) is None


def test_a_route_is_the_first_named() -> None:
    """The requested route, else the first default, else the configured one. Only a request has a field."""
    assert find_route(RUNTIME, "local", "unready").route_id == "local"
    assert find_route(RUNTIME, None, None, "unready").route_id == "unready"
    assert find_route(RUNTIME, None).route_id == "offline"
    assert refusal_field(lambda: find_route(RUNTIME, "none", "local"), RouteNotFound) == "$.params.route"
    assert refusal_field(lambda: find_route(RUNTIME, None, "none"), RouteNotFound) is None


@pytest.mark.parametrize("sender", ["", "ä" * 65, "a\nb", "\x00", "\u200b"])
def test_a_sender_is_printable(sender: str) -> None:
    """A sender is 1-128 bytes of printable text."""
    require_valid_sender("ä" * 64)
    with pytest.raises(SenderInvalid):
        require_valid_sender(sender)
