"""Minimal equivalents on trio, LMDB or plain sockets, to compare our figures with."""
