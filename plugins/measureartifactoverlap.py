"""
MeasureArtifactOverlap
======================

**MeasureArtifactOverlap** measures for each object how much of it lies under artifacts and how far the nearest artifact
is, so that **FilterObjects** can keep or drop whole objects, instead of a mask that cuts nuclei in half.

It takes the artifact mask that **SegmentArtifacts** makes (or any other binary image that is white on artifacts) and
changes neither images nor objects.

|

============ ============ ===============
Supports 2D? Supports 3D? Respects masks?
============ ============ ===============
YES          NO           YES
============ ============ ===============

Pixels that are masked in the artifact mask do not count as artifact.

See also
^^^^^^^^

**SegmentArtifacts**, **FilterObjects**, **ClassifyObjects**. The example pipeline *artifacts_filtered* measures the
overlap of nuclei and drops those that are overlapped.

How do I keep, drop or flag objects?
^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^

-  *Drop what an artifact covers:* in **FilterObjects**, filter by the measurement *ArtSeg*, *OverlapFraction* with a
   maximum, for instance 0.05.
-  *Drop what an artifact touches:* filter by *TouchesArtifact* with a maximum of 0.
-  *Keep away from halos:* filter by *ArtifactDistance* with a minimum in pixels.
-  *Flag, drop nothing:* leave the objects as they are; the measurements stand in each object's row of the exported
   table, and **ClassifyObjects** makes classes of them.

Measurements made by this module
^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^

**Object measurements**, each followed by the name of the artifact mask:

-  *ArtSeg_OverlapFraction:* share of the object's pixels that are artifact, 0 to 1.
-  *ArtSeg_ArtifactDistance:* pixels from the object to the nearest artifact, between the centers of their closest
   pixels; 0 where they overlap. **In an image without artifacts it is the length of the image's diagonal**, farther
   than any artifact could be, so that filters, classifiers and mean values need no special case.
-  *ArtSeg_TouchesArtifact:* 1 if an artifact overlaps the object or borders on it by a side or a corner of a pixel,
   else 0.
"""  # noqa: D205, D400, D405, D407 - CellProfiler shows this as the module's help, in the form of its own modules

import numpy
from cellprofiler_core.constants.measurement import COLTYPE_FLOAT, COLTYPE_INTEGER
from cellprofiler_core.module import Module
from cellprofiler_core.setting import ValidationError
from cellprofiler_core.setting.subscriber import ImageSubscriber, LabelListSubscriber
from scipy.ndimage import distance_transform_edt

C_ARTSEG = "ArtSeg"

F_OVERLAP = "OverlapFraction"
F_DISTANCE = "ArtifactDistance"
F_TOUCHES = "TouchesArtifact"

#: measurement: its column type
FEATURES = {F_OVERLAP: COLTYPE_FLOAT, F_DISTANCE: COLTYPE_FLOAT, F_TOUCHES: COLTYPE_INTEGER}

#: pixels that share a corner are sqrt(2) apart, the next ones 2
TOUCHING = 1.5


class MeasureArtifactOverlap(Module):
    module_name = "MeasureArtifactOverlap"

    category = "Measurement"

    variable_revision_number = 1

    doi = {  # noqa: RUF012 - as CellProfiler reads it
        "Please cite the following when using MeasureArtifactOverlap:": "https://doi.org/10.1038/s41598-022-14703-y"
    }

    def create_settings(self):
        self.mask_name = ImageSubscriber(
            "Select the artifact mask",
            doc="""\
Binary image that is white (1) on artifacts, as **SegmentArtifacts** makes it. It must have the size of the objects: see
*Match the size of another image?* in **SegmentArtifacts**.
""",
        )
        self.objects_list = LabelListSubscriber(
            "Select objects to measure",
            [],
            doc="The objects whose overlap with artifacts is measured, one set or several.",
        )

    def settings(self):
        return [self.mask_name, self.objects_list]

    def validate_module(self, pipeline):
        if not self.objects_list.value:
            raise ValidationError("Select at least one set of objects to measure", self.objects_list)

    def volumetric(self):
        return False

    def run(self, workspace):
        if not self.objects_list.value:  # validate_module is not called without a window
            raise ValueError("MeasureArtifactOverlap has no objects to measure. Select them in its settings.")
        image = workspace.image_set.get_image(self.mask_name.value)
        artifact = checked_mask(image.pixel_data, self.mask_name.value)
        if image.has_mask:
            artifact = artifact & image.mask
        distances = distance_to_artifact(artifact)

        columns = []
        for name in self.objects_list.value:
            objects = workspace.object_set.get_objects(name)
            check_same_size(artifact.shape, objects.shape, self.mask_name.value, name)
            values = overlap(objects.ijv, objects.indices, artifact, distances)
            for feature, value in values.items():
                workspace.add_measurement(name, self.measurement_name(feature), value)
            columns.append(displayed(values))

        if self.show_window:
            workspace.display_data.artifact = artifact
            workspace.display_data.labels = [
                [plane for plane, _ in workspace.object_set.get_objects(name).get_labels()]
                for name in self.objects_list.value
            ]
            workspace.display_data.names = list(self.objects_list.value)
            workspace.display_data.columns = columns

    def display(self, workspace, figure):
        data = workspace.display_data
        figure.set_subplots((2, 1))
        figure.subplot_imshow_bw(
            0,
            0,
            data.artifact,
            title=f"{self.mask_name.value}, objects outlined",
            cplabels=[{"name": name, "labels": planes} for name, planes in zip(data.names, data.labels)],
        )
        # upright: a table that is wider than its half of the window is cut
        figure.subplot_table(1, 0, list(zip(*data.columns)), col_labels=data.names, row_labels=ROWS)

    def measurement_name(self, feature):
        return "_".join((C_ARTSEG, feature, self.mask_name.value))

    def get_measurement_columns(self, pipeline):
        return [
            (name, self.measurement_name(feature), kind)
            for name in self.objects_list.value
            for feature, kind in FEATURES.items()
        ]

    def get_categories(self, pipeline, object_name):
        return [C_ARTSEG] if object_name in self.objects_list.value else []

    def get_measurements(self, pipeline, object_name, category):
        return list(FEATURES) if category in self.get_categories(pipeline, object_name) else []

    def get_measurement_images(self, pipeline, object_name, category, measurement):
        return [self.mask_name.value] if measurement in self.get_measurements(pipeline, object_name, category) else []


def checked_mask(pixels, name):
    """Give the artifact mask as (y, x) bool, or say why the image is none."""
    if pixels.ndim != 2:
        raise ValueError(
            f"MeasureArtifactOverlap expects a binary image (y, x), but {name} has the shape {pixels.shape}. "
            "Select the artifact mask that SegmentArtifacts makes."
        )
    if pixels.dtype != bool and not numpy.isin(pixels, (0, 1)).all():
        raise ValueError(
            f"MeasureArtifactOverlap expects a binary image of 0 and 1 (artifact), but {name} has other values. "
            "Select the artifact mask that SegmentArtifacts makes, or use Threshold first."
        )
    return pixels > 0


def check_same_size(mask_shape, objects_shape, mask_name, objects_name):
    if tuple(mask_shape) != tuple(objects_shape):
        raise ValueError(
            f"MeasureArtifactOverlap expects mask and objects of one size, but {mask_name} has "
            f"{mask_shape[0]} x {mask_shape[1]} pixels and {objects_name} {objects_shape[0]} x {objects_shape[1]}. "
            "In SegmentArtifacts, match the size of the image that the objects come from; or use Resize."
        )


def distance_to_artifact(artifact):
    """Distance of each pixel (y, x) to the nearest artifact pixel; the image's diagonal where there is none."""
    if not artifact.any():
        return numpy.full(artifact.shape, numpy.hypot(*artifact.shape))
    return distance_transform_edt(~artifact)


def overlap(ijv, indices, artifact, distances):
    """Measure objects against artifacts.

    Parameters
    ----------
    ijv : ndarray
        (pixels, 3) int: y, x and label of each object pixel; objects may overlap each other.
    indices : ndarray
        Labels 1..N.
    artifact : ndarray
        (y, x) bool.
    distances : ndarray
        (y, x) float, pixels to the nearest artifact.

    Returns
    -------
    dict of str to ndarray
        For each feature N values; a label without pixels has the overlap NaN and the distance NaN.
    """
    count = len(indices)
    y, x, label = (ijv[:, axis].astype(int) for axis in range(3))
    area = numpy.bincount(label, minlength=count + 1)[1:]
    covered = numpy.bincount(label[artifact[y, x]], minlength=count + 1)[1:]
    nearest = numpy.full(count + 1, numpy.inf)
    numpy.minimum.at(nearest, label, distances[y, x])
    nearest = nearest[1:]
    return {
        F_OVERLAP: numpy.where(area > 0, covered / numpy.maximum(area, 1), numpy.nan),
        F_DISTANCE: numpy.where(area > 0, nearest, numpy.nan),
        F_TOUCHES: (nearest < TOUCHING).astype(int),
    }


ROWS = ["Objects", "Touched", "Over half covered", "Mean overlap"]


def displayed(values):
    """Give the figure's column for one set of objects, as texts."""
    overlaps = values[F_OVERLAP]
    mean = f"{100 * numpy.nanmean(overlaps):.1f} %" if numpy.isfinite(overlaps).any() else "-"
    return [str(len(overlaps)), str(int(values[F_TOUCHES].sum())), str(int((overlaps > 0.5).sum())), mean]
