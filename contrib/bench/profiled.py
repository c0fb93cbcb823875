"""The daemon under a sampling profiler of processor time.

    python -m contrib.bench.profiled --home DIR

SIGUSR2 begins the measurement. At the end of the daemon its samples are in ``DIR.profile``: stacks, the
innermost frame first, and how often each was seen. A timer of the process's processor time triggers the
samples, so waiting is not seen and nothing is slowed down; a sample belongs to the threads that do not wait.
"""

import json
import linecache
import signal
import sys
import threading
from collections import Counter
from pathlib import Path
from types import FrameType

from kheishd.__main__ import main

SAMPLE_SECONDS = 0.001
"""The shortest interval. The kernel's timer is usually coarser."""
SWITCH_SECONDS = 1e-6
"""Short, so that the thread that holds the interpreter is still where it was when the main thread looks."""
WAITING = (("_io_epoll.py", "get_events"), ("writer.py", "_write"), ("_thread_cache.py", "_work"))
"""The innermost functions of threads that wait for work."""

Stack = tuple[tuple[str, str, int], ...]
"""Frames as file, function and line, the innermost first."""


class Sampler:
    """The stacks of threads that do not wait."""

    def __init__(self) -> None:
        self.samples: Counter[Stack] = Counter()

    def begin(self, *_: object) -> None:
        """Begin the measurement."""
        self.samples.clear()
        sys.setswitchinterval(SWITCH_SECONDS)
        signal.setitimer(signal.ITIMER_PROF, SAMPLE_SECONDS, SAMPLE_SECONDS)

    def sample(self, _: int, own: FrameType | None) -> None:
        """Record the stacks of the busy threads; without any, the main thread only looked for work."""
        frames = sys._current_frames()
        frames.pop(threading.get_ident())
        main_stack = stack_of(own)
        stacks = [stack for stack in (main_stack, *map(stack_of, frames.values())) if not is_waiting(stack)]
        self.samples.update(stacks or [main_stack])

    def write(self, path: Path) -> None:
        """Write the samples, with the source lines of the innermost frames."""
        signal.setitimer(signal.ITIMER_PROF, 0)
        rows = [
            {
                "count": count,
                "line": linecache.getline(*stack[0][::2]).strip(),
                "frames": [f"{file}:{function}" for file, function, _ in stack],
            }
            for stack, count in self.samples.items()
            if stack
        ]
        path.write_text(json.dumps(rows))


def stack_of(frame: FrameType | None) -> Stack:
    """Return the stack that ends in a frame."""
    stack = []
    while frame is not None:
        stack.append((frame.f_code.co_filename, frame.f_code.co_qualname, frame.f_lineno or 0))
        frame = frame.f_back
    return tuple(stack)


def is_waiting(stack: Stack) -> bool:
    """Whether a thread waits for work."""
    file, function, _ = stack[0]
    return any(file.endswith(end) and function.endswith(name) for end, name in WAITING)


if __name__ == "__main__":
    sampler = Sampler()
    signal.signal(signal.SIGPROF, sampler.sample)
    signal.signal(signal.SIGUSR2, sampler.begin)
    status = main()
    sampler.write(Path(sys.argv[sys.argv.index("--home") + 1] + ".profile"))
    sys.exit(status)
