"""
SegmentArtifacts
================

**SegmentArtifacts** finds artifacts (dust, fibres, dead-cell clumps, bubbles, smears) in a brightfield image with a
model trained by ArtSeg, and gives masks that keep them out of your measurements.

The network runs outside CellProfiler, in artseg's own Python: the module finds a running service on this computer or
starts one, all workers of an analysis share it, and it ends by itself when it is idle. To set up, run
``artseg cellprofiler install`` once.

|

============ ============ ===============
Supports 2D? Supports 3D? Respects masks?
============ ============ ===============
YES          NO           YES
============ ============ ===============

See Also
--------
^^^^^^^^

**MaskImage** takes the clean mask to blank artifacts in other channels. **MeasureObjectIntensity** with the clean mask
and **FilterObjects** drop whole objects that artifacts reach. The example pipeline *artifacts_masked* does both.

What do I get as output?
^^^^^^^^^^^^^^^^^^^^^^^^

-  *Artifact mask:* white (1) on artifacts.
-  *Clean mask:* white (1) where pixels can be used. Pixels that are masked in the input are in neither mask.
-  *Artifact objects:* one object for each connected artifact.
-  *Probability image* (optional): the model's probability of artifact, 0 to 1, before the cutoff.

Measurements made by this module
^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^

**Image measurements**, each followed by the name of the artifact objects:

-  *ArtSeg_AreaFraction:* share of the unmasked pixels that are artifact, 0 to 1.
-  *ArtSeg_UsableArea:* number of pixels in the clean mask. Masking lowers counts: divide by it.
-  *ArtSeg_Probability:* the classifier's probability that the image holds an artifact at all; NaN for a model without
   classifier.
-  *ArtSeg_Cutoff, ArtSeg_SmallestArtifact:* the values that were used.
-  *ArtSeg_ModelID, ArtSeg_ModelSHA256:* which model it was, to the bit.
-  *ArtSeg_Device, ArtSeg_Seconds:* where the network ran and for how long.
-  *Count:* the number of artifact objects.

**Object measurements:**

-  *Location_Center_X, Location_Center_Y:* centres of the artifacts.
"""  # noqa: D205, D400 - CellProfiler shows this as the module's help, in the form of its own modules

import os

import numpy
from _artseg_client import segment
from cellprofiler_core.constants.measurement import (
    COLTYPE_FLOAT,
    COLTYPE_INTEGER,
    COLTYPE_VARCHAR_FORMAT,
    IMAGE,
)
from cellprofiler_core.image import Image
from cellprofiler_core.module.image_segmentation import ImageSegmentation
from cellprofiler_core.object import Objects
from cellprofiler_core.preferences import DEFAULT_INPUT_FOLDER_NAME
from cellprofiler_core.setting import Binary, ValidationError
from cellprofiler_core.setting.choice import Choice
from cellprofiler_core.setting.text import Directory, Filename, Float, ImageName, Integer, LabelName, Text

C_ARTSEG = "ArtSeg"

AS_MODEL = "As the model says"
CUSTOM = "Custom"

DEVICES = ["auto", "cuda", "mps", "cpu"]

#: measurement: its column type
FEATURES = {
    "AreaFraction": COLTYPE_FLOAT,
    "UsableArea": COLTYPE_INTEGER,
    "Probability": COLTYPE_FLOAT,
    "Cutoff": COLTYPE_FLOAT,
    "SmallestArtifact": COLTYPE_INTEGER,
    "ModelID": COLTYPE_VARCHAR_FORMAT % 255,
    "ModelSHA256": COLTYPE_VARCHAR_FORMAT % 64,
    "Device": COLTYPE_VARCHAR_FORMAT % 32,
    "Seconds": COLTYPE_FLOAT,
}


class SegmentArtifacts(ImageSegmentation):
    module_name = "SegmentArtifacts"

    category = "Image Segmentation"

    variable_revision_number = 1

    def create_settings(self):
        super().create_settings()

        self.x_name.text = "Select the brightfield image"
        self.x_name.doc = "The brightfield image in which to look for artifacts. It must be grayscale."

        self.y_name = LabelName(
            "Name the artifact objects",
            "Artifacts",
            doc="Name of the objects, one for each connected artifact. The measurements end in this name.",
        )

        self.artifact_mask_name = ImageName(
            "Name the artifact mask",
            "ArtifactMask",
            doc="Name of the binary image that is white (1) on artifacts.",
        )

        self.clean_mask_name = ImageName(
            "Name the clean mask",
            "CleanMask",
            doc="""\
Name of the binary image that is white (1) where pixels can be used. **MaskImage** takes it as it is to keep these
pixels. Pixels that are masked in the input image are white in neither mask.
""",
        )

        self.wants_probability = Binary(
            "Keep the probability image?",
            False,
            doc="Select *Yes* to keep the model's probability of artifact, 0 to 1 for each pixel, as an image.",
        )

        self.probability_name = ImageName(
            "Name the probability image",
            "ArtifactProbability",
            doc="*(Used only if the probability image is kept)* Name of the image.",
        )

        self.package_folder = Directory(
            "Folder of the model package",
            Directory.static_join_string(DEFAULT_INPUT_FOLDER_NAME, ""),
            allow_metadata=False,
            doc="Folder that holds the model package.",
        )

        def folder_of_file():
            return self.package_folder.get_absolute_path()

        def set_folder_of_file(path):
            choice, custom = self.package_folder.get_parts_from_path(path)
            self.package_folder.join_parts(choice, custom)

        self.package_file = Filename(
            "Model package",
            "artseg-unet.zip",
            get_directory_fn=folder_of_file,
            set_directory_fn=set_folder_of_file,
            browse_msg="Choose a model package",
            exts=[("Model package (*.zip)", "*.zip"), ("All files (*.*)", "*.*")],
            doc="""\
The model: a BioImage Model Zoo package that ``artseg export`` wrote (its name ends in *-unet.zip*), or a segmentation
model of the Zoo with one image in and one probability map out. The name of an unpacked package's folder works too.
There is no model to fall back on: if this one cannot be used, the pipeline stops and says why.
""",
        )

        self.cutoff_choice = Choice(
            "Probability cutoff",
            [AS_MODEL, CUSTOM],
            doc=f"Pixels at or above it are artifact. *{AS_MODEL}* takes the value stated in the model package.",
        )

        self.cutoff = Float(
            "Cutoff",
            0.5,
            minval=0,
            maxval=1,
            doc="*(Used only with a custom cutoff)* Lower finds more, higher finds only what is certain.",
        )

        self.smallest_choice = Choice(
            "Smallest artifact",
            [AS_MODEL, CUSTOM],
            doc=f"Smaller artifacts are left out. *{AS_MODEL}* takes the value stated in the model package.",
        )

        self.smallest = Integer(
            "Smallest artifact, in pixels",
            100,
            minval=0,
            doc="*(Used only with a custom smallest artifact)* Area in pixels; 0 keeps every artifact.",
        )

        self.wants_gate = Binary(
            "Let the classifier pass clean images?",
            True,
            doc="""\
Select *Yes* to let the model's classifier look at the whole image first: where it sees no artifact, nothing is masked.
Select *No* to segment every image. A model without classifier segments every image.
""",
        )

        self.device = Choice(
            "Device",
            DEVICES,
            doc="""\
Where the network runs. *auto* takes a graphics card where there is one and the processor otherwise; *cuda* (NVIDIA)
and *mps* (Apple) stop with a message where there is no such device.
""",
        )

        self.python = Text(
            "Python that has artseg",
            "",
            doc="""\
Leave blank: ``artseg cellprofiler install`` notes where it is. Otherwise the path of the Python executable in the
environment where artseg is installed. The environment variable ARTSEG_PYTHON overrides both.
""",
        )

    def settings(self):
        return [
            self.x_name,
            self.y_name,
            self.artifact_mask_name,
            self.clean_mask_name,
            self.wants_probability,
            self.probability_name,
            self.package_folder,
            self.package_file,
            self.cutoff_choice,
            self.cutoff,
            self.smallest_choice,
            self.smallest,
            self.wants_gate,
            self.device,
            self.python,
        ]

    def visible_settings(self):
        used_only_if = (
            (self.probability_name, self.wants_probability.value),
            (self.cutoff, self.cutoff_choice.value == CUSTOM),
            (self.smallest, self.smallest_choice.value == CUSTOM),
        )
        # by identity: a setting compares equal to its value
        hidden = [id(setting) for setting, used in used_only_if if not used]
        return [setting for setting in self.settings() if id(setting) not in hidden]

    def validate_module(self, pipeline):
        if not self.package_file.value.strip():
            raise ValidationError("Choose a model package", self.package_file)
        if not os.path.exists(self.package_path()):
            raise ValidationError(f"There is no model package at {self.package_path()}", self.package_file)

    def package_path(self):
        return os.path.join(self.package_folder.get_absolute_path(), self.package_file.value.strip())

    def volumetric(self):
        return False

    def run(self, workspace):
        image = workspace.image_set.get_image(self.x_name.value, must_be_grayscale=True)
        if image.pixel_data.ndim != 2:
            raise ValueError(
                f"SegmentArtifacts expects a grayscale image (y, x), but {self.x_name.value} has the shape "
                f"{image.pixel_data.shape}. Use ColorToGray, or choose one plane in NamesAndTypes."
            )
        if not self.package_file.value.strip():  # validate_module is not called without a window
            raise ValueError("SegmentArtifacts has no model package. Choose one in its settings.")
        valid = image.mask if image.has_mask else None
        segmentation = segment(
            image.pixel_data,
            self.package_path(),
            valid=valid,
            cutoff=self.cutoff.value if self.cutoff_choice.value == CUSTOM else None,
            smallest_artifact_px=self.smallest.value if self.smallest_choice.value == CUSTOM else None,
            gate=self.wants_gate.value,
            device=self.device.value,
            python=self.python.value,
            source=f"{self.x_name.value} of image set {workspace.measurements.image_set_number}",
        )
        artifact = segmentation.labels > 0
        clean = ~artifact if valid is None else ~artifact & valid

        self.add_image(workspace, self.artifact_mask_name.value, artifact, image)
        self.add_image(workspace, self.clean_mask_name.value, clean, image)
        if self.wants_probability.value:
            self.add_image(workspace, self.probability_name.value, segmentation.probability, image)

        objects = Objects()
        objects.segmented = segmentation.labels
        objects.parent_image = image
        workspace.object_set.add_objects(objects, self.y_name.value)
        self.add_measurements(workspace)

        values = measured(artifact, clean, segmentation.result)
        for feature, value in values.items():
            workspace.measurements.add_image_measurement(self.measurement_name(feature), value)

        if self.show_window:
            workspace.display_data.pixels = image.pixel_data
            workspace.display_data.labels = segmentation.labels
            workspace.display_data.clean = clean
            workspace.display_data.probability = segmentation.probability
            workspace.display_data.statistics = displayed(values, objects.count, segmentation.result)

    def add_image(self, workspace, name, pixels, parent):
        workspace.image_set.add(name, Image(pixels, parent_image=parent, convert=False))

    def display(self, workspace, figure):
        data = workspace.display_data
        figure.set_subplots((2, 2))
        figure.subplot_imshow_grayscale(
            0,
            0,
            data.pixels,
            title=f"{self.x_name.value}, artifacts outlined",
            cplabels=[{"name": self.y_name.value, "labels": [data.labels]}],
        )
        shared = figure.subplot(0, 0)
        figure.subplot_imshow_bw(
            0, 1, data.clean, title=f"{self.clean_mask_name.value} (white: usable)", sharexy=shared
        )
        figure.subplot_imshow_grayscale(
            1, 0, data.probability, title="Probability of artifact", normalize=False, sharexy=shared
        )
        figure.subplot_table(
            1,
            1,
            [[value] for _, value in data.statistics],
            row_labels=[name for name, _ in data.statistics],
        )

    def measurement_name(self, feature):
        return "_".join((C_ARTSEG, feature, self.y_name.value))

    def get_measurement_columns(self, pipeline, object_name=None):
        own = [(IMAGE, self.measurement_name(feature), kind) for feature, kind in FEATURES.items()]
        return own + super().get_measurement_columns(pipeline, object_name)

    def get_categories(self, pipeline, object_name):
        own = [C_ARTSEG] if object_name == IMAGE else []
        return own + super().get_categories(pipeline, object_name)

    def get_measurements(self, pipeline, object_name, category):
        if object_name == IMAGE and category == C_ARTSEG:
            return list(FEATURES)
        return super().get_measurements(pipeline, object_name, category)

    def get_measurement_objects(self, pipeline, object_name, category, measurement):
        if measurement in self.get_measurements(pipeline, object_name, category) and category == C_ARTSEG:
            return [self.y_name.value]
        return []

    def prepare_to_create_batch(self, workspace, fn_alter_path):
        self.package_folder.alter_for_create_batch_files(fn_alter_path)

    def upgrade_settings(self, setting_values, variable_revision_number, module_name):
        return setting_values, variable_revision_number


def measured(artifact, clean, result):
    """Values of FEATURES."""
    artifact_area = int(numpy.count_nonzero(artifact))
    usable_area = int(numpy.count_nonzero(clean))
    probability = result["image_probability"]
    return {
        "AreaFraction": artifact_area / float(max(1, artifact_area + usable_area)),
        "UsableArea": usable_area,
        "Probability": float("nan") if probability is None else probability,
        "Cutoff": result["cutoff"],
        "SmallestArtifact": result["smallest_artifact_px"],
        "ModelID": result["model_id"],
        "ModelSHA256": result["model_sha256"],
        "Device": result["device"],
        "Seconds": result["seconds"],
    }


def displayed(values, count, result):
    """Rows of the figure's table: name and value as texts."""
    if result["image_probability"] is None:
        verdict = "no classifier"
    elif result["gate_open"]:
        verdict = f"artifact, or not asked ({values['Probability']:.3f})"
    else:
        verdict = f"clean ({values['Probability']:.3f})"
    return [
        ("Model", f"{result['model_name']} {result['model_version']}"),
        ("Classifier's verdict", verdict),
        ("Artifacts", str(count)),
        ("Area fraction", f"{100 * values['AreaFraction']:.2f} %"),
        ("Usable area", f"{values['UsableArea']} pixels"),
        ("Cutoff", f"{values['Cutoff']:.3f}"),
        ("Seconds", f"{values['Seconds']:.2f} on {values['Device']}"),
    ]
