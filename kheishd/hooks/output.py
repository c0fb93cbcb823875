"""``emit_output``: a run says itself what it gives, instead of that being the text of its last answer."""

from typing import Any, Final

import msgspec

from kheishd.core.contract import ContractMatch, ContractViolation, check_value, encode_canonical, parse_value
from kheishd.kernel.hook import Invocation, Outcome, RunContext, SubHook, Tool, ToolError
from kheishd.objects.talk.contract import schema_text
from protocol import ids
from protocol.events.output import OutputEmitted
from protocol.limits.output import MAX_OUTPUT_BYTES, MAX_OUTPUTS

EMIT_OUTPUT: Final = Tool(
    name="emit_output",
    description=(
        "Give the result of this run to whoever asked for it: a text, a JSON value, or a value and how it is "
        "to be read. It takes the place of your last answer as the run's output; called again, the last "
        "call counts. Without it, the text of your last answer is the output."
    ),
    schema={
        "type": "object",
        "properties": {
            "text": {"type": "string", "description": "The output as people read it."},
            "value": {"description": "The output as programs read it: any JSON value but null."},
        },
        "additionalProperties": False,
    },
    kind="coordinate",
    # Nothing of it is there before its result is committed, so one that was cut short is simply run again.
    repeatable=True,
)


class Outputs(SubHook):
    """The part that lets a run give outputs."""

    name = "output"
    tools = (EMIT_OUTPUT,)

    async def dispatch(self, use: Invocation) -> Outcome:
        """Emit an output. Errors: ToolError where there is nothing in it, or too much, or one too many."""
        text, value = use.arguments.get("text", ""), use.arguments.get("value")
        if not text and value is None:
            raise ToolError("there is nothing to emit; give 'text', 'value' or both")
        if len(use.context.run.output_cursors) >= MAX_OUTPUTS:
            raise ToolError(
                f"this run has emitted {MAX_OUTPUTS} outputs, which is the limit; the last counts"
            )
        agreed = _agreed(use.context, text, value)
        emitted = OutputEmitted(
            output_id=use.context.state.new_id(ids.OUTPUT),
            text=agreed.text if agreed is not None else text or encode_canonical(value),
            call_id=use.call_id,
            value=agreed.value if agreed is not None else value,
            structured=agreed is not None,
        )
        _fits(emitted)
        return Outcome("This is the output of the run now.", events=(emitted,))


def _agreed(place: RunContext, text: str, value: Any) -> ContractMatch | None:
    """The output as the run's contract has it; None where no contract binds the run.

    Errors: ToolError if it does not fit: the model can mend it at once.
    """
    bound = place.pinned.output_contract
    if bound is None:
        return None
    with place.state.read() as store:
        schema = msgspec.json.decode(schema_text(store, bound.digest))
    found = check_value(schema, value) if value is not None else parse_value(schema, text)
    if isinstance(found, ContractViolation):
        raise ToolError(f"this does not fit the schema of the output: {found.problem}")
    return found


def _fits(emitted: OutputEmitted) -> None:
    size = len(msgspec.json.encode(emitted))
    if size > MAX_OUTPUT_BYTES:
        raise ToolError(f"the output takes {size} bytes as JSON; the limit is {MAX_OUTPUT_BYTES}: say less")
