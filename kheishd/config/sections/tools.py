"""``[tools]``: limits of tool calls."""

from typing import Annotated

from msgspec import Meta

from kheishd.config.sections.section import Section, Timeout
from protocol.limits.call import (
    DEFAULT_RUN_OUTPUT_BYTES,
    MAX_CALLS,
    MAX_PARALLEL_CALLS,
    MAX_TOOL_INPUT_BYTES,
    MAX_TOOL_OUTPUT_BYTES,
)
from protocol.limits.units import KIB, MIB


class ToolsSection(Section, frozen=True):
    """``[tools]``: limits of tool calls, effective from the next batch."""

    max_parallel: Annotated[int, Meta(ge=1, le=MAX_PARALLEL_CALLS)] = MAX_PARALLEL_CALLS
    """Maximum calls of a run executed at once."""

    max_calls: Annotated[int, Meta(ge=1, le=MAX_CALLS)] = MAX_CALLS
    """Maximum calls per model answer."""

    max_timeout_s: Timeout = 180.0
    """Time limit of any call; a tool may set a shorter one."""

    max_input_bytes: Annotated[int, Meta(ge=KIB, le=MAX_TOOL_INPUT_BYTES)] = MAX_TOOL_INPUT_BYTES
    """Maximum size of a call's arguments."""

    max_output_bytes: Annotated[int, Meta(ge=KIB, le=MAX_TOOL_OUTPUT_BYTES)] = MAX_TOOL_OUTPUT_BYTES
    """Maximum stored size of a call's result; a longer one is truncated."""

    max_run_output_bytes: Annotated[int, Meta(ge=KIB, le=1024 * MIB)] = DEFAULT_RUN_OUTPUT_BYTES
    """Maximum stored size of all results of a run."""
