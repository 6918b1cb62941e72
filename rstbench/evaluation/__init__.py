"""Craft and judge shards of images through executors, and store the evidence."""
