"""Simulated training sets and plates, as folders of files."""

from __future__ import annotations

import csv
import io
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tifffile

from artseg_models.errors import ArtSegError
from artseg_models.files import whole_file, write_text
from artseg_models.images import write_image
from artseg_models.labels import LabelledImage, LabelSet, MaskSource, mark_simulated, with_splits, write_labels
from artseg_models.progress import track
from artseg_models.simulate.artifacts import ARTIFACTS
from artseg_models.simulate.fields import SimulatedField, simulate_field
from artseg_models.simulate.optics import draw_look

PIXEL_SIZE_UM = 0.6
"""Side of a simulated pixel: nuclei of 15 to 25 pixels are 9 to 15 um wide."""

_FIELDS_OF_A_WELL = 4
_FEWEST_WELLS = 12
"""Small sets have fewer fields of a well, so that every split gets some wells."""
_COLUMNS_OF_A_PLATE = 12
_ROWS_OF_A_PLATE = 8
# Streams of chance that must not meet, whatever the number of a field
_LOOKS, _FIELDS, _DRAWS = 1, 2, 3


def simulate_training_set(
    folder: Path,
    *,
    fields: int = 240,
    shape: tuple[int, int] = (512, 512),
    seed: int = 0,
    artifact_fraction: float = 0.5,
    kinds: Sequence[str] | None = None,
) -> Path:
    """Simulate brightfield fields with image-level labels, to train from.

    Up to four fields each come from one well: they share lamp and focus, are one group and stay in one split.

    Parameters
    ----------
    folder : Path
        Gets `images/` (16-bit TIFF), `masks/` (the truth, for scoring alone) and `labels.csv`.
    fields : int
        How many.
    shape : tuple of int
        (y, x) of each in pixels.
    seed : int
        The same seed gives the same files.
    artifact_fraction : float
        Share of fields with artifacts, 0 to 1.
    kinds : sequence of str, optional
        Draw artifacts of these kinds only, of `artifacts.ARTIFACTS`. The labels then name the kinds of each field, and
        `masks/` holds a mask for each of them too, `FIELD_KIND.png`. Default: all kinds, and none is named.

    Returns
    -------
    Path
        The labels.csv.

    Raises
    ------
    ArtSegError
        An impossible number, an unknown kind or none, or a file that cannot be written.
    """
    if kinds is not None and not kinds:
        raise ArtSegError(f"Expected kinds of artifact to simulate, got none; choose from {', '.join(ARTIFACTS)}.")
    # a kind that is named twice is no more frequent for that
    asked = None if kinds is None else tuple(dict.fromkeys(kinds))
    spoilt = spoilt_fields(fields, artifact_fraction, seed)
    of_a_well = min(_FIELDS_OF_A_WELL, max(1, fields // _FEWEST_WELLS))
    images: list[LabelledImage] = []
    for number in track(range(fields), "Simulating fields", fields):
        well = number // of_a_well
        field = simulate_field(
            seed=(seed, _FIELDS, number),
            shape=shape,
            artifact=bool(spoilt[number]),
            kinds=asked,
            look=draw_look(np.random.default_rng((seed, _LOOKS, well))),
        )
        # the name must not tell what is to be learned
        name = f"field{number + 1:04d}"
        image = folder / "images" / f"{name}.tiff"
        write_image(image, field.brightfield, pixel_size_um=PIXEL_SIZE_UM)
        mask: Path | None = None
        if field.kinds:
            mask = folder / "masks" / f"{name}.png"
            write_image(mask, field.artifact_mask)
        kind_masks: dict[str, MaskSource] = {}
        for kind in sorted(field.kind_masks if asked else ()):
            kind_masks[kind] = MaskSource(folder / "masks" / f"{name}_{kind.replace(' ', '-')}.png")
            write_image(kind_masks[kind].path, field.kind_masks[kind])
        images.append(
            LabelledImage(
                path=image,
                label="artifact" if field.kinds else "clean",
                split=None,
                group=f"well{well + 1:03d}",
                mask=MaskSource(mask) if mask else None,
                kinds=tuple(kind_masks),
                kind_masks=kind_masks,
            )
        )
    mark_simulated(folder)
    labels = folder / "labels.csv"
    write_labels(labels, with_splits(LabelSet(images=tuple(images), source=labels), seed=seed).images)
    return labels


def simulate_plate(
    folder: Path,
    *,
    wells: int = 8,
    fields_per_well: int = 2,
    shape: tuple[int, int] = (512, 512),
    seed: int = 0,
    artifact_fraction: float = 0.5,
    ome: bool = False,
) -> Path:
    """Simulate a plate whose wells carry a dose that raises the signal, with artifacts in some fields.

    Parameters
    ----------
    folder : Path
        Gets for each field `A01_s1_brightfield.tiff`, `_dna.tiff` and `_signal.tiff`; in `truth/` the label maps
        `_nuclei.tiff` and `_cells.tiff` and the mask `_artifacts.tiff` (255 = artifact); `layout.csv` (well, dose);
        `truth.csv` (a line a field) and `truth_nuclei.csv` (a line a nucleus).
    wells, fields_per_well : int
        How many; at most 96 wells.
    shape : tuple of int
        (y, x) of each field in pixels.
    seed : int
        The same seed gives the same files.
    artifact_fraction : float
        Share of fields with artifacts, 0 to 1.
    ome : bool
        Whether each field is written as one OME-TIFF of three channels too, in `ome/`.

    Returns
    -------
    Path
        `folder`.

    Raises
    ------
    ArtSegError
        An impossible number, or a file that cannot be written.
    """
    fields = wells * fields_per_well
    if wells > _ROWS_OF_A_PLATE * _COLUMNS_OF_A_PLATE:
        raise ArtSegError(f"A plate has at most {_ROWS_OF_A_PLATE * _COLUMNS_OF_A_PLATE} wells, not {wells}.")
    spoilt = spoilt_fields(fields, artifact_fraction, seed)
    # one acquisition: focus and lamp as in one run of a microscope
    look = draw_look(np.random.default_rng((seed, _LOOKS)))
    doses = _doses(wells)
    layout: list[dict[str, object]] = []
    truth: list[dict[str, object]] = []
    nuclei: list[dict[str, object]] = []
    for number in track(range(fields), "Simulating the plate", fields):
        at, site = divmod(number, fields_per_well)
        well, site = well_name(at), site + 1
        if site == 1:
            layout.append({"well": well, "dose": f"{doses[at]:.6g}"})
        field = simulate_field(
            seed=(seed, _FIELDS, number),
            shape=shape,
            artifact=bool(spoilt[number]),
            signal_level=_response(doses[at]),
            look=look,
        )
        name = f"{well}_s{site}"
        write_field(folder, name, field)
        if ome:
            write_ome(folder / "ome" / f"{name}.ome.tiff", field, PIXEL_SIZE_UM, f"plate-{seed}-{number}")
        of_nuclei = nuclei_rows(field, well, site)
        nuclei += of_nuclei
        truth.append(field_row(field, well, site, doses[at], of_nuclei))
    write_table(folder / "layout.csv", layout)
    write_table(folder / "truth_nuclei.csv", nuclei)
    write_table(folder / "truth.csv", truth)
    return folder


def _check(*, fields: int, seed: int, artifact_fraction: float) -> None:
    if fields < 1:
        raise ArtSegError(f"Expected at least one field, got {fields}.")
    if seed < 0:
        raise ArtSegError(f"Expected a seed of 0 or more, got {seed}.")
    if not 0 <= artifact_fraction <= 1:
        raise ArtSegError(f"Expected a share of artifact fields from 0 to 1, got {artifact_fraction}.")


def spoilt_fields(fields: int, fraction: float, seed: int) -> list[bool]:
    """Draw which fields get artifacts: exactly the share asked for, rounded to fields.

    Raises
    ------
    ArtSegError
        An impossible number.
    """
    _check(fields=fields, seed=seed, artifact_fraction=fraction)
    order = np.random.default_rng((seed, _DRAWS)).permutation(fields)
    return [bool(place < round(fields * fraction)) for place in order]


def _doses(wells: int) -> list[float]:
    """Half-logarithmic steps up to 1, the first well without any."""
    return [0.0, *(10.0 ** (-0.5 * (wells - 1 - at)) for at in range(1, wells))]


def _response(dose: float) -> float:
    """How strongly cells take up the signal stain: from 0.7 to 2.2 around a dose of 0.05."""
    return 0.7 + 1.5 * dose / (dose + 0.05)


def well_name(at: int) -> str:
    """Give the name of a 96-well plate's well by its place, row by row from 0."""
    return f"{chr(ord('A') + at // _COLUMNS_OF_A_PLATE)}{at % _COLUMNS_OF_A_PLATE + 1:02d}"


def write_field(folder: Path, name: str, field: SimulatedField, *, pixel_size_um: float = PIXEL_SIZE_UM) -> None:
    """Write the channels of a field as NAME_channel.tiff, and its truth into `truth/`."""
    for channel, image in (("brightfield", field.brightfield), ("dna", field.dna), ("signal", field.signal)):
        write_image(folder / f"{name}_{channel}.tiff", image, pixel_size_um=pixel_size_um)
    for what, image in (("nuclei", field.nuclei), ("cells", field.cells), ("artifacts", field.artifact_mask)):
        write_image(folder / "truth" / f"{name}_{what}.tiff", image, pixel_size_um=pixel_size_um)


def write_ome(path: Path, field: SimulatedField, pixel_size_um: float, identity: str) -> None:
    """Write brightfield, DNA and signal as one OME-TIFF of axes CYX.

    Parameters
    ----------
    path : Path
        The file.
    field : SimulatedField
        What is in it.
    pixel_size_um : float
        Side of its pixels in micrometres.
    identity : str
        Tells this image from others; its UUID follows from it, so that the same image gives the same bytes.
    """
    with whole_file(path) as temporary:
        tifffile.imwrite(
            temporary,
            np.stack([field.brightfield, field.dna, field.signal]),
            ome=True,
            photometric="minisblack",
            compression="zlib",
            metadata={
                "axes": "CYX",
                "UUID": str(uuid.uuid5(uuid.NAMESPACE_OID, identity)),
                "Channel": {"Name": ["brightfield", "dna", "signal"]},
                "PhysicalSizeX": pixel_size_um,
                "PhysicalSizeXUnit": "\N{MICRO SIGN}m",
                "PhysicalSizeY": pixel_size_um,
                "PhysicalSizeYUnit": "\N{MICRO SIGN}m",
            },
        )


def field_row(
    field: SimulatedField, well: str, site: int, dose: float, of_nuclei: Sequence[Mapping[str, object]]
) -> dict[str, object]:
    """Give a field's line of truth.csv."""
    return {
        "well": well,
        "site": site,
        "dose": f"{dose:.6g}",
        "nuclei": len(field.signal_truth),
        "mean_true_signal": f"{float(field.signal_truth.mean()):.3f}" if len(field.signal_truth) else "",
        "artifact_area_fraction": f"{float(field.artifact_mask.mean()):.6f}",
        "nuclei_touched": sum(1 for one in of_nuclei if one["covered"] != "0.000"),
        "kinds": ";".join(field.kinds),
    }


def nuclei_rows(field: SimulatedField, well: str, site: int) -> list[dict[str, object]]:
    """Give a field's lines of truth_nuclei.csv, one a nucleus."""
    count = len(field.signal_truth)
    flat = field.nuclei.ravel()
    area = np.bincount(flat, minlength=count + 1)[1:]
    rows, columns = np.indices(field.nuclei.shape)
    y = np.bincount(flat, weights=rows.ravel(), minlength=count + 1)[1:] / area
    x = np.bincount(flat, weights=columns.ravel(), minlength=count + 1)[1:] / area
    covered = np.bincount(flat, weights=field.artifact_mask.ravel(), minlength=count + 1)[1:] / area
    return [
        {
            "well": well,
            "site": site,
            "nucleus": at + 1,
            "y": f"{y[at]:.2f}",
            "x": f"{x[at]:.2f}",
            "area_px": int(area[at]),
            "true_signal": f"{field.signal_truth[at]:.3f}",
            "covered": f"{covered[at]:.3f}",
        }
        for at in range(count)
    ]


def write_table(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write rows as CSV, the columns those of the first."""
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_text(path, text.getvalue())
