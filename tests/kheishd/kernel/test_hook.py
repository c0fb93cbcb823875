"""What a part is by default, and the names that calls give to what is theirs."""

import re

import pytest

from kheishd.kernel.hook import Invocation, Outcome, ProbeResult, SubHook, ToolError
from tests.support.toolbox import place, tool, use_of


async def test_a_part_that_only_offers_tools_needs_nothing_else() -> None:
    """It has no opinion, shows nothing, and knows nothing of what became of a call."""

    class Plain(SubHook):
        name = "plain"
        tools = (tool("note"),)

    part, use = Plain(), use_of(tool("note"))
    assert list(part.offer(place())) == [tool("note")]
    assert list(part.sections(place())) == []
    assert part.subject(use) == ""
    assert await part.before_call(use) is None
    assert await part.preview(use) is None
    assert await part.evidence(use) == {}
    assert await part.after_call(use, Outcome("done")) == Outcome("done")
    assert await part.probe(use, {}) == ProbeResult("unknown", "nothing is known about it")
    with pytest.raises(ToolError, match="the sub-hook 'plain' does not run note"):
        await part.dispatch(use)


async def test_a_call_that_nobody_watches_may_speak_all_the_same() -> None:
    """What it says and observes goes nowhere."""
    use = use_of(tool("note"))
    use.stream("hello")
    await use.observe({"pid": 7})


@pytest.mark.parametrize("call_id", ["call_1", "../../etc/passwd", "a/b", "", ".", "x" * 40, "é\n\0"])
def test_the_name_of_a_call_is_safe_for_files(call_id: str) -> None:
    """Whatever a model calls it; and it is the same after a restart."""
    where = place()
    key = Invocation(where, call_id, tool("note"), {}).key
    assert re.fullmatch(r"run_1\.0\.[0-9a-f]{16}", key)
    assert key == Invocation(where, call_id, tool("note"), {"text": "other"}).key
    assert key != Invocation(where, call_id + "2", tool("note"), {}).key
