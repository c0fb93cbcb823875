"""``[daemon]``: the daemon itself."""

from typing import Annotated

from msgspec import Meta

from kheishd.config.sections.section import Section
from protocol.limits.units import MIB


class DaemonSection(Section, frozen=True):
    """``[daemon]``: the daemon itself."""

    # Ten seconds is longer than most answers take and shorter than the 90 s after which systemd kills. The
    # next daemon repeats an unfinished model call.
    drain_s: Annotated[float, Meta(ge=0, le=3600)] = 10.0
    """How long active runs may continue when the daemon stops."""

    # A turn with text writes about 300 KiB: several hundred turns after everything else was refused.
    reserve_bytes: Annotated[int, Meta(ge=0)] = 128 * MIB
    """Free space on the store's disk that tools, commands and captures leave; at most 5 % of the disk."""
