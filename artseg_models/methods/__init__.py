"""Methods that learn to find artifacts, a file each, and the run that trains them."""

from artseg_models.methods.runs import train

__all__ = ["train"]
