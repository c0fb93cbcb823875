"""Limits of names and of small values in records."""

from protocol.limits.units import KIB

# Names and small values, in bytes of UTF-8. Two of them and a separator form an LMDB key, which has at most
# 511 bytes: 2 x 128 + 2 = 258.
MAX_SENDER_BYTES = 128
MAX_SOURCE_BYTES = 256
MAX_AGENT_BYTES = 128
MAX_TITLE_BYTES = 512
MAX_ITEM_BYTES = 256
MAX_REASON_BYTES = 2 * KIB
MAX_IDEMPOTENCY_KEY_BYTES = 256
MAX_METADATA_BYTES = 16 * KIB

# Values in records that every event of their session or run writes again: a model's name, a path, the names
# in both scopes and the blocked tools together (4 KiB are about 150). With 16 KiB of metadata, 8 KiB of ids
# of open runs, 8 KiB of permissions, 2 KiB of a persona and a title, a session's record stays under 40 KiB,
# and under 46 KiB with active skills (see MAX_ACTIVE_SKILLS_BYTES); the record of a new run has none of these
# and stays under 8 KiB.
MAX_MODEL_BYTES = 256
MAX_PATH_BYTES = 1 * KIB
MAX_SCOPE_BYTES = 4 * KIB
