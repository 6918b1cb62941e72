"""Training loops for scores and for weights, their inner adversaries and recipes."""
