"""Format agents: as a tree, and their transitions."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kheishctl.contract import Json
from kheishctl.render.layout import Display, fit, paint
from kheishctl.render.units import format_money
from protocol.text import one_line

STATUS_STYLE = {
    "preparing": "yellow",
    "queued": "yellow",
    "running": "blue",
    "waiting_for_approval": "yellow",
    "waiting_for_user_input": "yellow",
    "waiting_for_event": "yellow",
    "idle": "dim",
    "completed": "green",
    "failed": "red",
}
"""The style of each status."""


_BUDGETS = (
    ("tokens", "max_tokens", " tokens", 1),
    ("work_ms", "max_work_s", " s", 1000),
    ("cost_micros", "max_cost", "", 1_000_000),
)
"""The amounts of a budget, its limits, and their units."""


def format_tree(agents: Sequence[Json], display: Display) -> str:
    """Format agents, each after its parent, as a tree: one line each. For a pipe separated by tabs."""
    if display.width is None:
        return "\n".join("\t".join(_cells(agent)) for agent in agents)
    children: dict[str | None, list[Json]] = {}
    known = {agent["agent_id"] for agent in agents}
    for agent in agents:
        parent_id = agent.get("parent_id")
        children.setdefault(parent_id if parent_id in known else None, []).append(agent)
    return "\n".join(_draw(children, None, "", display, is_root=True))


def _draw(
    children: Mapping[str | None, list[Json]],
    parent_id: str | None,
    indent: str,
    display: Display,
    *,
    is_root: bool = False,
) -> Iterator[str]:
    siblings = children.get(parent_id, [])
    for index, agent in enumerate(siblings):
        is_last = index == len(siblings) - 1
        branch = "" if is_root else ("└─ " if is_last else "├─ ")
        name, status, *rest = _cells(agent)
        text = fit(f"{indent}{branch}{name}  {status}  {'  '.join(filter(None, rest))}", display.width or 80)
        yield text.replace(status, paint(status, STATUS_STYLE[agent["status"]], display.color), 1)
        below = "" if is_root else ("   " if is_last else "│  ")
        yield from _draw(children, agent["agent_id"], indent + below, display)


def _cells(agent: Json) -> list[str]:
    """Return an agent's name, status, nickname, definition, use and description."""
    usage = agent.get("usage", {})
    tokens = usage.get("input_tokens", 0) + usage.get("output_tokens", 0)
    costs = " ".join(filter(None, map(format_money, agent.get("costs", ()))))
    status = agent["status"].replace("_", " ")
    cells = (
        agent["name"],
        f"{status}, closed" if agent["state"] == "closed" else status,
        agent.get("nickname") or "",
        agent["definition"],
        f"{tokens:,} tokens" if tokens else "",
        costs,
        _format_budget(agent.get("budget")),
        agent.get("description") or agent.get("title") or "",
    )
    return [one_line(cell) for cell in cells]


def _format_budget(use: Json | None) -> str:
    """Return what was given to an agent and those below it, and what is used, reserved and left of it."""
    given: Json = (use or {}).get("given") or {}
    if use is None or not given:
        return ""
    left, reserved, used, delegated = (
        use.get(name, {}) for name in ("left", "reserved", "used", "delegated")
    )
    parts = []
    for name, limit, unit, scale in _BUDGETS:
        if limit in given:
            amounts = {
                "used": used.get(name, 0) + delegated.get(name, 0),
                "reserved": reserved.get(name, 0),
                "left": left.get(name, 0),
            }
            shown = ", ".join(
                f"{amount / scale:,.10g} {label}"
                for label, amount in amounts.items()
                if amount or label == "left"
            )
            parts.append(f"{given[limit]:,.10g}{unit}: {shown}")
    return "; ".join(parts)


def describe_transition(row: Mapping[str, Any]) -> str:
    """Return the change of status of a row of an audit."""
    previous = row.get("previous")
    return str(row["status"]) if previous in (None, row["status"]) else f"{previous} → {row['status']}"
