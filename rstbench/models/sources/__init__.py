"""Model sources, one file a family: add one as a file here and a line in plugins.py.

A source is a callable `(id, **options)` that returns an `nn.Module` or an `EvalModel`; options arrive as
text. Other packages add sources through entry points in the group `rstbench.models`.
"""
