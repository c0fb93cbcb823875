"""Sub-hooks and their tools: declared tools, the defaults of a sub-hook, and the names of calls."""

import re
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
import pytest
from msgspec import Meta
from msgspec.structs import replace

from kheishd.kernel.hook import (
    Arguments,
    Invocation,
    Outcome,
    ProbeResult,
    SubHook,
    ToolError,
    tool,
)
from protocol.objects.approval import Preview
from tests.support.toolbox import call_of, run_context
from tests.support.toolbox import tool as row_of


class Plant(Arguments, frozen=True):
    """Arguments of ``plant``."""

    seed: Annotated[str, Meta(min_length=1, description="The kind of seed.")]
    count: int = 1


class Garden(SubHook):
    """A sub-hook with two declared tools."""

    name = "garden"

    def __init__(self, weather: str = "fair") -> None:
        self.weather = weather

    def seed_subject(self, call: Invocation, arguments: Plant) -> str:
        """Return the seed."""
        return arguments.seed

    async def preview_plant(self, call: Invocation, arguments: Plant) -> Preview:
        """Show the planting."""
        return Preview(kind="text", text=f"plant {arguments.count} {arguments.seed}")

    async def plant_evidence(self, call: Invocation, arguments: Plant) -> dict[str, Any]:
        """Return the number of seeds."""
        return {"count": arguments.count}

    async def probe_plant(
        self, call: Invocation, arguments: Plant, evidence: Mapping[str, Any]
    ) -> ProbeResult:
        """Compare the evidence."""
        return ProbeResult("done", f"{evidence['count']} of {arguments.seed} in {self.weather} weather")

    @tool(
        "plant",
        description="Plant seeds.",
        kind="edit",
        default="ask",
        timeout_s=5.0,
        writes=lambda arguments: [arguments.seed],
        subject=seed_subject,
        preview=preview_plant,
        evidence=plant_evidence,
        probe=probe_plant,
    )
    async def plant(self, call: Invocation, arguments: Plant) -> Outcome:
        """Plant seeds."""
        return Outcome(f"{self.weather}: {arguments.count} {arguments.seed}")

    @tool("admire", description="Look around.", kind="read", parallel=True, repeatable=True, droppable=True)
    async def admire(self, call: Invocation, arguments: Arguments) -> Outcome:
        """Look around."""
        return Outcome("lovely")


def test_a_declared_tool_is_a_row_with_its_facts() -> None:
    """The facts, the arguments' struct and the schema that is generated from it are in one row."""
    garden = Garden()
    assert [row.name for row in garden.tools] == ["plant", "admire"]
    row = garden.plant
    assert (row.kind, row.default, row.timeout_s, row.arguments) == ("edit", "ask", 5.0, Plant)
    assert (row.repeatable, row.parallel, row.in_plan, row.droppable) == (False, False, False, False)
    assert [*row.writes(Plant(seed="oats"))] == ["oats"]
    assert row.schema["properties"]["seed"]["minLength"] == 1
    assert row.model_schema == {
        "type": "object",
        "properties": {
            "seed": {"type": "string", "description": "The kind of seed."},
            "count": {"type": "integer", "description": "Default: 1."},
        },
        "required": ["seed"],
        "additionalProperties": False,
    }
    assert garden.admire.parallel
    assert garden.admire.droppable
    assert [*garden.admire.writes(Arguments())] == []


async def test_a_call_runs_the_functions_of_its_tool() -> None:
    """Each tool has its own functions, bound to the sub-hook's instance; the row may be a changed copy."""
    garden = Garden("wet")
    call = Invocation(run_context(), "c1", replace(garden.plant, timeout_s=1.0), Plant(seed="oats", count=3))
    assert garden.subject(call) == "oats"
    preview = await garden.preview(call)
    assert preview is not None
    assert preview.text == "plant 3 oats"
    assert await garden.evidence(call) == {"count": 3}
    assert await garden.dispatch(call) == Outcome("wet: 3 oats")
    assert (await garden.probe(call, {"count": 3})).note == "3 of oats in wet weather"


async def test_a_declared_tool_needs_no_other_function() -> None:
    """Without functions it has no subject, no preview and no evidence, and a probe knows nothing."""
    garden = Garden()
    call = Invocation(run_context(), "c1", garden.admire, Arguments())
    assert await garden.dispatch(call) == Outcome("lovely")
    assert garden.subject(call) == ""
    assert await garden.preview(call) is None
    assert await garden.evidence(call) == {}
    assert (await garden.probe(call, {})).outcome == "unknown"


def test_facts_may_depend_on_the_instance() -> None:
    """A revised row is that of one instance only, and other declared tools stay."""
    garden, second = Garden(), Garden()
    rows = garden.tools
    assert garden.tools is rows, "rows are listed once, until one is revised"
    garden.revise(garden.plant, description="Plant seeds in pots.", timeout_s=9.0)
    assert (garden.plant.description, garden.plant.timeout_s) == ("Plant seeds in pots.", 9.0)
    assert garden.tools[0] is garden.plant
    assert second.plant.description == "Plant seeds."


def test_the_encoding_of_a_row_is_that_of_its_own_schema() -> None:
    """The schema is encoded once for each row; a revised row has its own encoding and size."""
    garden = Garden()
    row, size = garden.plant, garden.plant.prompt_bytes
    assert bytes(row.model_json) == msgspec.json.encode(row.model_schema)
    assert size == len(bytes(row.model_json)) + len(row.description)
    assert row.model_json is row.model_json
    garden.revise(row, description="Plant.", schema={"type": "object", "properties": {"pots": True}})
    assert b'"pots"' in bytes(garden.plant.model_json)
    assert garden.plant.prompt_bytes == len(bytes(garden.plant.model_json)) + len("Plant.")
    assert (row.prompt_bytes, Garden().plant.prompt_bytes) == (size, size)


def test_a_subclass_has_the_tools_of_its_base() -> None:
    """Inherited tools come first, each once, also if the subclass declares one of them anew."""

    class Greenhouse(Garden):
        @tool("water", description="Water everything.", kind="edit")
        async def water(self, call: Invocation, arguments: Arguments) -> Outcome:
            return Outcome("wet")

        @tool("admire", description="Look through the glass.", kind="read")
        async def admire(self, call: Invocation, arguments: Arguments) -> Outcome:
            return Outcome("green")

    assert [row.name for row in Greenhouse().tools] == ["plant", "admire", "water"]
    assert Greenhouse().admire.description == "Look through the glass."


async def test_a_sub_hook_without_overrides_does_nothing() -> None:
    """By default a sub-hook has no opinion, previews nothing and knows nothing about a call."""

    class Plain(SubHook):
        name = "plain"
        tools = (row_of("note"),)

    part, call = Plain(), call_of(row_of("note"))
    assert list(part.offer(run_context())) == [row_of("note")]
    assert [*part.sections(run_context()), *part.situation(run_context())] == []
    assert part.subject(call) == ""
    assert await part.before_call(call) is None
    assert await part.preview(call) is None
    assert await part.evidence(call) == {}
    assert await part.after_call(call, Outcome("done")) == Outcome("done")
    assert await part.probe(call, {}) == ProbeResult("unknown", "nothing is known about it")
    with pytest.raises(ToolError, match="the sub-hook 'plain' does not run note"):
        await part.dispatch(call)


async def test_a_call_without_followers_may_stream() -> None:
    """Output and evidence of a call that nobody follows are discarded."""
    call = call_of(row_of("note"))
    call.stream("hello")
    await call.observe({"pid": 7})


@pytest.mark.parametrize("call_id", ["call_1", "../../etc/passwd", "a/b", "", ".", "x" * 40, "é\n\0"])
def test_the_key_of_a_call_is_safe_for_files(call_id: str) -> None:
    """The key is a safe file name for any id from a model, differs between calls, and survives a restart."""
    context = run_context()
    key = Invocation(context, call_id, row_of("note"), {}).key
    assert re.fullmatch(r"run_1\.0\.[0-9a-f]{16}", key)
    assert key == Invocation(context, call_id, row_of("note"), {"text": "other"}).key
    assert key != Invocation(context, call_id + "2", row_of("note"), {}).key
