"""A sub-hook with a slow tool, calls of it, and their results."""

from typing import Any

import trio

from kheishd.kernel.hook import Invocation, Outcome, SubHook, Tool
from protocol.events.call import ToolReturned
from protocol.objects.run import SendResult
from protocol.transcript import Item, ToolCall
from tests.support.desk import Desk


class Dawdling(SubHook):
    """A sub-hook whose tool takes an hour by default."""

    name = "slow"
    tools = (Tool("dawdle", "Wait.", {"type": "object"}, "read", timeout_s=7_200, parallel=True),)

    def __init__(self) -> None:
        self.open = self.most = 0

    async def dispatch(self, use: Invocation) -> Outcome:
        """Wait, and return the requested amount of output."""
        use.stream("waiting")
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            await trio.sleep_until(trio.current_time() + use.arguments.get("s", 3_600))
        finally:
            self.open -= 1
        return Outcome("x" * use.arguments.get("gives", 0))


def dawdling_calls(*arguments: dict[str, Any]) -> list[Item]:
    """Return calls of the slow tool."""
    return [ToolCall(f"call_{number}", "dawdle", fields) for number, fields in enumerate(arguments)]


def results(desk: Desk, sent: SendResult) -> list[ToolReturned]:
    """Return the results of a run's calls, in order."""
    return [event for _, event in desk.journal(sent.session_id) if isinstance(event, ToolReturned)]
