"""Random networks, one family a file. A family is a callable `(spec) -> nn.Module` without biases."""
