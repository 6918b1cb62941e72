"""Choices that networks offer, as names. No torch."""

NORMS = ("batch", "affine", "none")
BIASES = ("none", "last")
# Where the shortcut of a pre-activation block begins, at the block's input or after its first norm and ReLU:
# the networks for which there is a choice, with their own.
SHORTCUTS = {"preactresnet18": "activated", "preactresnet18-raw": "input"}
