"""What the drivers share: options, counts, what a user said."""

import pytest

from kheishd.providers import anthropic, openai
from kheishd.providers.failures import Refusing
from kheishd.providers.wire import Driver, Post, Reader, malformed, shown, split_options, tokens
from protocol.transcript import AssetReference, Item, Text


def test_options_are_split() -> None:
    """``headers`` go into the head, in lower case; everything else goes into the body."""
    body, headers = split_options({"temperature": 0, "headers": {"X-Title": "kheish", "n": 1}})
    assert body == {"temperature": 0}
    assert headers == {"x-title": "kheish", "n": "1"}
    assert split_options({"headers": "none"}) == ({}, {})


@pytest.mark.parametrize(
    ("count", "kept"), [(None, 0), (0, 0), (7, 7), (7.0, 7), (-1, 0), (10**40, 10**9), (1e300, 10**9)]
)
def test_tokens(count: float | None, kept: int) -> None:
    """A count is a whole number not below zero that a record can hold, whatever a server sends."""
    assert tokens(count) == kept


def test_shown() -> None:
    """Texts are shown as they are, an asset by its name, nothing as nothing."""
    items: list[Item] = [Text("a"), Text(""), AssetReference("ast_1"), AssetReference("ast_2", "image/png")]
    assert shown(items) == [
        "a",
        "[attached file ast_1: its content is not shown here]",
        "[attached file ast_2, image/png: its content is not shown here]",
    ]


def test_a_post_hides_its_headers() -> None:
    """A request that is printed, in a log or a traceback, does not show the credential."""
    post = Post("https://api.test/v1", {"authorization": "Bearer sk-secret"}, b"{}")
    assert "sk-secret" not in f"{post!r} {post}"


@pytest.mark.parametrize("driver", [openai, anthropic])
def test_drivers_are_drivers(driver: Driver) -> None:
    """Every driver has what the exchange asks of one, and its reader begins with nothing."""
    reader: Reader = driver.reader(Refusing("api.test", None))
    assert driver.BASE_URL.startswith("https://")
    assert not reader.done
    assert reader.take() == []
    assert reader.end() is None


def test_malformed() -> None:
    """What is not as published may be better the next time."""
    failure = malformed("noise")
    assert (failure.reason, failure.retryable) == ("bad_response", True)
