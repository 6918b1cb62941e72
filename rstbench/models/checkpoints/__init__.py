"""Weights out of files of any project: what a file holds, which network is meant, whose tensor is whose.

Every tensor is used, is on a short list of what may be ignored, or the file is refused by the tensor's name.
"""
