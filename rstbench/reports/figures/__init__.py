"""Draw the figures of a request, one kind a file; matplotlib is loaded when the first is drawn."""
