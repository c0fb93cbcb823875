"""Limits of MCP servers, which are other people's programs: all that they send is bounded."""

from protocol.limits.units import KIB, MIB

# A name becomes part of each tool's name, which has 64 bytes: "mcp__", the server's, "__", and at least 24
# bytes for the tool's own.
MAX_SERVER_NAME_BYTES = 32

# Servers of one configuration, with those of agents: each is a process of 30 to 100 MiB.
MAX_MCP_SERVERS = 64

# Servers that one agent's definition brings.
MAX_AGENT_SERVERS = 8

# Servers in the store. Each is in memory: 64 take 1 MiB at most.
MAX_STORED_SERVERS = 64

# One message of a server. A longer one is not parsed; the request that it answers fails. Decoding takes 0.1 s
# per MiB of dense JSON, during which all connections of the daemon wait.
MAX_MCP_MESSAGE_BYTES = 4 * MIB

# The tools of one server that are offered. OpenAI accepts 128 tools in a request. More of them are only
# counted, up to 5,000 in 50 pages, so that a list without an end ends.
MAX_SERVER_TOOLS = 128
MAX_LISTED_SERVER_TOOLS = 5_000
MAX_LIST_PAGES = 50

# The schema and the description of one tool: both are in every prompt. 2 KiB are about 600 tokens.
MAX_SERVER_TOOL_SCHEMA_BYTES = 32 * KIB
MAX_SERVER_TOOL_DESCRIPTION_BYTES = 2 * KIB

# A tool's own name, which a person reads before approving a call.
MAX_SERVER_TOOL_NAME_BYTES = 128

# All pages of a list. A row that is longer than one tool may be is left out.
MAX_LIST_BYTES = 8 * MIB
MAX_LIST_ROW_BYTES = 64 * KIB

# The parts of a result that the model sees; the whole result is stored beside it (``max_output_bytes``).
MAX_RESULT_ITEMS = 64
MAX_RESULT_TEXT_BYTES = 28 * KIB
MAX_STRUCTURED_STRING_BYTES = 16 * KIB
MAX_STRUCTURED_DEPTH = 8
MAX_STRUCTURED_ENTRIES = 128

# Warnings of one list, such as rows that are left out: 16 with 300 bytes, in memory and in the log.
MAX_ROW_WARNINGS = 16

# A structured result that is checked by the tool's output schema. The check takes up to 1 µs a byte.
MAX_CHECKED_RESULT_BYTES = 256 * KIB

# What a server says about a failure, in a message or an error.
MAX_SERVER_ERROR_BYTES = 2 * KIB

# The error output of a server that is kept: its first and its last lines, 128 KiB at most. Of each, 512 bytes
# are shown: a line is redacted before it is cut.
MAX_FIRST_ERROR_LINES = 12
MAX_LAST_ERROR_LINES = 20
MAX_ERROR_LINE_BYTES = 4 * KIB
MAX_SHOWN_ERROR_LINE_BYTES = 512

# A server that kills the process that supervises it so often in a row is not started again by itself.
MAX_KEEPER_KILLS = 3

# The time between two attempts to reach a server that fails: 1 s, doubled up to five minutes.
MAX_RECONNECT_SECONDS = 300

# The settings of one server in the store, as JSON.
MAX_SERVER_SETTINGS_BYTES = 16 * KIB

# A server's arguments, variables and headers.
MAX_SERVER_ENTRIES = 256
MAX_SERVER_VALUE_BYTES = 8 * KIB

# Logins that have begun. Each takes 2 KiB, and expires after ten minutes.
MAX_LOGINS = 16
MAX_LOGIN_SECONDS = 600

# A parameter that a browser brings back, and a token: signed ones have 2 to 6 KiB. Access and refresh token,
# twice their length for escapes, fit a slot of 64 KiB.
MAX_LOGIN_ANSWER_BYTES = 8 * KIB
MAX_TOKEN_BYTES = 14 * KIB

# A code that a person types; servers use 8 to 12 characters.
MAX_USER_CODE_CHARACTERS = 64

# An address of an authorization server. Two of them are kept with the tokens.
MAX_OAUTH_ADDRESS_BYTES = 2 * KIB

# A document of an authorization server: metadata have 1 to 8 KiB. A login reads up to eight of them.
MAX_OAUTH_DOCUMENT_BYTES = 64 * KIB
