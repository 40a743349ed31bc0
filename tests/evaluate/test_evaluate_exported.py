"""Evaluation of a package as `artseg export` writes it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import jaccard_score

from artseg_models.evaluate import Options, evaluate
from artseg_models.labels import read_labels
from artseg_models.packages.read import read_package
from artseg_models.predict import Predictor
from artseg_models.report.montage import write_montage
from artseg_models.simulate import simulate_training_set


def test_an_exported_package_is_scored_on_simulated_fields(packages: dict[str, Path], tmp_path: Path) -> None:
    labels = read_labels(simulate_training_set(tmp_path, fields=4, shape=(96, 160), seed=2))
    predictor = Predictor(read_package(packages["unet"]), device="cpu")
    first = predictor.predict(np.asarray(Image.open(labels.images[0].path)), gate=False)
    # an untrained network: a cutoff in the middle of its answers gives masks with right and wrong pixels
    options = Options(gate=False, smallest_artifact_px=0, cutoff=float(np.median(first.probability)))
    evaluation = evaluate(predictor, labels.images, options=options)

    truth, found = [], []
    for item in labels.images:
        pixels = np.asarray(Image.open(item.path))
        truth.append(np.zeros(pixels.shape, bool) if item.mask is None else np.asarray(Image.open(item.mask.path)) > 0)
        found.append(predictor.predict(pixels, gate=False, smallest_artifact_px=0, cutoff=options.cutoff).mask)
    assert 0 < np.mean(found) < 1
    assert np.any(truth)
    assert evaluation.pixels is not None
    assert evaluation.pixels.iou == pytest.approx(jaccard_score(np.ravel(truth), np.ravel(found)))
    assert evaluation.audit.model_sha256 == read_package(packages["unet"]).sha256
    assert evaluation.audit.gate_threshold is None

    write_montage(predictor, evaluation, tmp_path / "overlays.png", options=options)
    with Image.open(tmp_path / "overlays.png") as sheet:
        assert sheet.width > 3 * sheet.height  # four wide fields in one row, without empty space
