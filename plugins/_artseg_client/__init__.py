"""Client of ArtSeg's inference service: finds or starts it, sends an image, gets a segmentation.

Runs in CellProfiler's Python, so it needs only the standard library and numpy, and keeps to Python 3.8.
"""

from ._errors import ServiceError
from ._inform import check_installation, show_model
from ._segment import Segmentation, segment

__all__ = ["Segmentation", "ServiceError", "check_installation", "segment", "show_model"]
