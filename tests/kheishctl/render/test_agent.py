"""Agents as text: the tree, and transitions."""

from typing import Any, get_args

from kheishctl.render.agent import STATUS_STYLE, describe_transition, format_tree
from kheishctl.render.layout import Display
from protocol.objects.agent import AgentStatus

TERMINAL, PIPE = Display(80, False, 0), Display(None, False, 0)


def agent(agent_id: str, parent_id: str | None = None, **more: Any) -> dict[str, Any]:
    """Return an agent of a list."""
    row = {
        "agent_id": agent_id,
        "parent_id": parent_id,
        "name": agent_id,
        "status": "idle",
        "state": "open",
        "definition": "default",
    }
    return row | more


def test_every_status_has_a_style() -> None:
    """A new status fails this test until it has a style."""
    assert STATUS_STYLE.keys() == set(get_args(AgentStatus))


def test_a_tree_shows_who_is_below_whom() -> None:
    """Branches join siblings; a closed agent, its use and its description are shown."""
    rows = [
        agent("root", title="Release"),
        agent("a", "root", nickname="Atlas", status="waiting_for_approval"),
        agent("b", "a", usage={"input_tokens": 1200, "output_tokens": 34}),
        agent("c", "root", state="closed", status="failed", costs=[{"micros": 1500000, "currency": "EUR"}]),
    ]
    assert format_tree(rows, TERMINAL).splitlines() == [
        "root  idle  default  Release",
        "├─ a  waiting for approval  Atlas  default",
        "│  └─ b  idle  default  1,234 tokens",
        "└─ c  failed, closed  default  1.50 EUR",
    ]


def test_a_tree_shows_budgets() -> None:
    """A node that has a budget shows what it was given and what is used, reserved and left of it."""
    use = {
        "given": {"max_tokens": 1000, "max_work_s": 10.0, "max_cost": 0.5},
        "used": {"tokens": 60},
        "delegated": {"tokens": 40},
        "reserved": {"tokens": 600, "work_ms": 2500},
        "left": {"tokens": 300, "work_ms": 7500, "cost_micros": 450000},
    }
    rows = [agent("root", budget=use), agent("a", "root", budget={"reserved": {"tokens": 5}})]
    assert format_tree(rows, Display(120, False, 0)).splitlines() == [
        "root  idle  default  1,000 tokens: 100 used, 600 reserved, 300 left; 10 s: 2.5 reserved, 7.5 left; "
        "0.5: 0.45 left",
        "└─ a  idle  default",
    ]


def test_an_agent_whose_parent_is_not_shown_is_a_root() -> None:
    """A page of a tree may lack the parent, as closed agents are hidden."""
    assert format_tree([agent("b", "gone")], TERMINAL) == "b  idle  default"


def test_a_pipe_gets_one_line_of_cells_for_each_agent() -> None:
    """Control characters of names do not reach the output."""
    line = format_tree([agent("a", description="x\ny\x1b[2J", nickname="Nova")], PIPE)
    assert line.split("\t")[:4] == ["a", "idle", "Nova", "default"]
    assert "\x1b" not in line
    assert "\n" not in line


def test_a_transition_shows_both_statuses() -> None:
    """Only where the status changed."""
    assert describe_transition({"status": "running", "previous": "queued"}) == "queued → running"
    assert describe_transition({"status": "idle", "previous": "idle"}) == "idle"
    assert describe_transition({"status": "idle"}) == "idle"
