"""Labelling in a browser: two seconds an image, every decision on disk before the next image shows."""
