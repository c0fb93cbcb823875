"""Completion scripts."""

import pytest

from kheishctl.commands.completion import SHELLS, build_script
from tests.support.ctl import Ctl


@pytest.mark.parametrize("shell", SHELLS)
def test_completion(ctl: Ctl, shell: str) -> None:
    """Each shell's script calls the program back; the same text whatever is installed here."""
    done = ctl("completion", shell)
    assert done.code == 0
    assert done.out == build_script(shell).strip("\n") + "\n"
    assert "_KHEISHCTL_COMPLETE" in done.out


def test_zsh_is_told_apart_at_every_call() -> None:
    """The condition that fails at every second Tab is gone."""
    assert "loadautofunc" not in build_script("zsh")
    assert "funcstack[1] == _kheishctl" in build_script("zsh")


def test_completion_of_another_shell(ctl: Ctl) -> None:
    """A shell that is not supported is a usage error naming those that are."""
    done = ctl("completion", "csh")
    assert done.code == 2
    assert "bash" in done.err
