"""The person's settings of the chat: ``$XDG_CONFIG_HOME/kheish/client.toml``."""

import os
from collections.abc import Mapping
from typing import Literal, Self

import msgspec

from kheishctl.client import Failure

EditingMode = Literal["emacs", "vi"]

NoticeKind = Literal["auto", "bell", "osc9", "osc777", "off"]

SETTINGS_NAME = os.path.join("kheish", "client.toml")

MAX_SETTINGS_BYTES = 64 * 1_024


class ChatSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The settings. A missing file, and a missing field, mean the default."""

    editing_mode: EditingMode = "emacs"
    notice: NoticeKind = "auto"
    notice_command: tuple[str, ...] = ()
    terminal_title: bool = True
    theme: Literal["auto", "light", "dark"] = "auto"
    plain: bool = False

    def prefer(self, *, vi: bool, plain: bool) -> Self:
        """Return the settings under the options of a command, which take precedence."""
        editing_mode = "vi" if vi else self.editing_mode
        return msgspec.structs.replace(self, editing_mode=editing_mode, plain=plain or self.plain)

    def has_plain_lines(self, environ: Mapping[str, str]) -> bool:
        """Whether the chat writes plain lines: by the setting, or because the terminal can do no more."""
        return self.plain or environ.get("TERM", "dumb") in ("", "dumb", "unknown")


def locate_settings() -> str:
    """Return the settings' file: ``$XDG_CONFIG_HOME/kheish/client.toml``, else under ``~/.config``."""
    config = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return os.path.join(config, SETTINGS_NAME)


def read_settings(path: str) -> ChatSettings:
    """Read the settings. Errors: Failure with the file, the field and the reason if they are invalid."""
    try:
        with open(path, "rb") as file:
            text = file.read(MAX_SETTINGS_BYTES + 1)
    except FileNotFoundError:
        return ChatSettings()
    except OSError as error:
        raise Failure(f"{path}: {error.strerror}") from error
    if len(text) > MAX_SETTINGS_BYTES:
        raise Failure(f"{path} is larger than {MAX_SETTINGS_BYTES // 1_024} KiB")
    # Imported here, because most people have no such file.
    import tomllib

    try:
        return msgspec.convert(tomllib.loads(text.decode()), ChatSettings)
    except (ValueError, RecursionError) as error:
        raise Failure(f"{path}: {error}; 'kheishctl chat --help' lists the settings") from error
