"""The generated constants of the client agree with the protocol."""

import subprocess
import sys
from typing import get_args

import pytest

from kheishctl import contract, exit_codes
from kheishctl.commands import approval, indoubt, question, run, send, session, task, token
from kheishctl.render import events, follower, messages, pending
from kheishctl.render import run as render_run
from protocol.contract import FollowUp
from protocol.journal.line import EVENT_TYPES
from protocol.objects.approval import ApprovalStatus, Remember
from protocol.objects.indoubt import IndoubtStatus
from protocol.objects.permission import PermissionMode
from protocol.objects.question import QuestionStatus
from protocol.objects.run import ENDED, SETTLED, Busy, CallState, RunStatus
from protocol.objects.task import OPEN, TaskKind, TaskStatus
from protocol.rpc.catalogue import METHODS
from protocol.rpc.method import SCOPES
from tests.house.sources import ROOT

IN_DOUBT = tuple(status.replace("_", "-") for status in get_args(IndoubtStatus))


def test_the_file_is_generated() -> None:
    """kheishctl/contract.py is exactly the output of its generator."""
    program = "import contract_table; raise SystemExit(not contract_table.update_contract(check=True))"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = ['contrib', '.']; {program}"],
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, "run contrib/generate"


def test_the_file_needs_the_standard_library_only() -> None:
    """Importing the constants imports no message types."""
    program = "import sys, kheishctl.program, kheishctl.commands.run; print('msgspec' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"


def test_statuses() -> None:
    """The statuses are those of the protocol, in its order."""
    assert get_args(RunStatus) == contract.RUN_STATUSES
    assert set(contract.RUN_ENDED) == ENDED
    assert set(contract.RUN_WAITING) == SETTLED - ENDED
    assert get_args(TaskStatus) == contract.TASK_STATUSES
    assert set(contract.TASK_OPEN) == OPEN
    assert tuple(METHODS) == contract.METHODS


@pytest.mark.parametrize(
    ("command", "parameter", "choices"),
    [
        (approval.list_, "status", (*get_args(ApprovalStatus), "any")),
        (approval.allow, "remember", get_args(Remember)),
        (question.list_, "status", (*get_args(QuestionStatus), "any")),
        (indoubt.list_, "status", (*IN_DOUBT, "any")),
        (indoubt.resolve, "outcome", ("done", "not-done")),
        (run.list_, "status", get_args(RunStatus)),
        (session.list_, "status", ("open", "ended")),
        (session.create, "permission_mode", get_args(PermissionMode)),
        (task.list_, "status", (*get_args(TaskStatus), "open", "any")),
        (task.list_, "kind", get_args(TaskKind)),
        (task.update, "status", get_args(TaskStatus)),
        (token.create, "scopes", SCOPES),
        (send.send, "debug", ("off", "redacted", "full")),
        (send.send, "busy", get_args(Busy)),
        (session.update, "busy", get_args(Busy)),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_options_offer_the_values_of_the_protocol(
    command: object, parameter: str, choices: tuple[str, ...]
) -> None:
    """Every option with a fixed set of values accepts the protocol's values and no others."""
    (option,) = [option for option in command.params if option.name == parameter]  # type: ignore[attr-defined]
    assert tuple(option.type.choices) == choices


def test_clearable_properties() -> None:
    """The properties that an update can clear are known with the value that clears each."""
    assert contract.TASK_EMPTY == {"description": "", "owner": None, "blocked_by": (), "metadata": {}}
    assert {"route": None, "model": None, "metadata": {}}.items() <= contract.SESSION_EMPTY.items()
    assert "scope" not in contract.SESSION_EMPTY


def test_every_event_has_a_summary() -> None:
    """A new type of event fails this test until it has a summary."""
    assert events.SUMMARIES.keys() == EVENT_TYPES


def test_every_status_has_a_style() -> None:
    """A new status, call state or cause of a follow-up fails this test until it has a style or a text."""
    assert render_run.STATUS_STYLE.keys() == set(get_args(RunStatus))
    assert render_run.CALL_STATES.keys() == set(get_args(CallState))
    statuses = {*get_args(ApprovalStatus), *get_args(QuestionStatus), *get_args(IndoubtStatus)}
    assert pending.STATUS_STYLE.keys() == statuses
    assert follower.FOLLOW_UP_NOTES.keys() == set(get_args(FollowUp))
    assert exit_codes.OF_STATUS.keys() == SETTLED
    assert messages.STOP_NOTES.keys() == {"length", "refusal"}
