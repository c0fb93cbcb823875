"""Exit codes of kheishctl. Scripts rely on them: a released code keeps its meaning."""

from collections.abc import Mapping
from typing import Any

from kheishctl.contract import RUN_WAITING

OK = 0
FAILED = 1
USAGE = 2
NO_DAEMON = 3
HOME_TAKEN = 4
RUN_FAILED = 5
RUN_STOPPED = 6
RUN_WAITS = 7
EMPTY_ANSWER = 8
CONTRACT_VIOLATED = 9
BUDGET_EXCEEDED = 10
TIMED_OUT = 124
INTERRUPTED = 130
PIPE_CLOSED = 141
"""128 + SIGPIPE, as shells report a program that the signal ended."""

MEANINGS: tuple[tuple[int, str], ...] = (
    (OK, "success"),
    (FAILED, "refused or failed; the message says why"),
    (USAGE, "invalid command line"),
    (NO_DAEMON, "cannot reach a daemon"),
    (HOME_TAKEN, "another daemon uses the home"),
    (RUN_FAILED, "the run failed: the model, the provider or the daemon; the message says why"),
    (RUN_STOPPED, "the run was cancelled or interrupted"),
    (RUN_WAITS, "the run waits for a person"),
    (EMPTY_ANSWER, "the run failed: the model's answer was empty"),
    (
        CONTRACT_VIOLATED,
        "the run failed: its answer violates the output contract, or a required file is missing",
    ),
    (BUDGET_EXCEEDED, "the run failed: it exceeded a limit of tokens, time or cost"),
    (TIMED_OUT, "timed out waiting; the run continues"),
    (INTERRUPTED, "stopped by Ctrl-C"),
    (PIPE_CLOSED, "the reader of the output closed the pipe, as head does"),
)
"""Every code with its meaning, for help texts and man pages."""

OF_START = "If the daemon does not start, 'daemon start' ends with the daemon's exit code; see its help."
"""The exception to the table."""

OF_STATUS = {
    "completed": OK,
    "failed": RUN_FAILED,
    "cancelled": RUN_STOPPED,
    "interrupted": RUN_STOPPED,
    **dict.fromkeys(RUN_WAITING, RUN_WAITS),
}
"""The code for each status in which a run, or a task, no longer continues by itself."""


OF_REASON = {
    "empty_answer": EMPTY_ANSWER,
    **dict.fromkeys(("output_contract_violated", "completion_required"), CONTRACT_VIOLATED),
    **dict.fromkeys(("token_budget", "time_budget", "cost_budget"), BUDGET_EXCEEDED),
}
"""The code for each reason of a failed run that has a code of its own."""


def code_for_run(run: Mapping[str, Any]) -> int:
    """Return the code for a run after waiting for it; for a failed run, by the reason of its error."""
    code = code_for_status(str(run.get("status")))
    return OF_REASON.get((run.get("error") or {}).get("reason", ""), code) if code == RUN_FAILED else code


def code_for_status(status: str) -> int:
    """Return the code for a run's status after waiting for it; an unsettled run means a timeout."""
    return OF_STATUS.get(status, TIMED_OUT)
