"""What the exit codes of kheishctl mean. Scripts rely on them; a released code keeps its meaning."""

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
    (OK, "done"),
    (FAILED, "refused or failed; the message says why"),
    (USAGE, "the command line is wrong"),
    (NO_DAEMON, "no daemon answers"),
    (HOME_TAKEN, "another daemon holds the home"),
    (RUN_FAILED, "the run failed"),
    (RUN_STOPPED, "the run was cancelled or interrupted"),
    (RUN_WAITS, "the run waits for a person"),
    (TIMED_OUT, "the time given is over; the work goes on"),
    (INTERRUPTED, "stopped by Ctrl-C"),
)
"""Every code with its meaning, for help texts and man pages."""

_OF_STATUS = {
    "completed": OK,
    "failed": RUN_FAILED,
    "cancelled": RUN_STOPPED,
    "interrupted": RUN_STOPPED,
    "waiting_for_approval": RUN_WAITS,
    "waiting_for_user_question": RUN_WAITS,
}


def of_status(status: str) -> int:
    """The code for a run's status after waiting for it; one that goes on has run out of time."""
    return _OF_STATUS.get(status, TIMED_OUT)
