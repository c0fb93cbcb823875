"""``emit_output``: the output of a run, and the errors."""

from pathlib import Path
from typing import Any

import pytest
from trio.testing import MockClock

from kheishd.hooks.composite import CompositeHook
from kheishd.hooks.output import Outputs
from protocol.contract import OutputContract
from protocol.events.call import ToolReturned
from protocol.events.output import OutputEmitted
from protocol.limits.output import MAX_OUTPUT_BYTES, MAX_OUTPUTS
from protocol.transcript import ToolCall
from tests.support.desk import Scripted, gives, open_desk, says, working

Emitted = tuple[list[OutputEmitted], list[ToolReturned], list[int]]


def emits(**arguments: Any) -> ToolCall:
    """Return a call of the tool."""
    return ToolCall("call_1", "emit_output", arguments)


async def emitted(tmp_path: Path, *calls: ToolCall) -> Emitted:
    """Return the emitted outputs, the results, and the output cursors of the run's record."""
    models = Scripted([lambda request: gives(*calls), lambda request: says("done")])
    async with open_desk(tmp_path, models, hooks=CompositeHook((Outputs(),))) as desk, working(desk):
        sent = await desk.ask()
        assert sent.status == "completed"
        events = [event for _, event in desk.journal(sent.session_id)]
        outputs = [event for event in events if isinstance(event, OutputEmitted)]
        results = [event for event in events if isinstance(event, ToolReturned)]
        return outputs, results, desk.run(sent.run_id).output_cursors


@pytest.mark.parametrize(
    ("arguments", "text", "value"),
    [
        ({"text": "all is well"}, "all is well", None),
        ({"value": {"b": 1, "a": [True]}}, '{"a":[true],"b":1}', {"a": [True], "b": 1}),
        ({"text": "one apple", "value": 1}, "one apple", 1),
        ({"value": False}, "false", False),
    ],
)
async def test_an_output_is_a_text_a_value_or_both(
    tmp_path: Path, autojump_clock: MockClock, arguments: dict[str, Any], text: str, value: Any
) -> None:
    """A value without a text is encoded canonically as its text."""
    outputs, results, cursors = await emitted(tmp_path, emits(**arguments))
    assert [(item.text, item.value, item.call_id) for item in outputs] == [(text, value, "call_1")]
    assert [item.how for item in results] == ["returned"]
    assert len(cursors) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "nothing to emit"),
        ({"text": "", "value": None}, "nothing to emit"),
        ({"text": "x" * MAX_OUTPUT_BYTES}, f"the limit is {MAX_OUTPUT_BYTES}"),
        ({"content": "x"}, "do not fit emit_output"),
    ],
)
async def test_what_is_nothing_or_too_much_is_not_emitted(
    tmp_path: Path, autojump_clock: MockClock, arguments: dict[str, Any], message: str
) -> None:
    """An empty or large output is an error for the model, and the run continues."""
    outputs, results, cursors = await emitted(tmp_path, emits(**arguments))
    assert (outputs, cursors) == ([], [])
    assert [item.how for item in results] == ["failed"]
    assert message in results[0].text


async def test_the_last_output_counts_and_there_is_a_limit_to_them(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """An output beyond the limit is an error, and the earlier ones stay."""
    calls = [ToolCall(f"call_{n}", "emit_output", {"text": str(n)}) for n in range(MAX_OUTPUTS + 1)]
    outputs, results, cursors = await emitted(tmp_path, *calls)
    assert [item.text for item in outputs] == [str(n) for n in range(MAX_OUTPUTS)]
    assert len(cursors) == MAX_OUTPUTS
    assert f"{MAX_OUTPUTS} outputs, which is the limit" in results[-1].text


CONTRACT = OutputContract(
    schema={
        "type": "object",
        "properties": {"ok": {"type": "boolean"}, "why": {"type": "string"}},
        "required": ["ok"],
        "additionalProperties": False,
    }
)


@pytest.mark.parametrize(
    "arguments",
    [
        {"value": {"ok": True, "why": None}},
        {"text": "yes", "value": {"ok": True}},
        {"text": '```json\n{"ok": true}\n```'},
    ],
)
async def test_under_a_contract_what_is_emitted_fits(
    tmp_path: Path, autojump_clock: MockClock, arguments: dict[str, Any]
) -> None:
    """An output that fits the contract is the run's output, whatever its last answer is."""
    models = Scripted([lambda request: gives(emits(**arguments)), lambda request: says("that is it")])
    async with open_desk(tmp_path, models, hooks=CompositeHook((Outputs(),))) as desk, working(desk):
        sent = await desk.ask(output_contract=CONTRACT)
        assert (sent.status, sent.output, sent.value) == ("completed", '{"ok":true}', {"ok": True})
        assert (sent.output_kind, desk.run(sent.run_id).repairs) == ("structured_output", 0)


async def test_under_a_contract_what_does_not_fit_is_not_emitted(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """An output that violates the contract is an error, and the answer is still bound."""
    models = Scripted(
        [
            lambda request: gives(emits(value={"ok": 1})),
            lambda request: says("done"),
            lambda request: says('{"ok": false}'),
        ]
    )
    async with open_desk(tmp_path, models, hooks=CompositeHook((Outputs(),))) as desk, working(desk):
        sent = await desk.ask(output_contract=CONTRACT)
        assert (sent.status, sent.output) == ("completed", '{"ok":false}')
        result = next(event for _, event in desk.journal(sent.session_id) if isinstance(event, ToolReturned))
        assert "this does not fit the schema of the output: $.ok: 1" in result.text
        assert desk.run(sent.run_id).repairs == 1
