"""Credentials by reference: their sources, and messages that contain only the reference."""

from pathlib import Path

import msgspec
import pytest

from kheishd.kernel.credentials import (
    MAX_CREDENTIAL_BYTES,
    CredentialMissing,
    find_problem,
    find_secrets,
    resolve_credential,
)
from kheishd.kernel.runtime import RouteSpec


class Slots:
    """Slots in memory, whose values the test sets."""

    def __init__(self, **values: str) -> None:
        self.values = values

    def read(self, slot_id: str) -> str | None:
        """Return a value."""
        return self.values.get(slot_id)

    def problem(self, slot_id: str) -> str | None:
        """Return that a slot is empty."""
        return None if slot_id in self.values else "is empty"


NONE = Slots()


def spec(auth_ref: str | None, name: str = "r") -> RouteSpec:
    """Return a route that names a credential."""
    return RouteSpec(name, "openai", "m", auth_ref=auth_ref)


def test_no_reference() -> None:
    """A route without a reference needs no credential."""
    assert resolve_credential(None, NONE, {}) is None
    assert find_problem(None, NONE, {}) is None


def test_env() -> None:
    """A variable is read at each call, and surrounding space is stripped."""
    environ = {"KEY": " sk-first \n"}
    assert resolve_credential("env:KEY", NONE, environ) == "sk-first"
    environ["KEY"] = "sk-second"
    assert resolve_credential("env:KEY", NONE, environ) == "sk-second"
    assert find_problem("env:KEY", NONE, environ) is None


def test_credential(tmp_path: Path) -> None:
    """A systemd credential is a file that is read at each call."""
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert "'credential:key' is not set" in (find_problem("credential:key", NONE, environ) or "")
    (tmp_path / "key").write_text("sk-first\n")
    assert resolve_credential("credential:key", NONE, environ) == "sk-first"
    (tmp_path / "key").write_text("sk-second\n")
    assert resolve_credential("credential:key", NONE, environ) == "sk-second"


@pytest.mark.parametrize(
    ("auth_ref", "note"),
    [
        ("env:MISSING", "not set in the daemon's environment"),
        ("env:SHORT", "fewer than 8 characters, too few to be redacted"),
        ("env:EMPTY", "not set in the daemon's environment"),
        ("env:TWO_LINES", "an HTTP header cannot hold"),
        ("env:UMLAUT", "an HTTP header cannot hold"),
        ("credential:missing", "not set in the credentials directory"),
        ("credential:binary", "not set in the credentials directory"),
        ("credential:..", "not a credential reference"),
        ("credential:a/b", "not a credential reference"),
        ("slot:name", "the slot 'name' is empty"),
        ("slot:a/b", "not a credential reference"),
        ("sk-the-key-itself", "not a credential reference"),
        ("env:", "not a credential reference"),
        ("", "not a credential reference"),
    ],
)
def test_problems(tmp_path: Path, auth_ref: str, note: str) -> None:
    """The message about an unresolved reference names the reference and no value."""
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    environ = {
        "CREDENTIALS_DIRECTORY": str(tmp_path),
        "EMPTY": "  ",
        "TWO_LINES": "sk-secret\nx: y",
        "UMLAUT": "sk-secret-ü",
        "SHORT": "sk-1234",
    }
    with pytest.raises(CredentialMissing) as raised:
        resolve_credential(auth_ref, NONE, environ)
    message = str(raised.value)
    assert note in message
    assert "sk-" not in message.removeprefix(f"'{auth_ref}'")
    assert find_problem(auth_ref, NONE, environ) == message


def test_slot() -> None:
    """A slot is read at each call; its value has the limits of every credential."""
    slots = Slots(key="sk-first\n", short="sk-1")
    assert resolve_credential("slot:key", slots, {}) == "sk-first"
    slots.values["key"] = "sk-second"
    assert resolve_credential("slot:key", slots, {}) == "sk-second"
    assert "fewer than 8 characters" in (find_problem("slot:short", slots, {}) or "")
    assert find_secrets([spec("slot:key")], slots, {}) == ["sk-second"]


def test_no_credentials_directory() -> None:
    """Outside systemd the message says that there is no credentials directory."""
    assert "credentials directory" in (find_problem("credential:key", NONE, {}) or "")


def test_a_huge_file_is_no_credential(tmp_path: Path) -> None:
    """A file that is too large is refused without being read whole, and is never truncated."""
    (tmp_path / "huge").write_text("x" * (MAX_CREDENTIAL_BYTES + 1))
    assert "is not set" in (
        find_problem("credential:huge", NONE, {"CREDENTIALS_DIRECTORY": str(tmp_path)}) or ""
    )


def test_credentials_elsewhere_are_known() -> None:
    """A header of a route and the password of a proxy are redacted, too, if they are long enough."""
    headers = {
        "X-Api-Key": "key-of-a-header",
        "Authorization": "Bearer token-of-a-header",
        "X-Title": "harmless-title",
    }
    route = msgspec.structs.replace(spec(None), options={"headers": headers})
    environ = {
        "HTTPS_PROXY": "http://user:p%40ssword-1@proxy:3128",
        "http_proxy": "http://u:short@proxy",
        "X": "a:b@c",
    }
    assert set(find_secrets([route], NONE, environ)) == {
        "key-of-a-header",
        "token-of-a-header",
        "p%40ssword-1",
        "p@ssword-1",
    }


def test_known_secrets() -> None:
    """Known secrets are the existing values long enough to redact, the longest first."""
    environ = {"A": "short", "B": "sk-12345678", "C": "sk-12345678-and-more", "D": "12345678"}
    routes = [spec(f"env:{name}") for name in ("A", "B", "C", "D", "B", "MISSING")]
    secrets = find_secrets([*routes, spec(None), spec("nonsense")], NONE, environ)
    assert secrets == ["sk-12345678-and-more", "sk-12345678", "12345678"]


def test_secrets_of_several_keys() -> None:
    """Every key of a route is redacted."""
    route = RouteSpec("r", "openai", "m", auth_ref="env:A", auth_refs=("env:A", "env:B", "env:C"))
    assert find_secrets([route], NONE, {"A": "sk-first-key", "B": "sk-second"}) == [
        "sk-first-key",
        "sk-second",
    ]
