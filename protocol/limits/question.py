"""Limits of questions and answers."""

from protocol.limits.units import KIB

# Questions to a person: what fits a screen. Questions and answers stand in the request's record together,
# and the answers in an event and, escaped once more, in the call's result: 12 + 24 + 24 + 48 KiB.
MAX_QUESTIONS = 4
MAX_QUESTION_OPTIONS = 8
MAX_QUESTIONS_BYTES = 12 * KIB
MAX_ANSWER_TEXT_BYTES = 16 * KIB
MAX_ANSWERS_BYTES = 24 * KIB
