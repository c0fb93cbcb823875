"""``[titles]``: titles of conversations."""

from kheishd.config.sections.section import Section


class TitlesSection(Section, frozen=True):
    """``[titles]``: titles of conversations."""

    auto: bool = False
    """Let the model name a conversation after its first answer; costs one small model call."""
