"""What this tool made, in forms that need no part of it: one file a format.

A format is a callable `(parcel, path) -> list of the files written`.
"""
