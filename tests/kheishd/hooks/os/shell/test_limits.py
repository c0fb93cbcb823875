"""The limits of commands: their form for the keeper, and the sentences about them."""

import pytest

from kheishd.config.sections.tools import LimitsSection
from kheishd.hooks.os.shell.limits import explain_excess, suspect_limit, write_limits
from kheishd.hooks.os.shell.watch import Limits
from protocol.limits.units import GIB, MIB


def test_the_keeper_reads_them() -> None:
    """The keeper is told every limit; memory never exceeds the machine's."""
    limits = Limits(write_limits(LimitsSection(max_processes=77, max_memory_bytes=1 << 60), reserve_bytes=9))
    assert (limits.processes, limits.reserve) == (77, 9)
    assert (limits.growth, limits.file, limits.descriptors) == (16 * GIB, 16 * GIB, 16_384)
    assert 0 < limits.memory < 1 << 60
    assert Limits(write_limits(LimitsSection(max_memory_bytes=64 * MIB))).memory == 64 * MIB


@pytest.mark.parametrize(
    ("exceeded", "text"),
    [
        ("memory", "used more memory than allowed, 64 MiB (the operator can raise tools.limits.max_memory_"),
        ("processes", "more processes and threads than allowed, 4096 (the operator can raise tools.limits."),
        ("growth", "wrote more than allowed, 16384 MiB (the operator can raise tools.limits.max_growth_byt"),
        ("files", "created more files than allowed, 1048576 (the operator can raise tools.limits.max_growth"),
        ("reserve", "it wrote to a disk that is nearly full"),
        ("mounts", "another program replaced, renamed or removed a file that the command may not change"),
    ],
)
def test_an_excess_names_its_limit(exceeded: str, text: str) -> None:
    """The sentence names the limit and the key that raises it."""
    assert text in explain_excess(exceeded, LimitsSection(max_memory_bytes=64 * MIB))


@pytest.mark.parametrize(
    ("code", "errors", "key"),
    [
        (153, "", "max_file_bytes"),
        (1, "dd: error writing 'x': File too large", "max_file_bytes"),
        (1, "OSError: [Errno 24] Too many open files: '/dev/null'", "max_open_files"),
        (254, "bash: fork: retry: Resource temporarily unavailable", "max_processes"),
        (159, "", "another architecture"),
        (1, "no such target", None),
        (0, "Too many open files", None),
    ],
)
def test_signs_of_a_limit(code: int, errors: str, key: str | None) -> None:
    """A failed command whose errors look like a limit of the kernel has a note about it."""
    suspicion = suspect_limit(code, errors, LimitsSection())
    assert suspicion is None if key is None else key in (suspicion or "")
