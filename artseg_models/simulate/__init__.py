"""Fields of view with cells, nuclei and artifacts, and their truth."""

from artseg_models.simulate.assays import paper_experiments, simulate_assay
from artseg_models.simulate.datasets import PIXEL_SIZE_UM, simulate_plate, simulate_training_set
from artseg_models.simulate.families import FAMILIES, simulate_family
from artseg_models.simulate.fields import MOST_COVERED, VISIBLE_CHANGE, SimulatedField, simulate_field

__all__ = [
    "FAMILIES",
    "MOST_COVERED",
    "PIXEL_SIZE_UM",
    "VISIBLE_CHANGE",
    "SimulatedField",
    "paper_experiments",
    "simulate_assay",
    "simulate_family",
    "simulate_field",
    "simulate_plate",
    "simulate_training_set",
]
