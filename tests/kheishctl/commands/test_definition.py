"""``kheishctl definition``."""

from pathlib import Path

from tests.support.ctl import Ctl


def test_list(ctl: Ctl) -> None:
    """The built-in agent is listed."""
    assert ["default", "built_in"] in [row[:2] for row in ctl("definition", "list").rows]


def test_show(ctl: Ctl) -> None:
    """A definition is shown with its properties first and its instructions last."""
    agent = ctl.json("definition", "show", "default")
    text = ctl("definition", "show", "default").out
    assert text.startswith("name\tdefault\n")
    assert text.rstrip().endswith(agent["instructions"].rstrip())


def test_show_agent_not_found(ctl: Ctl) -> None:
    """An unknown agent is refused with a hint."""
    done = ctl("definition", "show", "nobody")
    assert done.code == 1
    assert "nobody" in done.err


def test_put_and_delete(ctl: Ctl, tmp_path: Path) -> None:
    """A stored agent answers at once, and no more once it is deleted; its conversation stays readable."""
    file = tmp_path / "echoer.md"
    file.write_text("---\ndescription: Echoes.\n---\nEcho.")
    assert ctl.json("definition", "put", "echoer", str(file))["source"] == "stored"
    assert "Echoes." in ctl("definition", "list").out
    assert ctl("send", "echoer", "hello").code == 0
    settings = '{"description": "Echoes more."}'
    ctl.json("definition", "put", "echoer", "--settings", settings, "--instructions", "Echo more.")
    assert ctl.json("definition", "show", "echoer")["instructions"] == "Echo more."
    assert ctl.json("definition", "delete", "echoer") == {"name": "echoer"}
    put = ctl(
        "definition", "put", "odd", "--settings", '{"members": ["defualt"]}', "--instructions", "Hi."
    ).out
    assert "digest of instructions" in put
    assert "did you mean 'default'?" in put
    assert put.endswith("Hi.\n")
    refused = ctl("send", "echoer", "hello")
    assert (refused.code, "there is no agent 'echoer'" in refused.err) == (1, True)
    assert "hello" in ctl("conversation", "history", "echoer").out


def test_put_of_a_bad_file(ctl: Ctl, tmp_path: Path) -> None:
    """The refusal names the line; bytes that are not UTF-8 are refused before they are sent."""
    file = tmp_path / "bad.md"
    file.write_text("---\nroute: gone\n---\n")
    assert "line 2: route: no route 'gone'" in ctl("definition", "put", "bad", str(file)).err
    file.write_bytes(b"\xff")
    assert "is not UTF-8" in ctl("definition", "put", "bad", str(file)).err
