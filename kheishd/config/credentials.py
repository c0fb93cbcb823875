"""Recognize credentials by their name or their form."""

from typing import Final

from protocol.lazy import lazy_pattern

# "max_tokens" and "token_budget" are options; "token", "api_key", "accessToken" and "Cookie" are credentials.
_NAME: Final = lazy_pattern(
    r"(?i:(^|[-_.])(api[-_]?key|key|auth|authorization|bearer|cookie|credentials?|secret|password|passwd"
    r"|passphrase|token)$)|[a-z](Key|Credentials?|Secret|Password|Token)$"
)
# A credential in a header with another name.
_VALUE: Final = lazy_pattern(r"(?i)(bearer|basic)\s+\S{8,}")


def is_credential(name: str, value: str = "") -> bool:
    """Whether a field of this name, or with this value, holds a credential."""
    return _NAME.search(name) is not None or _VALUE.fullmatch(value) is not None
