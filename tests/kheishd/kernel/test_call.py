"""What a caller may do, and how handlers say what they handle."""

import pytest

from kheishd.kernel.call import Act, Call, Caller, Mutate, Query, control, mutation, query
from protocol.errors.conversation import SenderForbidden
from protocol.errors.definition import AgentForbidden
from protocol.errors.token import ScopeMissing
from protocol.objects import rpc
from protocol.rpc.method import NoParams

LIMITED = Caller("token:t", frozenset(("read",)), frozenset(("helper",)), frozenset(("ann",)))
EVERYTHING = Caller("uid:0", frozenset(("read", "admin")))


def test_a_scope_that_is_held_passes() -> None:
    """So does none at all; no scope implies another."""
    LIMITED.need("read")
    LIMITED.need(None)
    with pytest.raises(ScopeMissing) as caught:
        LIMITED.need("admin")
    assert caught.value.hint == "admin"


def test_agents_and_senders_are_limits_when_named() -> None:
    """None covers every name, a set those in it."""
    LIMITED.need_agent("helper")
    LIMITED.need_sender("ann")
    EVERYTHING.need_agent("anything")
    EVERYTHING.need_sender(None)
    with pytest.raises(AgentForbidden):
        LIMITED.need_agent("other")
    with pytest.raises(SenderForbidden):
        LIMITED.need_sender("bob")
    with pytest.raises(SenderForbidden):
        LIMITED.need_sender(None)


@pytest.mark.parametrize(
    ("agent", "sender", "covered"),
    [("helper", "ann", True), ("helper", "bob", False), ("other", "ann", False), ("helper", None, False)],
)
def test_reading_needs_both_covered(agent: str, sender: str | None, covered: bool) -> None:
    """What belongs to an agent and a sender is readable if both are covered."""
    assert LIMITED.covers(agent, sender) is covered
    assert EVERYTHING.covers(agent, sender)


def test_only_who_has_no_limits_is_unlimited() -> None:
    """An empty set covers nothing and is a limit too."""
    assert EVERYTHING.unlimited
    assert not LIMITED.unlimited
    assert not Caller("token:t", frozenset(), agents=frozenset()).unlimited
    assert not Caller("token:t", frozenset(), agents=frozenset()).covers("helper", "ann")


def test_decorators_bind_a_function_to_its_row() -> None:
    """Each kind of handler knows its row and the function."""

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
