"""What a study found, as tables: rows of plain values, missing cells among them."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from artseg_models.files import read_json, write_text
from artseg_models.metrics import mean_defined, over_seeds
from artseg_models.study import paper
from artseg_models.study.configuration import Study
from artseg_models.study.run import Cell

Row = Mapping[str, Any]

#: Rows of our Table 1: those of Supplementary Table 1 and what Box 1 and Figure 3 add.
METRICS: Mapping[str, str] = {
    "image_f1": "Classification F1",
    "image_precision": "Classification precision",
    "image_recall": "Classification recall",
    "pixel_f1": "Pixel-wise F1",
    "pixel_precision": "Pixel-wise precision",
    "pixel_recall": "Pixel-wise recall",
    "pixel_iou": "Pixel-wise IoU",
    "pixel_pr_area": "Area under the precision-recall curve",
    "average_object_iou": "Average object IoU",
    "object_f1_iou_0.5": "Object-wise F1 at IoU 0.5",
}
_PERCENT = 100


@dataclass(frozen=True)
class Results:
    """A study and its cells, as they are now."""

    study: Study
    out: Path
    cells: Sequence[Cell]

    @cached_property
    def scores(self) -> dict[tuple[str, str, int], Mapping[str, Any]]:
        """scores.json of the scored cells."""
        return {
            (cell.dataset, cell.method, cell.seed): read_json(cell.folder / "scores.json")
            for cell in self.cells
            if cell.state == "scored"
        }

    def of(self, dataset: str, method: str) -> list[Mapping[str, Any]]:
        """Give the scores of all seeds that are there."""
        return [score for (name, own, _), score in self.scores.items() if (name, own) == (dataset, method)]

    def facts(self, dataset: str) -> Mapping[str, Any]:
        """Read what was found while the data set was made ready: binning, pixel size, counts of images."""
        return read_json(self.out / "data" / dataset / "dataset.json")

    def choice(self, dataset: str) -> Mapping[str, Any] | None:
        """Read smallest object and cutoffs of a data set, or None before they are chosen."""
        trained_on = self.study.datasets[dataset].transfer_from or dataset
        file = self.out / "choices" / f"{trained_on}.json"
        return read_json(file) if file.exists() else None

    def first(self, dataset: str, method: str) -> Cell | None:
        """Find the scored cell with the first seed, for pictures."""
        return next((c for c in self.cells if (c.dataset, c.method, c.state) == (dataset, method, "scored")), None)

    @property
    def missing(self) -> list[Row]:
        """Cells without scores, and why."""
        return [
            {"dataset": cell.dataset, "method": cell.method, "seed": cell.seed, "state": cell.state, "why": cell.why}
            for cell in self.cells
            if cell.state != "scored"
        ]


def table_1(results: Results) -> list[Row]:
    """Tabulate, as Supplementary Table 1, every metric of every method on every data set, per cent; missing ones too.

    The interval is over seeds (Student's t) where there are two or more, otherwise that of the test images (bootstrap
    over groups) of the one seed.
    """
    rows: list[Row] = []
    for dataset, settings in results.study.datasets.items():
        for metric, title in METRICS.items():
            for method in results.study.methods:
                published = paper.published(settings.family, method, metric)
                rows.append(
                    {
                        "dataset": dataset,
                        "masks_are": settings.masks_are,
                        "metric": metric,
                        "title": title,
                        "method": method,
                        **_figure(results.of(dataset, method), metric),
                        "paper_value": None if published is None else _PERCENT * published,
                        "paper_dataset": paper.FAMILY_NAMES.get(settings.family or "")
                        if published is not None
                        else None,
                    }
                )
    return rows


def _figure(scores: Sequence[Mapping[str, Any]], metric: str) -> dict[str, Any]:
    empty: dict[str, Any] = {"value": None, "low": None, "high": None, "interval": "", "seeds": len(scores)}
    values = [math.nan if (value := score["figures"][metric][0]) is None else float(value) for score in scores]
    if all(map(math.isnan, values)):
        return {**empty, "interval": "not run" if not scores else "not defined"}
    if len(values) > 1:
        value, (low, high) = over_seeds(values)
        kind = "over seeds"
    else:
        value = values[0]
        low, high = (math.nan if part is None else float(part) for part in scores[0]["figures"][metric][1:])
        kind = "over test images, one seed"
    found = {"value": value, "low": low, "high": high}
    return empty | {name: _percent(part) for name, part in found.items()} | {"interval": kind}


def _percent(value: float) -> float | None:
    return None if math.isnan(value) else round(_PERCENT * value, 2)


def tables_2_to_4(results: Results) -> list[Row]:
    """Tabulate, as Supplementary Tables 2 to 4, IoU on test images by smallest object, per cent, mean over seeds."""
    rows: list[Row] = []
    for dataset, settings in results.study.datasets.items():
        for at, size in enumerate(paper.SIZES):
            for method in results.study.methods:
                found = [score["iou_by_smallest_object"][str(size)] for score in results.of(dataset, method)]
                mean = mean_defined(math.nan if value is None else float(value) for value in found)
                printed = paper.TABLES_2_TO_4.get(settings.family or "", {}).get(method)
                rows.append(
                    {
                        "dataset": dataset,
                        "smallest_object_px": size,
                        "method": method,
                        "iou": _percent(mean),
                        "seeds": len(found),
                        "paper_iou": printed[at] if printed else None,
                    }
                )
    return rows


def cost_table(results: Results) -> list[Row]:
    """Count what each method costs: an expert's time (section 3.2), training, prediction, memory."""
    rows: list[Row] = []
    for dataset, settings in results.study.datasets.items():
        counts: Mapping[str, Mapping[str, int]] = results.facts(dataset)["counts"]
        learning = {label: counts["train"][label] + counts["validation"][label] for label in ("clean", "artifact")}
        labelled = sum(learning.values())
        for method in results.study.methods:
            own = [cell for cell in results.cells if (cell.dataset, cell.method) == (dataset, method)]
            costs = [read_json(cell.folder / "cost.json") for cell in own if (cell.folder / "cost.json").exists()]
            masks = learning["artifact"] if method == "unet" else 0
            by_validation = results.study.cutoffs_from == "validation" and method != "unet"
            rows.append(
                {
                    "dataset": dataset,
                    "method": method,
                    "labels": 0 if settings.transfer_from else labelled,
                    "label_minutes": 0 if settings.transfer_from else round(paper.SECONDS_A_LABEL * labelled / 60, 1),
                    "masks_to_learn_from": 0 if settings.transfer_from else masks,
                    "mask_minutes": 0 if settings.transfer_from else round(paper.SECONDS_A_MASK * masks / 60, 1),
                    "validation_masks_for_cutoff": counts["validation"]["artifact"] if by_validation else 0,
                    "training_seconds": _mean(costs, "training_seconds", 1),
                    "without_classifier": sum(bool(cost.get("classifier_taken_over")) for cost in costs),
                    "seconds_per_image": _mean(costs, "seconds_per_image", 4),
                    "peak_memory_mb": _mean(costs, "peak_memory_mb", 0),
                    "device": ", ".join(sorted({str(cost["device"]) for cost in costs})),
                    "seeds": len(costs),
                }
            )
    return rows


def _mean(costs: Sequence[Mapping[str, Any]], name: str, digits: int) -> float | None:
    mean = mean_defined(float(cost[name]) for cost in costs if cost[name] is not None)
    return None if math.isnan(mean) else round(mean, digits)


def choices_table(results: Results) -> list[Row]:
    """Tabulate cutoff and smallest object of each trained method, and the IoU on validation images that chose them."""
    rows: list[Row] = []
    for (dataset, method, seed), score in results.scores.items():
        rows.append(
            {
                "dataset": dataset,
                "method": method,
                "seed": seed,
                "cutoff": score["cutoff"],
                "cutoff_from": score["cutoff_from"],
                "paper_cutoff": paper.PUBLISHED_CUTOFFS[method],
                "smallest_object_px": score["smallest_object_px"],
                "validation_iou": score["validation_iou"],
                "verdict_by": score["verdict_by"],
            }
        )
    return rows


def write_tables(results: Results, folder: Path) -> list[Path]:
    """Write every table as CSV; gives the files."""
    tables = {
        "table_1.csv": table_1(results),
        "tables_2_to_4.csv": tables_2_to_4(results),
        "cost.csv": cost_table(results),
        "choices.csv": choices_table(results),
        "not_run.csv": results.missing,
    }
    for name, rows in tables.items():
        text = io.StringIO(newline="")
        if rows:
            writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        write_text(folder / name, text.getvalue())
    return [folder / name for name in tables]
