"""Labelled images for training and evaluation, in the file's order, pixels in [0, 1].

Add a data set as a file here and a line in plugins.py; see images.py for what a source returns.
"""

from .fetch import download
from .images import Found, Images, data_root, load, training_images

__all__ = ["Found", "Images", "data_root", "download", "load", "training_images"]
