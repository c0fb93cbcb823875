"""``[log]``: the daemon's log. Options of the command line override it."""

from typing import Literal

from kheishd.config.sections.section import Section


class LogSection(Section, frozen=True):
    """``[log]``: the daemon's log. Options of the command line override it."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Lowest level that is logged: `"debug"`, `"info"`, `"warning"` or `"error"`."""

    format: Literal["auto", "text", "json"] = "auto"
    """`"text"`, `"json"` or `"auto"` (systemd's journal where stderr leads there, else text)."""
