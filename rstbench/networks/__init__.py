"""Random networks, one family a file; see `network` for how to add one."""
