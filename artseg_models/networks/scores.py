"""Anomaly scores brought to 0..1, so that a cutoff means the same in every file and program."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ScoreScale(nn.Module):
    """A rising curve from scores of 0 and more to 0..1.

    Parameters
    ----------
    kind : {"clean", "range"}
        clean: ``s / (s + high)``, which is 0.5 at `high` and never quite 1, so that no two scores become one.
        range: ``(s - low) / (high - low)``, cut off at 0 and 1.
    """

    def __init__(self, kind: str = "clean") -> None:
        super().__init__()
        self.kind = kind
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.ones(()))
        self.low: Tensor
        self.high: Tensor

    def forward(self, scores: Tensor) -> Tensor:
        """Scale scores of any shape."""
        if self.kind == "range":
            return ((scores - self.low) / (self.high - self.low).clamp(min=1e-12)).clamp(0, 1)
        return scores / (scores + self.high)
