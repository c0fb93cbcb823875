"""The least that does the same on trio, LMDB or plain sockets: what our figures are held against."""
