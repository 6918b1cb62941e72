"""Export formats that need no part of this tool: add one as a file here and a line in plugins.py.

A format is a callable `(bundle, path)` that writes an `ExportBundle` and returns the files written.
"""
