"""Limits of the network access of commands."""

from protocol.limits.units import KIB

# The hosts that one call asks for: a person reads all of them. Installing packages takes two or three.
MAX_CALL_HOSTS = 16
MAX_HOST_BYTES = 253

# The hosts that a command connected to or was refused, in its result and in the record of a shell.
MAX_LISTED_HOSTS = 16

# A connection of a command takes two descriptors of the daemon and up to 128 KiB. Package managers open up to
# fifty at once; sixteen such commands fill 128 MiB. Further connections wait.
MAX_COMMAND_CONNECTIONS = 64
MAX_PROXY_CONNECTIONS = 1024
# The connections of a command that are not established yet: each may occupy a thread that resolves a name.
MAX_COMMAND_ATTEMPTS = 8

# The head of a request to the proxy. Clients send some hundred bytes, with cookies some thousand.
MAX_PROXY_HEAD_BYTES = 32 * KIB
