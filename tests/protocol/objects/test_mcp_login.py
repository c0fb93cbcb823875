"""Logins at MCP servers on the wire."""

from protocol.objects.mcp_login import METHODS, McpLoginComplete


def test_logins_are_for_administrators() -> None:
    """Each step needs the scope of secrets, and no answer has a token; a person types the user's code."""
    assert {method.scope for method in METHODS} == {"admin"}
    names = {name for method in METHODS for name in method.result.__struct_fields__}
    assert [name for name in names if "token" in name or "code" in name] == ["user_code"]


def test_the_answer_of_a_browser() -> None:
    """The issuer is optional: older authorization servers do not name it."""
    assert McpLoginComplete(login_id="l", code="c", state="s").iss is None
