"""What the paper reports (Ali et al., 2022): settings of the comparison and its own figures, of its own images.

Supplementary Table 1 and Supplementary Tables 2 to 4 disagree in places (ScoreCAM-U-Net, PatchSVDD): both are given as
printed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

#: The six systems, in the order of Supplementary Table 1.
METHODS: Final = ("unet", "scorecam-unet", "scorecam", "autoencoder", "padim", "patch-svdd")

METHOD_NAMES: Final[Mapping[str, str]] = {
    "unet": "U-Net (from masks)",
    "scorecam-unet": "ScoreCAM-U-Net",
    "scorecam": "ScoreCAM",
    "autoencoder": "Autoencoder",
    "padim": "PaDiM",
    "patch-svdd": "PatchSVDD",
}

FAMILY_NAMES: Final[Mapping[str, str]] = {
    "seven-lines": "seven cell lines",
    "cho-m4r": "ArtSeg-CHO-M4R",
    "lncap": "LNCaP",
}

#: Section 2.3.3.
PUBLISHED_CUTOFFS: Final[Mapping[str, float]] = {
    "autoencoder": 0.75,
    "padim": 0.3,
    "patch-svdd": 0.0005,
    "scorecam": 0.001,
    "scorecam-unet": 0.001,
    "unet": 0.45,
}

#: Section 2.3.3, pixels of the full image.
PUBLISHED_SMALLEST: Final[Mapping[str, int]] = {"seven-lines": 1000, "cho-m4r": 500, "lncap": 500}

#: Section 2.3.1: images for training, validation and test.
PUBLISHED_SPLITS: Final[Mapping[str, tuple[int, int, int]]] = {
    "seven-lines": (482, 101, 104),
    "cho-m4r": (1386, 404, 572),
    "lncap": (70, 16, 16),
}

#: Object sizes of Supplementary Tables 2 to 4, in pixels.
SIZES: Final = (20, 50, 100, 500, 1000, 2000)

#: Section 3.2: seconds of an expert for a drawn mask and for a label.
SECONDS_A_MASK: Final = 279
SECONDS_A_LABEL: Final = 2

#: Rows of Supplementary Table 1 by the names that ArtSeg gives these figures.
TABLE_1_METRICS: Final[Mapping[str, str]] = {
    "image_f1": "Classification F1",
    "pixel_f1": "Pixel-wise F1",
    "pixel_precision": "Pixel-wise precision",
    "pixel_recall": "Pixel-wise recall",
    "pixel_iou": "Pixel-wise IoU",
}

#: Supplementary Table 1, per cent; values in the order of `METHODS`.
TABLE_1: Final[Mapping[str, Mapping[str, tuple[float, ...]]]] = {
    "seven-lines": {
        "image_f1": (89.7, 93.2, 93.2, 66.7, 90.1, 63.9),
        "pixel_f1": (84.4, 66.2, 47.2, 39.7, 50.0, 28.3),
        "pixel_precision": (86.0, 74.4, 42.0, 32.4, 59.7, 39.6),
        "pixel_recall": (82.8, 61.0, 54.6, 51.4, 43.1, 23.9),
        "pixel_iou": (72.9, 49.5, 31.1, 24.8, 33.4, 17.1),
    },
    "cho-m4r": {
        "image_f1": (80.8, 90.0, 90.0, 66.7, 72.7, 23.6),
        "pixel_f1": (62.0, 34.9, 40.1, 42.4, 22.6, 3.1),
        "pixel_precision": (79.0, 30.3, 58.1, 47.3, 36.1, 40.4),
        "pixel_recall": (51.4, 41.5, 30.9, 38.5, 19.4, 26.6),
        "pixel_iou": (45.0, 21.3, 25.1, 26.9, 12.8, 1.6),
    },
    "lncap": {
        "image_f1": (99.4, 93.7, 93.7, 69.1, 80.0, 59.1),
        "pixel_f1": (79.3, 55.7, 52.0, 0.0, 17.7, 11.6),
        "pixel_precision": (75.0, 50.5, 75.2, 0.0, 17.8, 9.9),
        "pixel_recall": (84.4, 79.5, 40.9, 0.0, 17.6, 41.6),
        "pixel_iou": (65.7, 39.9, 35.2, 0.0, 9.7, 6.9),
    },
}

#: Supplementary Tables 2 (seven-lines), 3 (cho-m4r) and 4 (lncap): IoU in per cent, by method, in the order of `SIZES`.
TABLES_2_TO_4: Final[Mapping[str, Mapping[str, tuple[float, ...]]]] = {
    "seven-lines": {
        "autoencoder": (21.1, 21.2, 21.5, 24.8, 28.6, 33.3),
        "padim": (33.4, 33.4, 33.4, 33.4, 33.3, 33.2),
        "patch-svdd": (27.9, 27.9, 27.9, 27.9, 27.9, 27.9),
        "scorecam": (23.4, 23.5, 23.5, 23.9, 24.2, 24.2),
        "scorecam-unet": (52.0, 52.1, 52.1, 53.1, 53.6, 54.1),
        "unet": (72.9, 72.9, 72.9, 72.9, 73.0, 73.2),
    },
    "cho-m4r": {
        "autoencoder": (26.8, 26.8, 26.9, 26.9, 24.2, 18.0),
        "padim": (13.4, 13.4, 13.4, 13.3, 13.1, 12.3),
        "patch-svdd": (3.4, 3.4, 3.4, 3.4, 3.4, 3.4),
        "scorecam": (27.3, 27.3, 27.3, 26.5, 24.8, 20.3),
        "scorecam-unet": (23.1, 23.1, 23.1, 22.9, 22.3, 20.2),
        "unet": (44.4, 44.4, 44.4, 43.7, 42.0, 35.0),
    },
    "lncap": {
        "autoencoder": (0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
        "padim": (9.6, 9.6, 9.6, 9.7, 9.3, 9.6),
        "patch-svdd": (2.8, 2.8, 2.8, 2.8, 2.8, 2.8),
        "scorecam": (28.2, 28.3, 28.3, 29.1, 28.5, 29.4),
        "scorecam-unet": (44.8, 44.8, 44.8, 44.7, 44.7, 44.7),
        "unet": (62.9, 62.9, 62.9, 62.9, 62.9, 63.8),
    },
}


def published(family: str | None, method: str, metric: str) -> float | None:
    """Give a figure of Supplementary Table 1 as a share (0..1), or None where the paper has none."""
    row = TABLE_1.get(family or "", {}).get(metric)
    return None if row is None or method not in METHODS else row[METHODS.index(method)] / 100
