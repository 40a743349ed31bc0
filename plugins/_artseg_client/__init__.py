"""Client of ArtSeg's inference service, here or on a server: finds or starts it, sends an image, gets a segmentation.

Runs in CellProfiler's Python, so it needs only the standard library and numpy, and keeps to Python 3.8.
"""

from ._errors import ServiceError
from ._inform import check_installation, list_models, show_model
from ._segment import Segmentation, segment
from ._token import remember_token

__all__ = [
    "Segmentation",
    "ServiceError",
    "check_installation",
    "list_models",
    "remember_token",
    "segment",
    "show_model",
]
