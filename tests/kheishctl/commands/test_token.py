"""``kheishctl token``."""

import pytest

from kheishctl import exit_codes
from tests.support.ctl import Ctl


def test_create(ctl: Ctl) -> None:
    """A pipe receives only the secret; the JSON document holds the grant as well."""
    assert ctl("token", "create", "--scope", "read").out.strip().isprintable()
    made = ctl.json(
        "token",
        "create",
        "--name",
        "ci",
        "--scope",
        "read",
        "--scope",
        "converse",
        "--sender",
        "ci",
        "--expires",
        "30d",
    )
    grant = made["token"]["grant"]
    assert (grant["scopes"], grant["senders"]) == (["read", "converse"], ["ci"])
    assert grant["expires_at_ms"] - made["token"]["created_at_ms"] == 30 * 86_400_000
    assert "agents" not in grant


def test_create_without_a_scope(ctl: Ctl) -> None:
    """A token without a scope is a usage error."""
    done = ctl("token", "create")
    assert done.code == exit_codes.USAGE
    assert "--scope" in done.err


def test_narrow(ctl: Ctl) -> None:
    """A narrowed token keeps the rights that are not given."""
    made = ctl.json("token", "create", "--scope", "read", "--scope", "converse", "--agent", "default")
    token_id = made["token"]["token_id"]
    narrow = ctl.json("token", "narrow", token_id, "--scope", "read")
    assert narrow["token"]["grant"] == {"scopes": ["read"], "agents": ["default"]}
    assert narrow["token"]["parent_token_id"] == token_id
    wider = ctl("token", "narrow", token_id, "--scope", "admin")
    assert wider.code == exit_codes.FAILED


def test_list_and_revoke(ctl: Ctl) -> None:
    """A revoked token is listed only with --revoked."""
    token_id = ctl.json("token", "create", "--scope", "read")["token"]["token_id"]
    assert token_id in [row[0] for row in ctl("token", "list", "--all").rows]
    assert token_id in ctl("token", "revoke", token_id, "--note", "over").out
    assert token_id not in [row[0] for row in ctl("token", "list", "--all").rows]
    assert token_id in [row[0] for row in ctl("token", "list", "--all", "--revoked").rows]


@pytest.mark.parametrize("words", [["revoke", "tok_none"], ["narrow", "tok_none", "--scope", "read"]])
def test_token_not_found(ctl: Ctl, words: list[str]) -> None:
    """An unknown token is refused."""
    assert ctl("token", *words).code == exit_codes.FAILED


@pytest.mark.parametrize("command", ["narrow", "revoke"])
def test_a_secret_is_no_id(ctl: Ctl, command: str) -> None:
    """A secret in place of an id is neither sent nor repeated."""
    secret = ctl("token", "create", "--scope", "read").out.strip()
    done = ctl("token", command, secret)
    assert done.code == exit_codes.USAGE
    assert "name the token by its id" in done.err
    assert secret not in done.err + done.out


def test_origin(ctl: Ctl) -> None:
    """A token can fix the origin of everything that it sends."""
    made = ctl.json("token", "create", "--scope", "converse", "--origin", "connector")
    assert made["token"]["grant"]["origin"] == "connector"
    assert "connector" in ctl("token", "list").out
