"""The file of subscriptions: valid rows, and a warning with the line of every other one."""

import pytest

from kheishd.core.subscriptions import SUBSCRIPTION_FILE
from protocol.objects.trigger import TriggerTerms
from protocol.objects.wake import WakeTarget

VALID = """
[[subscription]]
id = "ci"
source = "ci.*"
agent = "default"
prompt = "Say what broke."
filter = { status = "red", n = 1 }
once = true
coalesce_s = 5
max_hops = 2
name = "CI"

[[subscription]]
id = "review"
source = "agent:builder:done"
session_id = "ses_1"
skill = "review"
arguments = "all"
"""


def test_valid_rows() -> None:
    """A row has the terms of a trigger and its target; the sender is the default one."""
    file = SUBSCRIPTION_FILE.parse(VALID, "f.toml")
    assert (file.warnings, file.invalid, file.is_readable) == ((), frozenset(), True)
    assert file.rows == {
        "ci": TriggerTerms(
            source="ci.*",
            target=WakeTarget(agent="default", sender="user", prompt="Say what broke."),
            filter={"status": "red", "n": 1},
            once=True,
            coalesce_s=5,
            max_hops=2,
            name="CI",
        ),
        "review": TriggerTerms(
            source="agent:builder:done",
            target=WakeTarget(session_id="ses_1", skill="review", arguments="all"),
        ),
    }


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ('source = "a b"', "4: source: expected a source, or the beginning"),
        ('source = "a"\nsorce = "a"', "5: sorce:"),
        ('source = "a"\nprompt = " "', "5: prompt: the prompt is blank"),
        ('source = "a"\nskill = "s"', "agent: give either 'agent'"),
        ('source = "a"\nagent = "a"\nskill = "s"\nprompt = "p"', "7: prompt: give either 'prompt'"),
        ('source = "a"\nsession_id = "s"\nsender = "u"\nprompt = "p"', "6: sender: a session has"),
        ('source = "a"\nagent = "a"\nprompt = "p"\ncoalesce_s = -1', "7: coalesce_s:"),
        (
            f'source = "a"\nagent = "a"\nprompt = "p"\nfilter = {{ a = "{"x" * 1100}" }}',
            "7: filter: the filter",
        ),
    ],
)
def test_bad_rows(change: str, problem: str) -> None:
    """A bad row is skipped with its line; the others are used, and its trigger stays as it is."""
    text = f'\n[[subscription]]\nid = "bad"\n{change}\n{VALID}'
    if "agent" not in change and "session_id" not in change and "skill" not in change:
        text = f'\n[[subscription]]\nid = "bad"\n{change}\nagent = "a"\n{VALID}'
    file = SUBSCRIPTION_FILE.parse(text, "f.toml")
    assert (set(file.rows), set(file.invalid)) == ({"ci", "review"}, {"bad"})
    (warning,) = file.warnings
    assert warning.startswith("skipped the subscription in f.toml:")
    assert problem in warning


def test_a_file_that_is_no_toml() -> None:
    """Nothing of an unreadable file is used, and nothing changes because of it."""
    file = SUBSCRIPTION_FILE.parse("[[subscription]]\nid =", "f.toml")
    assert (file.rows, file.is_readable) == ({}, False)
    assert "stay as they are: f.toml" in file.warnings[0]


def test_ids_are_unique() -> None:
    """The second row of an id, rows without one and unknown tables are skipped."""
    file = SUBSCRIPTION_FILE.parse(f"{VALID}{VALID}\n[[subscription]]\nsource = 'a'\n[x]\n", "f.toml")
    assert set(file.rows) == {"ci", "review"}
    assert len(file.warnings) == 4
    assert "the id 'ci' is there twice" in "".join(file.warnings)
    assert SUBSCRIPTION_FILE.parse("subscription = 5", "f.toml").warnings
