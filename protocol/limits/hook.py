"""Limits of lifecycle hooks."""

from protocol.limits.units import KIB

# A file of the operator: a hundred hooks of a KiB each.
MAX_HOOKS_FILE_BYTES = 128 * KIB
MAX_HOOKS_FILES = 100

# An event looks at each hook of its kind, a microsecond each.
MAX_HOOKS = 500

# A name, a pattern, a command with its arguments, and a URL: a hook with all of them is a KiB or two.
MAX_HOOK_NAME_BYTES = 64
MAX_HOOK_MATCHER_BYTES = 256
MAX_HOOK_COMMAND_BYTES = 4 * KIB
MAX_HOOK_URL_BYTES = 2 * KIB

# The time that a policy hook may delay its event, retries included.
MAX_HOOK_TIMEOUT_MS = 30_000
DEFAULT_HOOK_TIMEOUT_MS = 5_000
MAX_HOOK_RETRIES = 3

# The input of a hook, and its output; a longer one is a failure. The arguments of a call are whole, because a
# guard must see all of them. An output that has happened already is cut.
MAX_HOOK_INPUT_BYTES = 1024 * KIB
MAX_HOOK_TEXT_BYTES = 16 * KIB
MAX_HOOK_OUTPUT_BYTES = 128 * KIB

# A reason is part of the result of a call, and of an error; a context is a message of its own.
MAX_HOOK_REASON_BYTES = 2 * KIB
MAX_HOOK_CONTEXT_BYTES = 32 * KIB

# The processes and the requests that run at once, over all sessions: of hooks that guard, and of the others.
MAX_HOOKS_AT_ONCE = 64

# The store keeps the newest failures: 1,000 of at most 8 KiB each are 8 MiB. A replay of the daemon's stream
# holds all of them.
MAX_HOOK_DEAD_LETTERS = 1_000
MAX_HOOK_PROBLEM_BYTES = 2 * KIB
MAX_HOOK_PAYLOAD_BYTES = 4 * KIB

# How often the end of one run may be delayed by the hooks of `stop`: a hook that never agrees must not keep
# the model working for ever.
MAX_STOP_BLOCKS = 8
