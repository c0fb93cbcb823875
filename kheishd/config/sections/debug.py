"""``[debug]``: captures of model calls."""

from typing import Annotated

from msgspec import Meta

from kheishd.config.sections.section import DAY_SECONDS, Age, Section
from protocol.limits.debug import DEFAULT_DEBUG_BYTES, MAX_DEBUG_RUN_BYTES
from protocol.objects.run import DebugLevel


class DebugSection(Section, frozen=True):
    """``[debug]``: captures of model calls."""

    capture: DebugLevel = "off"
    """Whether model calls are captured (`contrib/docs/operation.md`): `"off"`, `"redacted"` or `"full"`."""

    max_age_s: Age = 7.0 * DAY_SECONDS
    """Age at which a run's captures are deleted (0: never)."""

    max_bytes: Annotated[int, Meta(ge=MAX_DEBUG_RUN_BYTES)] = DEFAULT_DEBUG_BYTES
    """Maximum size of all captures; the oldest are deleted first."""
