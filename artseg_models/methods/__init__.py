"""Methods that learn to find artifacts, a file each, and the run that trains them."""

from artseg_models.methods.runs import DEFAULT_METHOD, METHODS, configure, train

__all__ = ["DEFAULT_METHOD", "METHODS", "configure", "train"]
