"""The verbs as Python functions, over what the command line calls."""
