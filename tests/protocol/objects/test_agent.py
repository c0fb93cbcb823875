"""Agents: the shapes of params and records."""

from typing import Any

import pytest

from protocol.limits.agent import (
    MAX_AGENT_DESCRIPTION_BYTES,
    MAX_AGENT_PROMPT_BYTES,
    MAX_NICKNAME_BYTES,
)
from protocol.objects.agent import AgentClose, AgentListParams, AgentRef, AgentRename, SpawnParams
from tests.support.samples import refuse, take

NEW = {"parent": "ses_1", "name": "scout", "prompt": "look"}


@pytest.mark.parametrize(
    ("kind", "params", "field"),
    [
        (SpawnParams, {"parent": "ses_1"}, "$.params.name"),
        (SpawnParams, {"name": "x"}, "$.params.parent"),
        (SpawnParams, NEW | {"name": ""}, "$.params.name"),
        (SpawnParams, NEW | {"retention": "forever"}, "$.params.retention"),
        (SpawnParams, NEW | {"permission_mode": "root"}, "$.params.permission_mode"),
        (SpawnParams, NEW | {"instructions": "x" * (MAX_AGENT_PROMPT_BYTES + 1)}, "$.params.instructions"),
        (SpawnParams, NEW | {"instructions_mode": "prepend"}, "$.params.instructions_mode"),
        (SpawnParams, NEW | {"description": "x" * (MAX_AGENT_DESCRIPTION_BYTES + 1)}, "$.params.description"),
        (SpawnParams, NEW | {"nickname": "x" * (MAX_NICKNAME_BYTES + 1)}, "$.params.nickname"),
        (SpawnParams, NEW | {"model": "m\x1b[0m"}, "$.params.model"),
        (SpawnParams, NEW | {"model": "m\n"}, "$.params.model"),
        (SpawnParams, NEW | {"route": "r\n"}, "$.params.route"),
        (SpawnParams, NEW | {"spawned_by_run_id": "run_1"}, "$.params.spawned_by_run_id"),
        (AgentRef, {"agent": ""}, "$.params.agent"),
        (AgentRename, {"agent": "a", "nickname": ""}, "$.params.nickname"),
        (AgentClose, {"agent": "a", "note": 1}, "$.params.note"),
        (AgentListParams, {"status": "busy"}, "$.params.status"),
    ],
)
def test_a_bad_value_is_refused_by_its_field(kind: Any, params: dict[str, Any], field: str) -> None:
    """The refusal names the field; no client can claim that a run spawned the agent."""
    assert refuse(kind, params) == field


def test_a_spawn_needs_a_parent_a_name_and_a_task() -> None:
    """Everything else has a default that gives no right."""
    params = take(SpawnParams, NEW)
    assert (params.retention, params.scope, params.permission_mode) == ("retain", None, None)
