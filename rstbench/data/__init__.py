"""Images to measure on and to learn from: always the file's order, pixels in [0, 1]."""

from .fetch import download
from .images import Found, Images, data_root, load, training_images

__all__ = ["Found", "Images", "data_root", "download", "load", "training_images"]
