"""Methods that choose a mask: one family a file."""
