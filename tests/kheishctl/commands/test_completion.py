"""Completion scripts."""

import pytest

from kheishctl.commands.completion import SHELLS, build_script
from tests.support.ctl import Ctl


@pytest.mark.parametrize("shell", SHELLS)
def test_completion(ctl: Ctl, shell: str) -> None:
    """Each shell's script calls the program, and does not depend on the shells installed here."""
    done = ctl("completion", shell)
    assert done.code == 0
    assert done.out == build_script(shell).strip("\n") + "\n"
    assert "_KHEISHCTL_COMPLETE" in done.out


def test_zsh_completes_at_every_tab() -> None:
    """The zsh script holds no condition that fails at every second Tab."""
    assert "loadautofunc" not in build_script("zsh")
    assert "funcstack[1] == _kheishctl" in build_script("zsh")


def test_completion_of_another_shell(ctl: Ctl) -> None:
    """An unsupported shell is a usage error that names the supported shells."""
    done = ctl("completion", "csh")
    assert done.code == 2
    assert "bash" in done.err
