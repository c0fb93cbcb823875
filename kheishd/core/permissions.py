"""Judging a tool call. For now by the tool's own default alone."""

from dataclasses import dataclass

from protocol.objects.permission import Decision, PermissionMode


@dataclass(frozen=True, slots=True)
class ToolFacts:
    """What the rules must know of a tool."""

    name: str
    kind: str
    default: Decision
    in_plan: bool


@dataclass(frozen=True, slots=True)
class Layers:
    """What a call is judged by."""

    mode: PermissionMode = "default"


@dataclass(frozen=True, slots=True)
class Judged:
    """A decision and what it rests on."""

    decision: Decision
    base: Decision
    why: str
    reason: str = ""
    mode: PermissionMode = "default"
    mode_effect: str | None = None
    grant_id: str | None = None


def judge(tool: ToolFacts, subject: str, layers: Layers, opinion: tuple[Decision, str] | None) -> Judged:
    """The decision about a call."""
    decision, reason = opinion or (tool.default, "")
    return Judged(decision, decision, "the tool's default", reason, layers.mode)
