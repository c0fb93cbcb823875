"""Claims and circumstances, as people read them."""

from kheishctl.render.claims import format_claim, format_facts


def test_the_words_of_a_command_are_apart() -> None:
    """Each word stands in brackets, and an invisible character has its name."""
    assert (
        format_claim({"words": ["git", "a b", "x\u3164"], "subject": "-"}) == "[git] [a b] [x⟨HANGUL FILLER⟩]"
    )
    assert format_claim({"subject": "net:pypi.org:443"}) == "net:pypi.org:443"


def test_circumstances_are_listed() -> None:
    """Each circumstance follows a comma; without any, nothing is written."""
    facts = {"workdir": "/w", "background": True, "sandbox": "on", "network": ["net:a:1"], "other": ["x"]}
    assert format_facts(facts) == ", in /w, in the background, sandbox on, net:a:1, x"
    assert format_facts({}) == ""
