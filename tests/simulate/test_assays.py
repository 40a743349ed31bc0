"""Concentration-response plates with known affinities, and what artifacts do to them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from typer.testing import CliRunner

from artseg_models.cli import app
from artseg_models.errors import ArtSegError
from artseg_models.impact.dose_response import fit_hill
from artseg_models.simulate import paper_experiments, simulate_assay
from artseg_models.simulate.assays import bound_ligand


def test_the_papers_experiments_are_there() -> None:
    experiments = paper_experiments(0)
    counts = pd.Series([one.compound for one in experiments]).value_counts().to_dict()
    assert counts == {"pirenzepine": 2, "atropine": 3, "arecholine": 1, "UNSW-MK259": 3, "UR-SK75": 1}
    for one in experiments:
        assert len(one.concentrations) == 12
        assert one.concentrations[0] == 0
        # the middle lies well within the doses
        assert np.log10(one.concentrations[3]) < one.log_ic50 < np.log10(one.concentrations[-3])
    assert paper_experiments(0) == experiments
    assert paper_experiments(1) != experiments
    with pytest.raises(ArtSegError, match="no compound caffeine"):
        paper_experiments(0, ["caffeine"])


def test_bound_ligand_follows_the_law_of_mass_action() -> None:
    assert bound_ligand(0, -7) == 1
    doses = np.arange(-10, -4, 0.5)
    fit = fit_hill(doses, np.array([bound_ligand(10**dose, -7.0) for dose in doses]))
    assert (fit.log_ic50, fit.slope) == (pytest.approx(-7.0, abs=1e-6), -1)
    assert fit.top == pytest.approx(1, abs=1e-6)


@pytest.fixture(scope="module")
def assay(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("assay")
    simulate_assay(folder / "a", seed=2, scale=0.11, compounds=["arecholine"], fields_per_well=1, ome=True)
    return folder / "a"


def test_an_assay_has_layout_truth_and_names_for_cellprofiler(assay: Path) -> None:
    layout = pd.read_csv(assay / "layout.csv")
    assert len(layout) == 24
    assert layout.well.tolist()[:13] == [*(f"A{at:02d}" for at in range(1, 13)), "B01"]
    assert layout.groupby("concentration_M").size().tolist() == [2] * 12
    assert layout.labelled_ligand_nM.unique().tolist() == [2]
    truth = pd.read_csv(assay / "plate1" / "truth.csv")
    assert len(truth) == 24
    assert (truth.artifact_area_fraction > 0).sum() == 24
    for channel in ("brightfield", "dna", "signal"):
        pixels = tifffile.imread(assay / "plate1" / f"B12_s1_{channel}.tiff")
        assert (pixels.dtype, pixels.shape) == (np.uint16, (99, 135))
    with tifffile.TiffFile(assay / "plate1" / "ome" / "B12_s1.ome.tiff") as opened:
        assert opened.is_ome
        assert opened.series[0].axes == "CYX"
        np.testing.assert_array_equal(opened.asarray()[2], pixels)
    experiments = pd.read_csv(assay / "experiments.csv")
    assert experiments.true_log_ic50.tolist() == layout.true_log_ic50.unique().tolist()
    # the signal on true nuclei falls with the dose
    low = truth[truth.dose == 0].mean_true_signal.mean()
    assert truth[truth.dose == truth.dose.max()].mean_true_signal.mean() < 0.6 * low


def test_the_same_seed_gives_the_same_assay(tmp_path: Path) -> None:
    for folder in ("b", "c"):
        simulate_assay(
            tmp_path / folder,
            seed=2,
            scale=0.05,
            compounds=["arecholine"],
            fields_per_well=1,
            artifact_fraction=0.2,
            ome=True,
        )
    written = sorted(path for path in (tmp_path / "b").rglob("*") if path.is_file())
    assert len(written) == 24 * 7 + 5
    for path in written:
        assert (tmp_path / "c" / path.relative_to(tmp_path / "b")).read_bytes() == path.read_bytes(), path.name


def test_masks_bring_the_affinity_back(assay: Path, tmp_path: Path) -> None:
    """From the images to the fit: the damage is whatever the artifacts' light does, the mask leaves it out."""
    arguments = ["impact", "affinity", assay / "layout.csv", "--images", assay, "--cells", assay]
    arguments += ["--masks", f"manual={assay}", "--out", tmp_path / "out"]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    summary = pd.read_csv(tmp_path / "out" / "summary.csv").set_index("treatment")
    assert summary.loc["manual", "mean_absolute_difference_from_truth"] < 0.35
    assert summary.loc["manual", "mean_r2"] > summary.loc["none", "mean_r2"]
    wells = pd.read_csv(tmp_path / "out" / "wells.csv")
    assert sorted(wells.plate.unique()) == ["plate1"]
    assert len(wells) == 48


def test_impossible_assays_are_refused(tmp_path: Path) -> None:
    for options in ({"scale": 2.0}, {"fields_per_well": 0}, {"well_spread": 1.0}, {"artifact_fraction": 2.0}):
        with pytest.raises(ArtSegError, match="Expected"):
            simulate_assay(tmp_path, compounds=["arecholine"], **options)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
