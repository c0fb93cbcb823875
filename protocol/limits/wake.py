"""Limits of targets that the daemon wakes."""

from protocol.limits.units import KIB

# A prompt is part of the record of its schedule or trigger, and of each change of it: 10,000 prompts of this
# length take 80 MiB, those of a usual length 3 MiB. Longer instructions belong in a skill or a definition.
MAX_WAKE_PROMPT_BYTES = 8 * KIB

# A text from outside, such as an event's payload, that joins the prompt: with the prompt and the escaping of
# JSON it stays within MAX_INPUT_BYTES.
MAX_WAKE_DATA_BYTES = 48 * KIB
