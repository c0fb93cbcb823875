"""The secrets that a daemon has learned."""

from kheishd.core.text.learned import MAX_FORMER, MAX_FORMER_CHARACTERS, LearnedSecrets


def test_former_secrets_stay() -> None:
    """A secret that is no longer current is still known."""
    learned = LearnedSecrets()
    learned.learn(["first"], [])
    learned.learn(["second"], ["second"])
    assert list(learned) == ["first", "second"]
    assert "first" in learned


def test_the_oldest_former_secrets_are_forgotten() -> None:
    """Current ones never are, however old they are."""
    learned = LearnedSecrets()
    learned.learn(["current"], ["current"])
    for number in range(MAX_FORMER + 50):
        learned.learn([f"token-{number}"], ["current"])
    assert list(learned) == ["current", *(f"token-{number}" for number in range(49, MAX_FORMER + 50))]


def test_long_former_secrets_are_forgotten_sooner() -> None:
    """The limit is also one of characters."""
    learned = LearnedSecrets()
    for number in range(10):
        learned.learn([f"{number}" * (MAX_FORMER_CHARACTERS // 4)], [])
    assert [secret[0] for secret in learned] == ["5", "6", "7", "8", "9"]


def test_learning_says_whether_it_changed() -> None:
    """Secrets that were current and are not any more are forgotten beyond the limit."""
    learned = LearnedSecrets()
    current = [f"token-{number}" for number in range(MAX_FORMER + 50)]
    assert learned.learn(current, current)
    assert not learned.learn(current, current)
    assert learned.learn([], [])
    assert list(learned) == current[50:]
    assert not learned.learn([], [])
