"""Tests of the chat's settings."""

from pathlib import Path

import pytest

from kheishctl.client import Failure
from kheishctl.shell.settings import MAX_SETTINGS_BYTES, ChatSettings, locate_settings, read_settings


def test_location(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is in $XDG_CONFIG_HOME, else in the person's home."""
    monkeypatch.setenv("XDG_CONFIG_HOME", "/config")
    assert locate_settings() == "/config/kheish/client.toml"
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", "/home/ada")
    assert locate_settings() == "/home/ada/.config/kheish/client.toml"


def test_defaults(tmp_path: Path) -> None:
    """Without a file, every setting has its default; an option of the command takes precedence."""
    settings = read_settings(str(tmp_path / "client.toml"))
    assert settings == ChatSettings()
    assert settings.prefer(vi=True, plain=False).editing_mode == "vi"
    assert settings.prefer(vi=False, plain=False) == settings
    assert settings.prefer(vi=False, plain=True).plain
    assert ChatSettings(plain=True).prefer(vi=False, plain=False).plain


def test_plain_lines() -> None:
    """The setting, and a terminal that can do no more, cause plain lines."""
    assert ChatSettings(plain=True).has_plain_lines({"TERM": "xterm"})
    assert not ChatSettings().has_plain_lines({"TERM": "xterm"})
    assert all(ChatSettings().has_plain_lines(environ) for environ in ({}, {"TERM": "dumb"}, {"TERM": ""}))


def test_settings(tmp_path: Path) -> None:
    """Settings are read from TOML."""
    text = """
        editing_mode = "vi"
        notice = "osc9"
        notice_command = ["notify-send"]
        terminal_title = false
        theme = "dark"
        plain = true
    """
    (tmp_path / "client.toml").write_text(text)
    settings = ChatSettings("vi", "osc9", ("notify-send",), False, "dark", plain=True)
    assert read_settings(str(tmp_path / "client.toml")) == settings


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'editing_mode = "ed"', "$.editing_mode"),
        (b'editing_mood = "vi"', "editing_mood"),
        (b"editing_mode = vi", "line 1"),
        (b"notice_command = 'notify-send'", "$.notice_command"),
        (b"editing_mode = '\xff'", "utf-8"),
        (b"a = " + b"[" * 30_000, "kheishctl chat --help"),
        (b"#" * (MAX_SETTINGS_BYTES + 1), "64 KiB"),
    ],
    ids=["value", "name", "syntax", "type", "encoding", "depth", "size"],
)
def test_invalid_settings(tmp_path: Path, content: bytes, reason: str) -> None:
    """An invalid file is rejected with its path and the reason."""
    path = tmp_path / "client.toml"
    path.write_bytes(content)
    with pytest.raises(Failure) as failure:
        read_settings(str(path))
    assert reason in str(failure.value)
    assert str(path) in str(failure.value)


def test_unreadable_settings(tmp_path: Path) -> None:
    """A file that cannot be read is rejected with its path."""
    with pytest.raises(Failure, match="Is a directory"):
        read_settings(str(tmp_path))
