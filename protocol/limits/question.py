"""Limits of questions and answers."""

from protocol.limits.units import KIB

# Questions to a person that fit a screen. The request's record holds questions and answers together; the
# answers also stand in an event and, escaped once more, in the call's result: 12 + 24 + 24 + 48 KiB.
MAX_QUESTIONS = 4
MAX_QUESTION_OPTIONS = 8
MAX_QUESTIONS_BYTES = 12 * KIB
MAX_ANSWER_TEXT_BYTES = 16 * KIB
MAX_ANSWERS_BYTES = 24 * KIB
