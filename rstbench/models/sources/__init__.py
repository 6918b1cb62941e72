"""Where models come from, one file a family of sources.

A source is a callable `(id, **options) -> nn.Module`; options arrive as text. Other packages add
sources through entry points in the group `rstbench.models`.
"""
