"""The situation: the part of a prompt that changes during a conversation, which the model reads last. Pure.

Providers cache a prompt from its beginning. So everything that changes (todos, a plan, unmet requirements,
the run's output contract) comes after the transcript, and is no part of it: the next request has the newer
situation behind a longer transcript, and shares everything before that with the previous request.
"""

import re
from collections.abc import Sequence
from typing import Final

_TAG: Final = re.compile(r"<(?=\s*/?\s*situation\b)", re.IGNORECASE)

SITUATION_NOTE: Final = (
    "The text in <situation> tags is from the program that runs you, not from the user: the situation from "
    "now on."
)


def format_situation(texts: Sequence[str]) -> str:
    """Format the texts about the current situation; empty without any."""
    if not texts:
        return ""
    # A text after a tag that a plan or a todo closes too early would pass for the user's own words.
    content = _TAG.sub("&lt;", "\n\n".join(texts))
    return f"{SITUATION_NOTE}\n<situation>\n{content}\n</situation>"


PAST_SITUATION: Final = format_situation(["What was stated here before no longer applies."])
"""The situation when nothing is left of an earlier one that the model still sees."""
