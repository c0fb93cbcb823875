"""The rights of a caller, and the decorators of handlers."""

import pytest

from kheishd.kernel.call import Act, Call, Caller, Mutate, Query, control, mutation, query
from protocol.errors.conversation import SenderForbidden
from protocol.errors.definition import AgentForbidden
from protocol.errors.token import ScopeMissing
from protocol.objects import rpc
from protocol.rpc.method import NoParams

LIMITED = Caller("token:t", frozenset(("read",)), frozenset(("helper",)), frozenset(("ann",)))
EVERYTHING = Caller("uid:0", frozenset(("read", "admin")))


def test_a_caller_needs_the_scope() -> None:
    """A held scope, or none, is accepted; no scope implies another."""
    LIMITED.require_scope("read")
    LIMITED.require_scope(None)
    with pytest.raises(ScopeMissing) as caught:
        LIMITED.require_scope("admin")
    assert caught.value.hint == "admin"


def test_agents_and_senders_are_limits_when_named() -> None:
    """Without limits every agent and sender is allowed, with limits only the named ones."""
    LIMITED.require_agent("helper")
    LIMITED.require_sender("ann")
    EVERYTHING.require_agent("anything")
    EVERYTHING.require_sender(None)
    with pytest.raises(AgentForbidden):
        LIMITED.require_agent("other")
    with pytest.raises(SenderForbidden):
        LIMITED.require_sender("bob")
    with pytest.raises(SenderForbidden):
        LIMITED.require_sender(None)


@pytest.mark.parametrize(
    ("agent", "sender", "readable"),
    [("helper", "ann", True), ("helper", "bob", False), ("other", "ann", False), ("helper", None, False)],
)
def test_reading_needs_the_agent_and_the_sender(agent: str, sender: str | None, readable: bool) -> None:
    """A conversation is readable if both its agent and its sender are allowed."""
    assert LIMITED.may_read(agent, sender) is readable
    assert EVERYTHING.may_read(agent, sender)


def test_a_caller_with_limits_is_restricted() -> None:
    """An empty set is a limit too: it allows nothing."""
    assert EVERYTHING.is_unrestricted
    assert not LIMITED.is_unrestricted
    assert not Caller("token:t", frozenset(), agents=frozenset()).is_unrestricted
    assert not Caller("token:t", frozenset(), agents=frozenset()).may_read("helper", "ann")


def test_decorators_bind_a_function_to_its_row() -> None:
    """Each kind of handler holds its row and its function."""

    def answer(call: Call, params: NoParams) -> None:
        return None

    def apply(tx: object, call: Call, params: NoParams) -> None:
        return None

    async def follow(call: Call, params: NoParams, result: None) -> None:
        return None

    assert query(rpc.PING)(answer) == Query(rpc.PING, answer)
    assert control(rpc.CANCEL)(answer) == Act(rpc.CANCEL, answer)
    made = mutation(rpc.PING, prepare=answer, follow=follow, follows=bool)(apply)
    assert made == Mutate(rpc.PING, apply, answer, follow, bool)
    assert (made.has_follow_up(1), made.has_follow_up(0)) == (True, False)
    assert mutation(rpc.PING, follow=follow)(apply).has_follow_up(0)
    assert not mutation(rpc.PING)(apply).has_follow_up(1)
