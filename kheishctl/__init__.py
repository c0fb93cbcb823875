"""kheishctl: the command-line client of the daemon."""
