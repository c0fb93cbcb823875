"""Exit codes of kheishctl. Scripts rely on them: a released code keeps its meaning."""

from kheishctl.contract import RUN_WAITING

OK = 0
FAILED = 1
USAGE = 2
NO_DAEMON = 3
HOME_TAKEN = 4
RUN_FAILED = 5
RUN_STOPPED = 6
RUN_WAITS = 7
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
    (TIMED_OUT, "timed out waiting; the run continues"),
    (INTERRUPTED, "stopped by Ctrl-C"),
)
"""Every code with its meaning, for help texts and man pages."""

OF_STATUS = {
    "completed": OK,
    "failed": RUN_FAILED,
    "cancelled": RUN_STOPPED,
    "interrupted": RUN_STOPPED,
    **dict.fromkeys(RUN_WAITING, RUN_WAITS),
}
"""The code for each status in which a run, or a task, no longer continues by itself."""


def code_for_status(status: str) -> int:
    """Return the code for a run's status after waiting for it; an unsettled run means a timeout."""
    return OF_STATUS.get(status, TIMED_OUT)
