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
from protocol.limits.units import GIB, KIB, MIB


class LimitsSection(Section, frozen=True):
    """``[tools.limits]``: limits of each command, with all its processes unless stated otherwise."""

    max_memory_bytes: Annotated[int, Meta(ge=64 * MIB)] = 8 * GIB
    """Maximum memory of a command in bytes (4 GiB are `4294967296`), from 64 MiB (`67108864`); never more
    than three quarters of the machine's."""

    max_processes: Annotated[int, Meta(ge=16, le=4_000_000)] = 4096
    """Maximum processes and threads of a command, from 16."""

    max_file_bytes: Annotated[int, Meta(ge=MIB)] = 16 * GIB
    """Maximum size of a file that a command writes, in bytes from 1 MiB (`1048576`)."""

    max_open_files: Annotated[int, Meta(ge=64, le=4_000_000)] = 16_384
    """Maximum open files of each process of a command, from 64."""

    max_growth_bytes: Annotated[int, Meta(ge=MIB)] = 16 * GIB
    """Maximum growth of the workspace by a command, in bytes from 1 MiB (`1048576`)."""

    max_scratch_bytes: Annotated[int, Meta(ge=MIB)] = 512 * MIB
    """Size in bytes of each of `/tmp`, `/var/tmp` and `/dev/shm` in the sandbox, which are in memory; from
    1 MiB (`1048576`)."""


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

    events: bool = False
    """Offer every agent the tools of the event bus; otherwise only those whose definition names them."""

    schedules: bool = False
    """Offer every agent the tools to wake itself; otherwise only those whose definition names them."""

    limits: LimitsSection = LimitsSection()
