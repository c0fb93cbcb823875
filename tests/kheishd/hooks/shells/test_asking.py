"""What looks like a question at the end of some output, and what does not."""

import pytest

from kheishd.hooks.shells.asking import looks_like_a_question


@pytest.mark.parametrize(
    "tail",
    [
        "Need to install the following packages:\ncreate-thing@1.0\nOk to proceed? (y) ",
        "Overwrite existing file? [y/N] ",
        "Do you want to continue? [Y/n]",
        "Are you sure (yes/no/[fingerprint])? ",
        "[sudo] password for ada: ",
        "Username for 'https://example.org': ",
        "Enter passphrase for key '/home/ada/.ssh/id':",
        "Press any key to go on\n",
        "Press ENTER to continue",
        "Continue? (yes/no)\n",
        "\x1b[1m\x1b[36m?\x1b[0m Project name: ",
        "What is your name? ",
        ">>> ",
        "mysql> ",
        "user@host:~$ ",
        "50%\r100%\nSelect a template\n  > ",
    ],
)
def test_a_question(tail: str) -> None:
    """It waits for somebody to type."""
    assert looks_like_a_question(tail)


@pytest.mark.parametrize(
    "tail",
    [
        "",
        "\n\n",
        "Listening on http://localhost:8080/\n",
        "Server started.\n",
        "compiling module 3 of 7 ...",
        "GET /index.html 200\n",
        "What could go wrong?\nNothing did.\n",
        "Done in 3 s",
        "warning: password is deprecated\n",
        "> build\n> tsc --watch\n\nWatching for file changes.\n",
    ],
)
def test_no_question(tail: str) -> None:
    """It works, or has nothing to say."""
    assert not looks_like_a_question(tail)


def test_it_does_not_take_long() -> None:
    """Whatever a program writes: this is asked on the daemon's loop."""
    for piece in ("(y/", "[n/", "password", "continue ", "\x1b[", "?"):
        looks_like_a_question(piece * (1024 // len(piece)))
