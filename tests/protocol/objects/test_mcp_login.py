"""Logins at MCP servers on the wire."""

from protocol.objects.mcp_login import METHODS, McpLoginComplete


def test_logins_are_for_administrators() -> None:
    """Each step needs the scope of secrets, and no answer has a token."""
    assert {method.scope for method in METHODS} == {"admin"}
    names = {name for method in METHODS for name in method.result.__struct_fields__}
    assert not any("token" in name or "code" in name for name in names)


def test_the_answer_of_a_browser() -> None:
    """The issuer is optional: older authorization servers do not name it."""
    assert McpLoginComplete(login_id="l", code="c", state="s").iss is None
