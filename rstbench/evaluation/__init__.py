"""Evaluation: shards of images are crafted and judged, by executors, into stored evidence."""
