"""The daemon's own words: a secret that occurs in one is found before it is redacted there."""

import pytest

from kheishd.core.text.vocabulary import find_collision


@pytest.mark.parametrize(
    "text", ["completed", "complete", "input_tokens", "anthropic", "workspace", "secret_stored"]
)
def test_a_word_of_the_daemon(text: str) -> None:
    """Constants, names of fields and of events, and parts of them collide."""
    word = find_collision([text], ())
    assert word is not None
    assert text in word


def test_a_name() -> None:
    """Names of the installation collide, and so does an id that the daemon made, as a whole."""
    assert find_collision(["reviewer"], ["the-reviewer"]) == "the-reviewer"
    own_id = "ses_" + "0V" * 13
    assert find_collision([own_id], ()) == own_id
    assert find_collision([own_id[:12]], ()) is None


@pytest.mark.parametrize("text", ["sk-0123456789", "password", "correct horse battery staple"])
def test_an_ordinary_secret(text: str) -> None:
    """Anything else is accepted, even an ordinary word."""
    assert find_collision([text], ["default", "offline"]) is None
