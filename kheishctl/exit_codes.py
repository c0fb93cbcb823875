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
TIMED_OUT = 124
INTERRUPTED = 130

MEANINGS: tuple[tuple[int, str], ...] = (
    (OK, "success"),
    (FAILED, "refused or failed; the message says why"),
    (USAGE, "invalid command line"),
    (NO_DAEMON, "cannot reach a daemon"),
    (HOME_TAKEN, "another daemon uses the home"),
    (RUN_FAILED, "the run failed"),
    (RUN_STOPPED, "the run was cancelled or interrupted"),
    (RUN_WAITS, "the run waits for a person"),
    (EMPTY_ANSWER, "the run failed: the model's answer was empty"),
    (TIMED_OUT, "timed out waiting; the run continues"),
    (INTERRUPTED, "stopped by Ctrl-C"),
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


def code_for_run(run: Mapping[str, Any]) -> int:
    """Return the code for a run after waiting for it; an empty answer has a code of its own."""
    error = run.get("error") or {}
    is_empty = run.get("status") == "failed" and error.get("reason") == "empty_answer"
    return EMPTY_ANSWER if is_empty else code_for_status(str(run.get("status")))


def code_for_status(status: str) -> int:
    """Return the code for a run's status after waiting for it; an unsettled run means a timeout."""
    return OF_STATUS.get(status, TIMED_OUT)
