"""Concentration-response plates like those of the paper: ten displacement experiments with known affinities.

A labelled ligand at 2 nM lights up the receptors of the cells; a competitor displaces it. The bound share follows the
law of mass action (a Hill curve of slope -1), cells differ, wells differ by pipetting, fields carry artifacts; what
these do to the measured intensities comes from their light alone and is set nowhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from artseg_models.errors import ArtSegError
from artseg_models.images import MINIMUM_SIDE
from artseg_models.progress import track
from artseg_models.simulate.datasets import (
    field_row,
    nuclei_rows,
    spoilt_fields,
    well_name,
    write_field,
    write_ome,
    write_table,
)
from artseg_models.simulate.families import FAMILIES
from artseg_models.simulate.fields import simulate_field
from artseg_models.simulate.optics import draw_look

LABELLED_LIGAND_NM = 2.0
"""Concentration of the labelled ligand in every well."""

_AFFINITY = {"pirenzepine": -6.6, "atropine": -8.4, "arecholine": -5.6, "UNSW-MK259": -7.8, "UR-SK75": -7.4}
"""log10 of the half-maximal concentration in mol/l: the simulation's own, not measured ones."""
_REPLICATES = {"pirenzepine": 2, "atropine": 3, "arecholine": 1, "UNSW-MK259": 3, "UR-SK75": 1}
"""How many experiments of each the paper's test set holds."""
_BETWEEN_EXPERIMENTS = 0.08
"""Standard deviation of an experiment's true log IC50 about its compound's: days differ."""
_STEPS = 11
_DUPLICATES = 2
_WELLS = 96
_NOT_DISPLACED = 0.12
"""Share of the ligand's light that no competitor takes away."""
_LOOKS, _FIELDS, _AREAS, _TRUTH, _WELL = 31, 32, 33, 34, 35


@dataclass(frozen=True)
class Experiment:
    """One displacement experiment.

    Attributes
    ----------
    name, compound : str
        For instance "atropine 2" and "atropine".
    log_ic50 : float
        The truth, log10 mol/l.
    concentrations : tuple of float
        In mol/l: 0 and eleven half-logarithmic steps about the compound's own half-maximal concentration.
    """

    name: str
    compound: str
    log_ic50: float
    concentrations: tuple[float, ...]


def paper_experiments(seed: int, compounds: Sequence[str] | None = None) -> list[Experiment]:
    """Give the paper's ten experiments, or those of some compounds.

    Raises
    ------
    ArtSegError
        There is no such compound.
    """
    unknown = sorted(set(compounds or ()) - set(_AFFINITY))
    if unknown:
        raise ArtSegError(f"There is no compound {', '.join(unknown)}; choose from {', '.join(_AFFINITY)}.")
    found: list[Experiment] = []
    for number, (compound, middle) in enumerate(_AFFINITY.items()):
        random = np.random.default_rng((seed, _TRUTH, number))
        about = round(2 * middle) / 2
        doses = (0.0, *(10.0 ** (about + 0.5 * (step - _STEPS // 2)) for step in range(_STEPS)))
        for replicate in range(_REPLICATES[compound]):
            true = middle + _BETWEEN_EXPERIMENTS * float(random.standard_normal())
            found.append(Experiment(f"{compound} {replicate + 1}", compound, true, doses))
    return [one for one in found if not compounds or one.compound in compounds]


def bound_ligand(concentration: float, log_ic50: float) -> float:
    """Give the labelled ligand's light on a cell, 1 without competitor: a Hill curve of slope -1."""
    left = 1 / (1 + 10 ** (math.log10(concentration) - log_ic50)) if concentration > 0 else 1.0
    return _NOT_DISPLACED + (1 - _NOT_DISPLACED) * left


def simulate_assay(
    folder: Path,
    *,
    seed: int = 0,
    scale: float = 0.5,
    compounds: Sequence[str] | None = None,
    fields_per_well: int = 4,
    artifact_fraction: float | None = None,
    well_spread: float = 0.06,
    ome: bool = False,
) -> Path:
    """Simulate the paper's concentration-response experiments on 96-well plates.

    Parameters
    ----------
    folder : Path
        Gets `layout.csv` (plate, well, experiment, compound, concentration_M, labelled_ligand_nM, true_log_ic50,
        bound: the true light of the ligand), `experiments.csv`, and a folder a plate, `plate1` and so on. In it, for
        each field, `A01_s1_brightfield.tiff`, `_dna.tiff`, `_signal.tiff` (16 bit), in `truth/` the label maps
        `_nuclei.tiff` and `_cells.tiff` and the mask `_artifacts.tiff`; `truth.csv` (a line a field),
        `truth_nuclei.csv` and `layout.csv`, as `simulate_plate` writes them.
    seed : int
        The same seed gives the same files.
    scale : float
        Size of the images relative to 1224 x 904 pixels of 0.323 um.
    compounds : sequence of str, optional
        Only these; all by default: pirenzepine in 2 experiments, atropine 3, arecholine 1, UNSW-MK259 3, UR-SK75 1.
    fields_per_well : int
        How many fields of each well.
    artifact_fraction : float, optional
        Share of fields with artifacts; 0.992 by default, as in the paper.
    well_spread : float
        Relative standard deviation of wells, as of pipetting and of the number of receptors.
    ome : bool
        Whether each field is written as one OME-TIFF of three channels too, in `ome/`.

    Returns
    -------
    Path
        The layout.csv, which `artseg impact affinity` reads.

    Raises
    ------
    ArtSegError
        An impossible number or compound, or a file that cannot be written.
    """
    family = FAMILIES["cho-m4r"]
    shape, pixel_size_um, zoom = family.at(scale)
    if not 0 < scale <= 1 or min(shape) < MINIMUM_SIDE:
        raise ArtSegError(f"Expected a scale from {MINIMUM_SIDE / min(family.shape):.2g} to 1, got {scale:g}.")
    if fields_per_well < 1:
        raise ArtSegError(f"Expected at least one field of each well, got {fields_per_well}.")
    if not 0 <= well_spread < 1:
        raise ArtSegError(f"Expected a spread of wells from 0 to below 1, got {well_spread:g}.")
    experiments = paper_experiments(seed, compounds)
    wells = [
        (experiment, concentration)
        for experiment in experiments
        for _ in range(_DUPLICATES)
        for concentration in experiment.concentrations
    ]
    fields = len(wells) * fields_per_well
    share = family.prevalence if artifact_fraction is None else artifact_fraction
    spoilt = spoilt_fields(fields, share, seed)
    layout: list[dict[str, object]] = []
    truth: dict[str, list[dict[str, object]]] = {}
    nuclei: dict[str, list[dict[str, object]]] = {}
    for number in track(range(fields), "Simulating the assay", fields):
        at, site = divmod(number, fields_per_well)
        experiment, concentration = wells[at]
        of_plate, on_plate = divmod(at, _WELLS)
        plate, well = f"plate{of_plate + 1}", well_name(on_plate)
        of_well = np.random.default_rng((seed, _WELL, at))
        bound = bound_ligand(concentration, experiment.log_ic50)
        level = bound * math.exp(well_spread * float(of_well.standard_normal()))
        # one acquisition a plate; the plate's bottom is not quite flat
        look = draw_look(np.random.default_rng((seed, _LOOKS, of_plate)))
        look = replace(look, defocus=look.defocus * float(of_well.uniform(0.85, 1.15)))
        areas = family.draw_areas(np.random.default_rng((seed, _AREAS, number)))
        field = simulate_field(
            seed=(seed, _FIELDS, number),
            shape=shape,
            artifact=spoilt[number],
            signal_level=level,
            look=look,
            line=family.lines["CHO-K1"],
            zoom=zoom,
            cell_density=family.density() * of_well.uniform(0.7, 1.3),
            areas=[max(area * scale**2, 2.0) for area in areas],
        )
        name = f"{well}_s{site + 1}"
        write_field(folder / plate, name, field, pixel_size_um=pixel_size_um)
        if ome:
            write_ome(folder / plate / "ome" / f"{name}.ome.tiff", field, pixel_size_um, f"{seed}-{number}")
        of_nuclei = nuclei_rows(field, well, site + 1)
        nuclei.setdefault(plate, []).extend(of_nuclei)
        truth.setdefault(plate, []).append(field_row(field, well, site + 1, concentration, of_nuclei))
        if site == 0:
            layout.append(
                {
                    "plate": plate,
                    "well": well,
                    "experiment": experiment.name,
                    "compound": experiment.compound,
                    "concentration_M": f"{concentration:.6g}",
                    "labelled_ligand_nM": f"{LABELLED_LIGAND_NM:g}",
                    "true_log_ic50": f"{experiment.log_ic50:.5f}",
                    "bound": f"{bound:.6f}",
                }
            )
    for plate, rows in truth.items():
        write_table(folder / plate / "truth.csv", rows)
        write_table(folder / plate / "truth_nuclei.csv", nuclei[plate])
        own = [{"well": row["well"], "dose": row["concentration_M"]} for row in layout if row["plate"] == plate]
        write_table(folder / plate / "layout.csv", own)
    write_table(
        folder / "experiments.csv",
        [
            {
                "experiment": one.name,
                "compound": one.compound,
                "true_log_ic50": f"{one.log_ic50:.5f}",
                "slope": -1,
                "lowest_concentration_M": f"{one.concentrations[1]:.6g}",
                "highest_concentration_M": f"{one.concentrations[-1]:.6g}",
            }
            for one in experiments
        ],
    )
    write_table(folder / "layout.csv", layout)
    return folder / "layout.csv"
