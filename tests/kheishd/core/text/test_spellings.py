"""The spellings in which a secret is found, whole and in chunks."""

import base64
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishd.core.text.scrub import Scrubber
from kheishd.core.text.spellings import Spellings
from kheishd.core.text.stream import TextStreamScrubber, scrub_value
from tests.support.spellings import spell

SECRET = 'sk-"quo/ted\\and"-12+34'


def has_secret(text: str, secret: str = SECRET) -> bool:
    """Whether more than a part of a secret can be read from a text."""
    middle = secret[2:-2]
    cores = [base64.b64encode(bytes(shift) + secret.encode())[4:-4].decode() for shift in range(3)]
    letters = "".join(text.split())
    return middle in text or any(core in letters for core in cores) or secret.encode().hex() in letters


@pytest.mark.parametrize("name", list(spell(SECRET)))
@pytest.mark.parametrize("size", [1, 2, 3, 10, 1000])
def test_a_spelling_is_found_at_any_cut(name: str, size: int) -> None:
    """Each spelling is replaced in a whole text and in a stream of chunks; the text around it stays."""
    text = f"before {spell(SECRET)[name]} after"
    scrubber, stream = Scrubber([SECRET, "another-secret"]), TextStreamScrubber()
    whole = scrubber.scrub_text(text)
    assert "[scrubbed]" in whole
    assert whole.startswith("before ")
    assert whole.endswith(" after")
    assert not has_secret(whole)
    chunks = [text[start : start + size] for start in range(0, len(text), size)]
    output = [*(stream.feed(chunk, scrubber) for chunk in chunks), stream.finish(scrubber)]
    assert "".join(output) == whole
    assert scrubber.scrub_bytes(text.encode()) == whole.encode()
    assert scrub_value({"a": [text]}, scrubber) == {"a": [whole]}


@given(
    # A backslash of its own may look like a part of the escapes around it.
    st.text(
        st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="\\"), min_size=8, max_size=24
    ),
    st.sampled_from(sorted(spell("x" * 9))),
    st.text(max_size=12),
    st.text(max_size=12),
)
def test_no_secret_survives_in_any_spelling(secret: str, name: str, before: str, after: str) -> None:
    """Whatever a secret's characters and surroundings are, some of it is replaced in each spelling."""
    spelling = spell(secret)[name]
    scrubbed = Scrubber([secret]).scrub_text(f"{before} {spelling} {after}")
    assert "[scrubbed]" in scrubbed
    assert spelling not in scrubbed.replace("[scrubbed]", "")


@pytest.mark.parametrize("secret", ["00000-00", "00000%00", "00000>00", "00000+-0", "0000%41%25", ">+-|#>>>"])
@pytest.mark.parametrize("name", sorted(spell("x" * 9)))
def test_signs_of_a_secret_are_not_taken_for_those_around_it(secret: str, name: str) -> None:
    """A secret is found if it looks like an escape, and if a sign of its own follows the prefix of a line."""
    spelling = spell(secret)[name]
    assert spelling not in Scrubber([secret]).scrub_text(f"a {spelling} b")


def test_a_backslash_before_a_secret_hides_nothing() -> None:
    """The beginning of a secret is not taken for the rest of an escape."""
    for secret in ("new-token-123", "token-12345", "u0041bcdefgh", "x41bcdefghij", "41bcdefghijk"):
        for sign in ("\\", "%", "&", "C:\\", "\\\\"):
            assert secret not in Scrubber([secret]).scrub_text(f"{sign}{secret}")


@pytest.mark.parametrize("before", [b"", b"u", b"us", b"use", b"user", b"user:"])
def test_base32_is_found(before: bytes) -> None:
    """A secret in base32 is found at any of its five alignments."""
    encoded = base64.b32encode(before + SECRET.encode()).decode()
    scrubbed = Scrubber([SECRET]).scrub_text(f"it is {encoded} here")
    assert scrubbed.startswith("it is ")
    assert "[scrubbed]" in scrubbed
    assert encoded[8:-8] not in scrubbed


def test_ordinary_text_is_not_touched() -> None:
    """Without a secret, the same object is returned."""
    scrubber = Scrubber([SECRET, "ghp_abcdefghijklmnopqrstuvwxyz"])
    for text in ("", "a b", "\\n\\t\\u0041 %41 &amp; = \r\n", "c2st" * 100, "73" * 100, "\ud800 é 日"):
        assert scrubber.scrub_text(text) is text


def test_signs_alone_are_a_secret_too() -> None:
    """A secret without letters and digits is found as it is."""
    assert Scrubber(["-+/=-+/=-"]).scrub_text("a -+/=-+/=- b") == "a [scrubbed] b"


def test_a_short_secret_is_found_as_it_is() -> None:
    """Its other spellings would be found in ordinary text."""
    scrubber = Scrubber(["abc"])
    assert scrubber.scrub_text("abc %61%62%63") == "[scrubbed] %61%62%63"


def test_overlapping_secrets_are_one_span() -> None:
    """Nothing of either remains."""
    spellings = Spellings(["secret-one-1", "one-1-secret-two"])
    assert spellings.find_spans(b"a secret-one-1-secret-two b") == [(2, 25)]


def test_a_large_text_takes_linear_time() -> None:
    """Four megabytes without a secret, and one of nothing but escapes, take little time."""
    scrubber = Scrubber([SECRET, "ghp_abcdefghijklmnopqrstuvwxyz"])
    for content in (b"an ordinary line of 32 bytes ...\n" * 128 * 1024, b"%41" * 350_000, b"\\" * 1_000_000):
        began = time.process_time()
        assert scrubber.scrub_bytes(content) is content
        assert time.process_time() - began < 5


def test_a_secret_across_windows_is_found() -> None:
    """A large text is searched in windows that overlap."""
    for position in (65_530, 65_536, 66_000, 200_000):
        text = "x" * position + json.dumps(SECRET) + "y" * 100_000
        assert "quo" not in Scrubber([SECRET]).scrub_text(text)


def test_many_secrets_and_texts_around_them() -> None:
    """Each of many secrets is found at every place of a text, and nothing else is."""
    secrets = [f"sk-{number:03}-{'Ab3xYz09' * 3}" for number in range(200)]
    scrubber = Scrubber(secrets)
    for start in range(16):
        text = f"{'.' * start}{secrets[start]}{'x' * start}"
        assert scrubber.scrub_text(text) == f"{'.' * start}[scrubbed]{'x' * start}"
    assert scrubber.scrub_text("sk-300-" + "Ab3xYz09" * 3) == "sk-300-" + "Ab3xYz09" * 3


def test_a_long_secret_is_found_by_its_parts() -> None:
    """A secret of many lines is replaced whole, also in a stream, of which little is held back."""
    secret = "\n".join(f"line {number} of a key" for number in range(400))
    scrubber = Scrubber([secret])
    assert scrubber.scrub_text(f"it is {secret}!").replace("[scrubbed]", "") == "it is !"
    encoded = scrubber.scrub_text(base64.b64encode(secret.encode()).decode())
    assert len(encoded.replace("[scrubbed]", "")) < 10
    stream = TextStreamScrubber()
    pieces = [stream.feed(f"it is {secret}!"[start : start + 7], scrubber) for start in range(0, 9_000, 7)]
    output = "".join([*pieces, stream.finish(scrubber)])
    assert output.replace("[scrubbed]", "") == "it is !"
    more = Scrubber([secret, "another-one-0123"], scrubber)
    assert more.scrub_text(f"{secret}another-one-0123").replace("[scrubbed]", "") == ""
