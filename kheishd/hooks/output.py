"""The tool ``emit_output``: a run states its output itself, instead of the text of its last answer."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from kheishd.core.contract import ContractMatch, ContractViolation, check_value, encode_canonical, parse_value
from kheishd.kernel.hook import Arguments, Invocation, Outcome, RunContext, SubHook, ToolError, tool
from kheishd.objects.talk.contract import schema_text
from protocol import ids
from protocol.events.output import OutputEmitted
from protocol.limits.output import MAX_OUTPUT_BYTES, MAX_OUTPUTS


class EmitOutput(Arguments, frozen=True):
    """Arguments of ``emit_output``."""

    text: Annotated[str, Meta(description="The output for people.")] = ""
    value: Annotated[Any, Meta(description="The output for programs: any JSON value but null.")] = None


class Outputs(SubHook):
    """The tool with which a run emits its output."""

    name = "output"

    @tool(
        "emit_output",
        description="Set the output of this run: a text, a JSON value, or a value and a text for people. It "
        "replaces your last answer as the run's output; of several calls, the last one counts. Without a "
        "call, the text of your last answer is the output.",
        kind="coordinate",
        # It has no effect before its result is committed, so an interrupted call is run again.
        repeatable=True,
    )
    async def emit_output(self, call: Invocation, arguments: EmitOutput) -> Outcome:
        """Emit an output. Errors: ToolError if it is empty, too large, or one too many."""
        text, value, context = arguments.text, arguments.value, call.context
        if not text and value is None:
            raise ToolError("there is nothing to emit; give 'text', 'value' or both")
        if len(context.run.output_cursors) >= MAX_OUTPUTS:
            raise ToolError(
                f"this run has emitted {MAX_OUTPUTS} outputs, which is the limit; the last one counts"
            )
        fitting = _require_contract(context, text, value)
        event = OutputEmitted(
            output_id=context.state.new_id(ids.OUTPUT),
            text=fitting.text if fitting is not None else text or encode_canonical(value),
            call_id=call.call_id,
            value=fitting.value if fitting is not None else value,
            structured=fitting is not None,
        )
        size = len(msgspec.json.encode(event))
        if size > MAX_OUTPUT_BYTES:
            raise ToolError(
                f"the output takes {size} bytes as JSON; the limit is {MAX_OUTPUT_BYTES}: shorten it"
            )
        return Outcome("This is the output of the run now.", events=(event,))


def _require_contract(context: RunContext, text: str, value: Any) -> ContractMatch | None:
    """Return the output in the form of the run's contract; None if the run has no contract.

    Errors: ToolError if it violates the contract: the model can correct it at once.
    """
    bound = context.pinned.output_contract
    if bound is None:
        return None
    with context.state.read() as store:
        schema = msgspec.json.decode(schema_text(store, bound.digest))
    verdict = check_value(schema, value) if value is not None else parse_value(schema, text)
    if isinstance(verdict, ContractViolation):
        raise ToolError(f"this does not fit the schema of the output: {verdict.problem}")
    return verdict
