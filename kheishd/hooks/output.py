"""``emit_output``: a run says itself what it gives, instead of that being the text of its last answer."""

from typing import Final

import msgspec

from kheishd.kernel.hook import Outcome, Part, Tool, ToolError, ToolUse
from protocol import ids
from protocol.events import OutputEmitted
from protocol.limits import OUTPUT_BYTES_MAX, OUTPUTS_MAX

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

_sorted = msgspec.json.Encoder(order="sorted")


class Outputs(Part):
    """The part that lets a run give outputs."""

    name = "output"
    tools = (EMIT_OUTPUT,)

    async def dispatch(self, use: ToolUse) -> Outcome:
        """Emit an output. Errors: ToolError where there is nothing in it, or too much, or one too many."""
        text, value = use.arguments.get("text", ""), use.arguments.get("value")
        if not text and value is None:
            raise ToolError("there is nothing to emit; give 'text', 'value' or both")
        if len(use.place.run.outputs) >= OUTPUTS_MAX:
            raise ToolError(
                f"this run has emitted {OUTPUTS_MAX} outputs, which is the limit; the last counts"
            )
        emitted = OutputEmitted(
            output_id=use.place.state.new_id(ids.OUTPUT),
            text=text or _sorted.encode(value).decode(),
            call_id=use.call_id,
            value=value,
        )
        _fits(emitted)
        return Outcome("This is the output of the run now.", events=(emitted,))


def _fits(emitted: OutputEmitted) -> None:
    size = len(msgspec.json.encode(emitted))
    if size > OUTPUT_BYTES_MAX:
        raise ToolError(f"the output takes {size} bytes as JSON; the limit is {OUTPUT_BYTES_MAX}: say less")
