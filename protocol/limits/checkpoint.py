"""Limits of checkpoints: the former contents of files in workspaces that tools changed."""

from protocol.limits.units import KIB, MIB

# A file as large as one that tools edit. 200 files with their paths and digests, 300 bytes each, are 60 KiB
# in one event, which leaves room beside the start of a call.
MAX_CHECKPOINT_FILE_BYTES = 4 * MIB
MAX_CHECKPOINT_FILES = 200
MAX_CHECKPOINT_EVENT_BYTES = 64 * KIB
MAX_CHECKPOINT_CONTENT_BYTES = 16 * MIB

# Git lists an index of 8 MiB, about 80,000 files, in half a second.
MAX_GIT_INDEX_BYTES = 8 * MIB

# A session keeps the newest ones: hours of work. The home keeps at most as much as a backup copies in
# seconds. Beyond a limit, the oldest checkpoint is dropped.
MAX_SESSION_CHECKPOINTS = 100
MAX_SESSION_CHECKPOINT_BYTES = 64 * MIB
MAX_HOME_CHECKPOINT_BYTES = 512 * MIB

# Each drop is an event of 200 bytes and the deletion of the contents.
MAX_DROPS = 16

# Contents that are stored in the transaction of their event; larger ones are stored before it.
MAX_INLINE_CONTENT_BYTES = 64 * KIB
