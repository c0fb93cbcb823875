"""Limits of secrets."""

from protocol.limits.units import KIB

# Slots. Each value is searched in several spellings in everything that the daemon writes and sends.
MAX_SECRETS = 64

# A value. A key with its chain of certificates, or a service account's file, takes a few KiB.
MAX_SECRET_BYTES = 64 * KIB
