"""Limits of secrets."""

from protocol.limits.units import KIB

# Slots. Each value is searched in several spellings in everything that the daemon writes and sends.
MAX_SECRETS = 64

# All values together: their spellings take some 20 MiB of memory, and half a second of each start.
MAX_SECRETS_BYTES = 256 * KIB

# Texts to redact: a value, and the credentials in it if it is JSON. All slots: as many as 64 keys with eight
# each; with the former ones, a message of 90 KB is searched in some tenths of a second.
MAX_SECRET_TEXTS = 64
MAX_SECRETS_TEXTS = 512

# A value. A key with its chain of certificates, or a service account's file, takes a few KiB.
MAX_SECRET_BYTES = 64 * KIB
