"""The figures of a study: examples, curves, bars (Figure 3), sizes (Supp. Figure 2), artifacts laid out (Figure 2)."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# matplotlib leaves the types of its keyword arguments open.
from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from numpy.typing import NDArray
from scipy import ndimage  # pyright: ignore[reportMissingTypeStubs]
from skimage.measure import label  # pyright: ignore[reportUnknownVariableType]
from skimage.transform import resize  # pyright: ignore[reportUnknownVariableType]

from artseg_models.errors import ArtSegError
from artseg_models.files import whole_file
from artseg_models.images import find_images, read_image, read_mask_image
from artseg_models.labels import LabelledImage, read_labels, read_mask
from artseg_models.report.drawing import INK, MUTED, ORANGE, WHITE, outline, plain, save_figure, show, stretch
from artseg_models.study import paper
from artseg_models.study.cell import Maps, read_maps
from artseg_models.study.results import METRICS, Results, table_1
from artseg_models.study.score import predicted_mask

logger = logging.getLogger(__name__)

#: One colour a method in every figure; told apart by colour-blind readers (Okabe and Ito, 2008).
METHOD_COLORS: Mapping[str, str] = {
    "unet": "#000000",
    "scorecam-unet": "#0072B2",
    "scorecam": "#56B4E9",
    "autoencoder": "#E69F00",
    "padim": "#009E73",
    "patch-svdd": "#CC79A7",
}
_ON_IMAGES = METHOD_COLORS | {"unet": "#F0E442", "scorecam-unet": "#3FA9F5"}

_EXAMPLES = 3
_PATCH_PX = 32
_PATCHES_AT_MOST = 400
_NEIGHBOURS = 15


@dataclass(frozen=True)
class Drawn:
    """A figure of a study, or why there is none.

    Attributes
    ----------
    name : str
        Of its files.
    title, caption : str
        For the page.
    figure : Figure or None
        None where it could not be drawn; `caption` then says why.
    """

    name: str
    title: str
    caption: str
    figure: Figure | None


def draw_all(results: Results) -> list[Drawn]:
    """Draw every figure that the cells there are allow."""
    drawn = [Drawn(*_bars(results))]
    for dataset in results.study.datasets:
        drawn += [_curves(results, dataset), _examples(results, dataset), _sizes(results, dataset)]
        drawn.append(_layout(results, dataset))
    return drawn


def write_figures(drawn: Sequence[Drawn], folder: Path, *, models: str) -> None:
    """Write every figure as PNG and SVG, whole or not at all; `models` says in their description whose they are."""
    for one in drawn:
        if one.figure is None:
            continue
        save_figure(one.figure, folder / f"{one.name}.png", dpi=150, audit={"Description": models})
        with whole_file(folder / f"{one.name}.svg") as temporary:
            said = {"Date": None, "Description": models}
            one.figure.savefig(temporary, format="svg", facecolor="white", metadata=said)


def _title(results: Results, dataset: str) -> str:
    return results.study.datasets[dataset].title or dataset


def _bars(results: Results) -> tuple[str, str, str, Figure | None]:
    """IoU and image F1 of every method (Figure 3B, middle and right)."""
    name, title = "figure_3_bars", "Figure 3B: pixel-wise IoU and classification F1"
    rows = table_1(results)
    if not results.scores:
        return name, title, "Nothing is scored yet.", None
    datasets, methods = list(results.study.datasets), results.study.methods
    figure = Figure(figsize=(11.5, 0.9 + 2.5 * len(datasets)), layout="constrained")
    grid: NDArray[Any] = figure.subplots(len(datasets), 2, squeeze=False, sharex=True)
    for line, dataset in enumerate(datasets):
        for column, metric in enumerate(("pixel_iou", "image_f1")):
            axes: Axes = grid[line, column]
            of = {row["method"]: row for row in rows if (row["dataset"], row["metric"]) == (dataset, metric)}
            for at, method in enumerate(methods):
                row = of[method]
                if row["value"] is None:
                    axes.text(at, 3, row["interval"], rotation=90, ha="center", fontsize=8, color=MUTED)
                else:
                    axes.bar(at, row["value"], color=METHOD_COLORS[method], width=0.62)
                    if row["low"] is not None:
                        # seen on bars of any colour
                        rim = patheffects.withStroke(linewidth=3.6, foreground=WHITE)
                        ends = [row["low"], row["high"]]
                        axes.plot([at, at], ends, color=MUTED, linewidth=1.6, path_effects=[rim])
                if row["paper_value"] is not None:
                    axes.scatter(
                        [at + 0.38], [row["paper_value"]], marker="D", s=34, facecolor="none", edgecolor=ORANGE
                    )
            axes.set_ylim(0, 103)
            axes.set_title(f"{_title(results, dataset)}: {METRICS[metric]} (%)", loc="left", fontsize=10, color=INK)
            axes.set_xticks(range(len(methods)), [paper.METHOD_NAMES[m] for m in methods], rotation=18, fontsize=8)
            plain(axes)
    caption = (
        "Bars: test images of this study; lines: 95 % intervals, over seeds where there are several, otherwise over "
        "groups of test images. Orange diamonds: the paper's own figures, of other images."
    )
    return name, title, caption, figure


def _curves(results: Results, dataset: str) -> Drawn:
    """Precision and recall at all cutoffs (Figure 3B, left)."""
    name, title = f"figure_3_curves_{dataset}", f"{_title(results, dataset)}: precision and recall of pixels"
    cells = [(method, results.first(dataset, method)) for method in results.study.methods]
    if not any(cell for _, cell in cells):
        return Drawn(name, title, "Nothing is scored yet.", None)
    figure = Figure(figsize=(6.6, 5.2), layout="constrained")
    axes = figure.subplots()
    for method, cell in cells:
        if cell is None:
            continue
        points = np.loadtxt(cell.folder / "precision_recall.csv", delimiter=",", skiprows=1, ndmin=2, usecols=(1, 2))
        figures = results.scores[dataset, method, cell.seed]["figures"]
        area = figures["pixel_pr_area"][0]
        said = f"{paper.METHOD_NAMES[method]}: area {area:.3f}" if area is not None else paper.METHOD_NAMES[method]
        axes.plot(points[:, 1], points[:, 0], color=METHOD_COLORS[method], linewidth=1.7, label=said)
        precision, recall = figures["pixel_precision"][0], figures["pixel_recall"][0]
        if precision is not None and recall is not None:
            axes.scatter([recall], [precision], color=METHOD_COLORS[method], edgecolor="white", s=60, zorder=3)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="recall", ylabel="precision")
    axes.legend(fontsize=8.5, frameon=True, edgecolor="none")
    plain(axes)
    caption = "Pooled over test images, first seed. Dots: the chosen cutoff, after dropping small objects."
    return Drawn(name, title, caption, figure)


def _examples(results: Results, dataset: str) -> Drawn:
    """Overlays of every method with the true outline (Figure 3A, Supp. Figure 3)."""
    name, title = f"figure_3_examples_{dataset}", f"{_title(results, dataset)}: examples"
    facts = results.facts(dataset)
    labels = results.out / "data" / dataset / "labels.csv"
    found: dict[str, Maps] = {}
    for method in results.study.methods:
        cell = results.first(dataset, method)
        if cell is not None:
            found[method] = read_maps(cell.folder, labels, "test")
    if not found:
        return Drawn(name, title, "Nothing is scored yet.", None)
    items = next(iter(found.values())).items
    chosen = _chosen_examples(items)
    columns = ["", *found]
    shapes = [read_image(items[at].path).pixels.shape for at in chosen]
    width = 2.3
    height = sum(width * shape[0] / shape[1] + 0.12 for shape in shapes) + 0.55
    figure = Figure(figsize=(width * len(columns), height), layout="constrained")
    grid: NDArray[Any] = figure.subplots(
        len(chosen), len(columns), squeeze=False, height_ratios=[shape[0] / shape[1] for shape in shapes]
    )
    for line, at in enumerate(chosen):
        image = stretch(read_image(items[at].path).pixels)
        truth = _truth(items[at], (image.shape[0], image.shape[1]))
        for column, method in enumerate(columns):
            axes: Axes = grid[line, column]
            show(axes, image, ("Brightfield" if not method else paper.METHOD_NAMES[method]) if line == 0 else "")
            outline(axes, truth, color=WHITE, width=1.1)
            if method:
                cell = results.first(dataset, method)
                assert cell is not None
                score, maps = results.scores[dataset, method, cell.seed], found[method]
                mask = predicted_mask(
                    maps.maps[at],
                    passes=bool(maps.gate_open[at]),
                    cutoff=score["cutoff"],
                    size=score["smallest_object_px"],
                    area_of_pixel=facts["area_of_pixel"],
                )
                outline(axes, mask > 0, color=_ON_IMAGES[method], width=1.3)
    caption = (
        "White: true outline. Coloured: found. Test images chosen by the area of their artifact, not by how well they "
        f"came out: those at a quarter, half and three quarters, and a clean one. First seed; images binned "
        f"{facts['binning']} x {facts['binning']}."
    )
    return Drawn(name, title, caption, figure)


def _truth(item: LabelledImage, shape: tuple[int, int]) -> NDArray[np.bool_]:
    return np.zeros(shape, np.bool_) if item.label == "artifact" and item.mask is None else read_mask(item, shape=shape)


def _chosen_examples(items: Sequence[LabelledImage]) -> list[int]:
    areas: list[tuple[float, int]] = []
    for at, item in enumerate(items):
        if item.label == "artifact" and item.mask is not None:
            areas.append((float((read_mask_image(item.mask.path) > 0).mean()), at))
    areas.sort()
    places = np.linspace(0.25, 0.75, _EXAMPLES)
    chosen: list[int] = [areas[round(share * (len(areas) - 1))][1] for share in places] if areas else []
    clean = [at for at, item in enumerate(items) if item.label == "clean"][:1]
    return list(dict.fromkeys(chosen + clean))


def _sizes(results: Results, dataset: str) -> Drawn:
    """Sizes of artifacts and nuclei (Supp. Figure 2)."""
    name, title = f"supp_figure_2_sizes_{dataset}", f"{_title(results, dataset)}: sizes of artifacts"
    facts = results.facts(dataset)
    items = _spoilt(results, dataset)
    scale = facts["area_of_pixel"]
    artifacts = [float(area * scale) for item in items for area in np.bincount(_objects(item).ravel())[1:] if area]
    if not artifacts:
        return Drawn(name, title, "No artifact image has a mask.", None)
    nuclei: list[float] = []
    if facts["nuclei"]:
        for path in find_images(Path(facts["nuclei"])):
            nuclei += [
                float(area * facts["area_of_stored_pixel"])
                for area in np.bincount(read_mask_image(path).ravel().astype(np.int64))[1:]
                if area
            ]
    size = facts["pixel_size_um"]
    unit = (size / 1000) ** 2 if size else 1.0
    shape = read_image(items[0].path).pixels.shape
    figure = Figure(figsize=(4.8, 4.6), layout="constrained")
    axes = figure.subplots()
    groups = [("artifacts", artifacts, ORANGE), *([("nuclei", nuclei, "#0072B2")] if nuclei else [])]
    random = np.random.default_rng(0)  # only spreads the points sideways
    for at, (_, areas, color) in enumerate(groups, start=1):
        logs = np.log10(np.array(areas) * unit)
        axes.boxplot([logs], positions=[at], widths=0.5, showfliers=False, medianprops={"color": INK})
        shown = random.permutation(logs)[:1500]
        axes.scatter(at + random.uniform(-0.2, 0.2, shown.size), shown, s=7, color=color, alpha=0.35, linewidth=0)
    axes.axhline(math.log10(shape[0] * shape[1] * scale * unit), color="red", linewidth=1.2, dashes=(5, 3))
    axes.set_xticks(range(1, len(groups) + 1), [f"{label_}\n({len(areas)})" for label_, areas, _ in groups])
    axes.set_ylabel("log10 of the area in mm\u00b2" if size else "log10 of the area in pixels")
    plain(axes)
    caption = (
        f"Artifact objects of all splits: median {np.median(artifacts):.0f} px of the full image, mean "
        f"{np.mean(artifacts):.0f} px. Red: a whole image. "
        + ("" if nuclei else "The data set has no outlines of nuclei. ")
        + ("" if size else "The pixel size is not known, so areas are in pixels.")
    )
    return Drawn(name, title, caption.strip(), figure)


def _spoilt(results: Results, dataset: str) -> list[LabelledImage]:
    labels = read_labels(results.out / "data" / dataset / "labels.csv")
    return [item for item in labels.images if item.mask is not None]


def _objects(item: LabelledImage) -> NDArray[np.int64]:
    assert item.mask is not None
    return np.asarray(label(read_mask_image(item.mask.path) > 0, connectivity=2), dtype=np.int64)


def _layout(results: Results, dataset: str) -> Drawn:
    """Artifacts laid out in two dimensions by their pixels (Figure 2)."""
    name, title = f"figure_2_artifacts_{dataset}", f"{_title(results, dataset)}: artifacts laid out by their pixels"
    patches = _patches(_spoilt(results, dataset))
    if len(patches) <= _NEIGHBOURS:
        return Drawn(name, title, f"Only {len(patches)} artifacts: too few to lay out.", None)
    try:
        embed = umap_layout()
    except ArtSegError as error:
        return Drawn(name, title, f"Not drawn: {error}", None)
    places = embed(np.stack(patches).reshape(len(patches), -1))
    figure = Figure(figsize=(8.4, 8.0), layout="constrained")
    axes = figure.subplots()
    axes.scatter(places[:, 0], places[:, 1], s=1, color=WHITE)
    for (x, y), patch in zip(places, patches, strict=True):
        picture: Any = OffsetImage(patch, zoom=0.75, cmap="gray")
        axes.add_artist(AnnotationBbox(picture, (float(x), float(y)), frameon=False, pad=0))
    axes.set(xlabel="UMAP 1", ylabel="UMAP 2")
    plain(axes)
    caption = (
        f"{len(patches)} artifacts of all splits, each in a square cut around it, shown at {_PATCH_PX} x {_PATCH_PX} "
        "pixels; similar ones lie together (UMAP of the pixels)."
    )
    return Drawn(name, title, caption, figure)


def _patches(items: Sequence[LabelledImage]) -> list[NDArray[np.float32]]:
    patches: list[NDArray[np.float32]] = []
    for item in items:
        image = stretch(read_image(item.path).pixels)
        boxes = cast("list[tuple[slice, slice]]", ndimage.find_objects(_objects(item)))
        for rows, columns in boxes:
            top, bottom, left, right = rows.start, rows.stop, columns.start, columns.stop
            # a square with a rim, so that shapes are not stretched
            side = max(bottom - top, right - left) + 4
            centre_y, centre_x = (top + bottom) // 2, (left + right) // 2
            y, x = max(0, centre_y - side // 2), max(0, centre_x - side // 2)
            patch = image[y : y + side, x : x + side]
            if min(patch.shape) >= 4:
                patches.append(np.asarray(resize(patch, (_PATCH_PX, _PATCH_PX), anti_aliasing=True), dtype=np.float32))
    order = np.random.default_rng(0).permutation(len(patches))[:_PATCHES_AT_MOST]
    return [patches[int(at)] for at in order]


def umap_layout() -> Callable[[NDArray[np.float32]], NDArray[np.float64]]:
    """Give a function that lays rows (N, features) out as (N, 2), always the same way.

    Raises
    ------
    ArtSegError
        umap-learn is not installed.
    """
    try:
        import umap  # pyright: ignore[reportMissingImports, reportMissingTypeStubs]
    except ImportError as error:
        raise ArtSegError(
            "Expected umap-learn to lay artifacts out in two dimensions, but it is not installed. "
            "Install it with: pip install 'artseg[study]'"
        ) from error

    def embed(rows: NDArray[np.float32]) -> NDArray[np.float64]:
        layout: Any = umap.UMAP(n_components=2, n_neighbors=_NEIGHBOURS, random_state=0, n_jobs=1)  # pyright: ignore[reportUnknownVariableType]
        return np.asarray(layout.fit_transform(rows), dtype=np.float64)

    return embed
