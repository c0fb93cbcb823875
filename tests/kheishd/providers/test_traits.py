"""Traits: presets, limits, and the traits that are remembered for a route."""

import msgspec

from kheishd.config.presets import PRESETS, adapt_preset
from kheishd.providers.traits import OUTPUT_ITEMS, USUAL_TRAITS, LearnedTraits, Traits
from protocol.objects.run import Pinned


def test_refused_items_are_not_remembered() -> None:
    """A refusal of items concerns one conversation, and its route still sends those of others."""
    learned = LearnedTraits()
    pinned = Pinned(route="r", driver="responses", model="m", base_url="http://x")
    learned.remember(pinned, Traits(omitted=frozenset((OUTPUT_ITEMS, "thinking", "include"))))
    assert learned.find(pinned).omitted == {"include"}


def test_traits_are_remembered_for_a_route_and_its_model() -> None:
    """Traits apply to one route and model; another starts with its preset."""
    learned = LearnedTraits()
    pinned = Pinned(route="r", driver="openai", model="m", base_url="http://x")
    learned.remember(pinned, Traits(token_limit="max_completion_tokens"))
    assert learned.find(pinned).token_limit == "max_completion_tokens"
    assert learned.find(msgspec.structs.replace(pinned, model="other")) == USUAL_TRAITS
    azure = msgspec.structs.replace(pinned, route="azure", preset="azure")
    assert learned.find(azure) == Traits(PRESETS["azure"], "api-key")


def test_openai_itself() -> None:
    """A route without a URL calls OpenAI and has its preset, as it is for the driver."""
    adapted = LearnedTraits().find(Pinned(route="r", driver="responses", model="m")).preset
    assert adapted == adapt_preset(PRESETS["openai"], "responses")
    assert LearnedTraits().find(Pinned(route="r", driver="openai", model="m")).preset == PRESETS["openai"]


def test_output_limits() -> None:
    """A limit is higher for a model that reasons, and never above the model's maximum."""
    raised = Traits(has_more_room=True)
    assert (USUAL_TRAITS.adjust_limit(64), USUAL_TRAITS.adjust_limit(None)) == (64, None)
    assert (raised.adjust_limit(64), raised.adjust_limit(None)) == (256, None)
    capped = Traits(has_more_room=True, max_output=100)
    assert (capped.adjust_limit(64), capped.adjust_limit(None), capped.adjust_limit(20)) == (100, 100, 80)
