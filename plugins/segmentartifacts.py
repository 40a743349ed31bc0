"""
SegmentArtifacts
================

**SegmentArtifacts** finds artifacts (dust, fibres, dead-cell clumps, bubbles, smears) in a brightfield image with a
model trained by ArtSeg, and gives masks that keep them out of your measurements.

The network runs outside CellProfiler, in artseg's own Python: the module finds a running service on this computer or
starts one, all workers of an analysis share it, and it ends by itself when it is idle. To set up, run
``artseg cellprofiler install`` once. Or it runs on an inference server of your site, which you name by its address;
then this computer needs no artseg.

|

============ ============ ===============
Supports 2D? Supports 3D? Respects masks?
============ ============ ===============
YES          NO           YES
============ ============ ===============

See also
^^^^^^^^

**MaskImage** takes the clean mask to blank artifacts in other channels (example pipeline *artifacts_masked*).
**MeasureArtifactOverlap** measures how much of each object lies under artifacts, so that **FilterObjects** drops whole
objects (*artifacts_filtered*). **FlagImage** flags images by the measurements (*image_quality*).

What do I get as output?
^^^^^^^^^^^^^^^^^^^^^^^^

-  *Artifact mask:* white (1) on artifacts.
-  *Clean mask:* white (1) where pixels can be used. Pixels that are masked in the input are in neither mask.
-  *Artifact objects:* one object for each connected artifact, as it was found, without margin.
-  *Probability image* (optional): the model's probability of artifact, 0 to 1, before the cutoff.

All of them have the size of the brightfield image, or of the image that they are to match.

Kinds of artifact
^^^^^^^^^^^^^^^^^

A model that learned kinds of artifact by their names (dust, fibre, bubble) gives each artifact object one of them, as a
number. *Show model* lists the kinds with their numbers. To keep artifacts of one kind, let **FilterObjects** filter the
artifact objects by *Measurements* within *Limits*, with *ArtSeg_KindNumber* as the measurement and the kind's number as
both minimum and maximum. **MaskImage** takes the objects that are left, with *Invert the mask?* set to *Yes*, to blank
artifacts of this kind alone.

Measurements made by this module
^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^

**Image measurements**, each followed by the name of the artifact objects:

-  *ArtSeg_AreaFraction:* share of the unmasked pixels that the artifact mask covers, 0 to 1.
-  *ArtSeg_UsableArea:* number of pixels in the clean mask. Masking lowers counts: divide by it.
-  *ArtSeg_Probability:* the classifier's probability that the image holds an artifact at all; NaN for a model without
   classifier.
-  *ArtSeg_Kinds:* how many artifact objects of each kind there are, for instance *dust:3;fibre:1*; empty where there is
   none, and for a model that tells no kinds apart.
-  *ArtSeg_Flag* (optional): 1 if the image fails because the area fraction exceeds your limit, else 0.
-  *ArtSeg_Cutoff, ArtSeg_SmallestArtifact, ArtSeg_GateThreshold:* the values that were used; the last one is NaN where
   no classifier was asked.
-  *ArtSeg_ModelID, ArtSeg_ModelVersion, ArtSeg_ModelSHA256:* which model it was, to the bit.
-  *ArtSeg_SoftwareVersion:* the version of artseg.
-  *ArtSeg_Device, ArtSeg_Engine, ArtSeg_Seconds:* where the network ran, by which library, and for how long.
-  *ArtSeg_Tiles:* in how many pieces the image went through the network. 1 is whole; more for large images, and where
   memory did not suffice.
-  *Count:* the number of artifact objects.

**Object measurements:**

-  *ArtSeg_MeanProbability, ArtSeg_MaxProbability:* the model's probability within the artifact.
-  *ArtSeg_KindNumber:* the number of the artifact's kind, from 1 in the order of *Show model*; 0 for a model that tells
   no kinds apart.
-  *Location_Center_X, Location_Center_Y:* centers of the artifacts.
"""  # noqa: D205, D400, D405, D407 - CellProfiler shows this as the module's help, in the form of its own modules

import os

import numpy
from _artseg_client import ServiceError, check_installation, list_models, remember_token, segment, show_model
from cellprofiler_core.constants.measurement import (
    COLTYPE_FLOAT,
    COLTYPE_INTEGER,
    COLTYPE_VARCHAR_FORMAT,
    FF_COUNT,
    IMAGE,
    M_LOCATION_CENTER_X,
    M_LOCATION_CENTER_Y,
    M_LOCATION_CENTER_Z,
    M_NUMBER_OBJECT_NUMBER,
)
from cellprofiler_core.image import Image
from cellprofiler_core.module.image_segmentation import ImageSegmentation
from cellprofiler_core.object import Objects
from cellprofiler_core.preferences import DEFAULT_INPUT_FOLDER_NAME
from cellprofiler_core.setting import Binary, ValidationError
from cellprofiler_core.setting.choice import Choice
from cellprofiler_core.setting.do_something import DoSomething
from cellprofiler_core.setting.subscriber import ImageSubscriber
from cellprofiler_core.setting.text import Directory, Filename, Float, ImageName, Integer, LabelName, Text
from scipy.ndimage import distance_transform_edt

C_ARTSEG = "ArtSeg"

AS_MODEL = "As the model says"
CUSTOM = "Custom"

DEVICES = ["auto", "cuda", "mps", "cpu"]

HERE = "This computer"
SERVER = "Inference server"

BY_FILE = "A package on this computer"
BY_ID = "A model of the service"

#: measurement: its column type
FEATURES = {
    "AreaFraction": COLTYPE_FLOAT,
    "UsableArea": COLTYPE_INTEGER,
    "Probability": COLTYPE_FLOAT,
    "Kinds": COLTYPE_VARCHAR_FORMAT % 255,
    "Cutoff": COLTYPE_FLOAT,
    "SmallestArtifact": COLTYPE_INTEGER,
    "GateThreshold": COLTYPE_FLOAT,
    "ModelID": COLTYPE_VARCHAR_FORMAT % 255,
    "ModelVersion": COLTYPE_VARCHAR_FORMAT % 64,
    "ModelSHA256": COLTYPE_VARCHAR_FORMAT % 64,
    "Device": COLTYPE_VARCHAR_FORMAT % 32,
    "Engine": COLTYPE_VARCHAR_FORMAT % 32,
    "Tiles": COLTYPE_INTEGER,
    "Seconds": COLTYPE_FLOAT,
    "SoftwareVersion": COLTYPE_VARCHAR_FORMAT % 64,
}

F_FLAG = "Flag"

#: measurement of each artifact object: its column type
OBJECT_FEATURES = {
    "MeanProbability": COLTYPE_FLOAT,
    "MaxProbability": COLTYPE_FLOAT,
    "KindNumber": COLTYPE_INTEGER,
}

#: outlines of kinds in the order of the model, again from the first for more than seven; told apart by colour-blind
#: readers (Okabe and Ito, 2008). The same stand in `artseg_models/segment.py`.
KIND_COLOURS = (
    ("orange", (230, 159, 0)),
    ("sky blue", (86, 180, 233)),
    ("bluish green", (0, 158, 115)),
    ("yellow", (240, 228, 66)),
    ("blue", (0, 114, 178)),
    ("vermilion", (213, 94, 0)),
    ("reddish purple", (204, 121, 167)),
)

#: sides of two images whose masks can be matched are to each other as whole numbers up to the first, or as one to at
#: most the second: cameras bin by 2, 3, 4, and rarely by more
LARGEST_TERM = 4
LARGEST_BINNING = 16


class SegmentArtifacts(ImageSegmentation):
    module_name = "SegmentArtifacts"

    category = "Image Segmentation"

    variable_revision_number = 3

    doi = {  # noqa: RUF012 - as CellProfiler reads it
        "Please cite the following when using SegmentArtifacts:": "https://doi.org/10.1038/s41598-022-14703-y"
    }

    # CellProfiler 5 builds artseg's Python from it: File > Plugins > Build Environment
    appose_env_spec = os.path.join(os.path.dirname(os.path.abspath(__file__)), "_artseg_client", "pixi.toml")

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

        self.model_choice = Choice(
            "Which model?",
            [BY_FILE, BY_ID],
            doc=f"""\
-  *{BY_FILE}:* a file that you choose. An inference server must have the same file; it is known by its SHA-256.
-  *{BY_ID}:* one of the models that the service offers, named by its id. A service on this computer offers the packages
   in the folder that the environment variable ARTSEG_MODELS names when it starts.
""",
        )

        self.model_id = Text(
            "Id of the model",
            "",
            doc=f"""\
*(Used only with "{BY_ID}")* As *List models* shows it. The newest version is taken; to stay with one, write
*ID@VERSION*. Version and SHA-256 are measured.
""",
        )

        self.list_button = DoSomething(
            "Which models are there?",
            "List models",
            self.on_list_models,
            doc="Press this button to choose one of the models that the service offers.",
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

        self.show_model_button = DoSomething(
            "What is this model?",
            "Show model",
            self.on_show_model,
            doc="""\
Press this button to see what the model is, what it was trained on, which cutoff it states, and which kinds of artifact
it tells apart, with their numbers.
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

        self.gate_choice = Choice(
            "Threshold of the classifier",
            [AS_MODEL, CUSTOM],
            doc=f"""\
*(Used only if the classifier may pass images)* An image with a lower probability of artifact is taken as clean.
*{AS_MODEL}* takes the value stated in the model package.
""",
        )

        self.gate_threshold = Float(
            "Lowest image probability",
            0.5,
            minval=0,
            maxval=1,
            doc="*(Used only with a custom threshold)* Lower lets fewer images pass as clean, higher more.",
        )

        self.margin = Integer(
            "Margin around artifacts, in pixels",
            0,
            minval=0,
            doc="""\
The artifact mask grows by this many pixels in all directions (a dilation with a disk), and the clean mask shrinks, to
keep halos out. Pixels are those of the brightfield image. The artifact objects stay as they were found.
""",
        )

        self.wants_match = Binary(
            "Match the size of another image?",
            False,
            doc="""\
Select *Yes* if the images to be masked show the same field of view with another number of pixels, for instance
fluorescence with another binning. All outputs are then resized to it, each pixel taking the value of the nearest one.

Only sizes that are to each other as small whole numbers (1:2, 2:3) are taken, the same along both sides. Otherwise the
images may show different fields of view: use **Align** or **Resize** first.
""",
        )

        self.match_name = ImageSubscriber(
            "Select the image to match",
            doc="*(Used only if sizes are matched)* The masks, the probability and the objects get its size.",
        )

        self.wants_flag = Binary(
            "Flag images with too much artifact?",
            False,
            doc=f"""\
Select *Yes* to measure *{C_ARTSEG}_{F_FLAG}*: 1 for an image that fails, else 0. The image is processed all the same;
to skip the rest of the pipeline for it, use **FlagImage** after this module.
""",
        )

        self.largest_fraction = Float(
            "Largest area fraction",
            0.1,
            minval=0,
            maxval=1,
            doc="*(Used only if images are flagged)* An image fails if a larger share of its pixels is artifact.",
        )

        self.where = Choice(
            "Where to run",
            [HERE, SERVER],
            doc=f"""\
-  *{HERE}:* artseg on this computer, started when it is needed.
-  *{SERVER}:* a computer of your site, for instance with a graphics card, on which somebody runs ``artseg serve``. The
   images are sent there.
""",
        )

        self.server = Text(
            "Address of the server",
            "http://localhost:8300",
            doc=f"""\
*(Used only with "{SERVER}")* As its administrator gives it, for instance *https://gpu.example.org/artseg*. Use
*http://* only within a network that you trust, or through an SSH tunnel, whose address is *http://localhost:8300*.
""",
        )

        self.token_button = DoSomething(
            "Does the server know you?",
            "Set token",
            self.on_set_token,
            doc="""\
Press this button to enter the token, the secret that the server's administrator gives you. It is kept in a file of your
own on this computer, never in the pipeline. For jobs without a window, ``artseg serve --remember ADDRESS`` notes it, or
the environment variable ARTSEG_TOKEN holds it.
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

        self.wants_cpu = Binary(
            "Use the processor if memory does not suffice?",
            True,
            doc=f"""\
An image for which the graphics memory does not suffice goes through the network in tiles, then in smaller ones. Select
*Yes* to let the processor take it if that is not enough either, which is slow; *No* stops with a message.
*{C_ARTSEG}_Device* and *{C_ARTSEG}_Tiles* say what was done, and the log does.
""",
        )

        self.ends_with_run = Binary(
            "End the service with CellProfiler?",
            False,
            doc="""\
Select *Yes* if nothing may stay behind when CellProfiler ends, for instance in batch jobs and containers; a service
that ran before stays. Select *No* to keep the model in memory for the next run; the service ends by itself after some
idle minutes. The environment variable ARTSEG_END_WITH=run does the same for any pipeline.
""",
        )

        self.check_button = DoSomething(
            "Is all that it needs installed?",
            "Check installation",
            self.on_check_installation,
            doc="Press this button to see whether all that this module needs is there, and what to do if it is not.",
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
            self.gate_choice,
            self.gate_threshold,
            self.margin,
            self.wants_match,
            self.match_name,
            self.wants_flag,
            self.largest_fraction,
            self.device,
            self.python,
            self.where,
            self.server,
            self.model_choice,
            self.model_id,
            self.wants_cpu,
            self.ends_with_run,
        ]

    def visible_settings(self):
        elsewhere = self.where.value == SERVER
        by_id = self.model_choice.value == BY_ID
        used_only_if = (
            (self.probability_name, self.wants_probability.value),
            (self.cutoff, self.cutoff_choice.value == CUSTOM),
            (self.smallest, self.smallest_choice.value == CUSTOM),
            (self.gate_choice, self.wants_gate.value),
            (self.gate_threshold, self.wants_gate.value and self.gate_choice.value == CUSTOM),
            (self.match_name, self.wants_match.value),
            (self.largest_fraction, self.wants_flag.value),
            (self.package_folder, not by_id),
            (self.package_file, not by_id),
            (self.model_id, by_id),
            (self.list_button, by_id or elsewhere),
            (self.server, elsewhere),
            (self.token_button, elsewhere),
            (self.device, not elsewhere),
            (self.python, not elsewhere),
            (self.ends_with_run, not elsewhere),
        )
        # by identity: a setting compares equal to its value
        hidden = [id(setting) for setting, used in used_only_if if not used]
        return [setting for setting in self.settings_as_shown() if id(setting) not in hidden]

    def settings_as_shown(self):
        """Give all settings and buttons in the order of the panel; saved pipelines keep theirs."""
        *first, device, python, where, server, model_choice, model_id, cpu, ends = self.settings()
        cut = [setting is self.package_folder for setting in first].index(True)
        return [
            *first[:cut],
            *(where, server, self.token_button),
            *(model_choice, *first[cut : cut + 2], model_id, self.list_button, self.show_model_button),
            *first[cut + 2 :],
            *(device, cpu, python, ends, self.check_button),
        ]

    def upgrade_settings(self, setting_values, variable_revision_number, module_name):
        if variable_revision_number == 1:
            # the classifier's threshold, margin, size to match and flag came after "Let the classifier pass..."
            new = [AS_MODEL, "0.5", "0", "No", "None", "No", "0.1"]
            setting_values = [*setting_values[:13], *new, *setting_values[13:]]
            variable_revision_number = 2
        if variable_revision_number == 2:
            # where to run, which model, and what to do without memory came at the end
            setting_values = [*setting_values, HERE, "http://localhost:8300", BY_FILE, "", "Yes", "No"]
            variable_revision_number = 3
        return setting_values, variable_revision_number

    def on_show_model(self):
        show_text(
            "Model",
            lambda: show_model(
                self.package_path(),
                self.python.value,
                model=self.chosen_id(),
                server=self.chosen_server(),
                device=self.device.value,
            ),
        )

    def on_check_installation(self):
        show_text(
            "Installation of ArtSeg",
            lambda: check_installation(
                self.package_path(),
                self.device.value,
                self.python.value,
                model=self.chosen_id(),
                server=self.chosen_server(),
            ),
        )

    def on_list_models(self):
        chosen = choose_model(lambda: list_models(self.chosen_server(), self.device.value, self.python.value))
        if chosen is not None:
            self.model_choice.value = BY_ID
            self.model_id.value = chosen

    def on_set_token(self):
        import wx  # only with a window

        with wx.PasswordEntryDialog(None, f"Token for {self.server.value}", "Set token") as dialog:
            if dialog.ShowModal() == wx.ID_OK:
                show_text("Set token", lambda: f"Noted in {remember_token(self.server.value, dialog.GetValue())}")

    def chosen_server(self):
        """Give the address of the inference server; blank for this computer."""
        return self.server.value.strip() if self.where.value == SERVER else ""

    def chosen_id(self):
        """Give the id of a model of the service; blank for a package on this computer."""
        return self.model_id.value.strip() if self.model_choice.value == BY_ID else ""

    def validate_module(self, pipeline):
        if self.where.value == SERVER and not self.chosen_server():
            raise ValidationError("Enter the address of the inference server", self.server)
        if self.model_choice.value == BY_ID:
            if not self.chosen_id():
                raise ValidationError("Choose a model of the service", self.model_id)
            return
        if not self.package_file.value.strip():
            raise ValidationError("Choose a model package", self.package_file)
        if not os.path.exists(self.package_path()):
            raise ValidationError(f"There is no model package at {self.package_path()}", self.package_file)

    def package_path(self):
        return os.path.join(self.package_folder.get_absolute_path(), self.package_file.value.strip())

    def volumetric(self):
        return False

    def run(self, workspace):
        try:
            image = workspace.image_set.get_image(self.x_name.value, must_be_grayscale=True)
        except ValueError as error:
            raise ValueError(
                f"SegmentArtifacts expects a grayscale image, but {self.x_name.value} is none ({error}). Use "
                "ColorToGray before it, or choose the type 'Grayscale image' in NamesAndTypes."
            ) from error
        if image.pixel_data.ndim != 2:
            raise ValueError(
                f"SegmentArtifacts expects a grayscale image (y, x), but {self.x_name.value} has the shape "
                f"{image.pixel_data.shape}. Use ColorToGray, or choose one plane in NamesAndTypes."
            )
        # validate_module is not called without a window
        if self.model_choice.value == BY_FILE and not self.package_file.value.strip():
            raise ValueError("SegmentArtifacts has no model package. Choose one in its settings.")
        if self.model_choice.value == BY_ID and not self.chosen_id():
            raise ValueError("SegmentArtifacts has no model. Enter the id of one of the service's models.")
        if self.where.value == SERVER and not self.chosen_server():
            raise ValueError("SegmentArtifacts has no address of an inference server. Enter it in its settings.")
        valid = image.mask if image.has_mask else numpy.ones(image.pixel_data.shape, bool)
        matched = self.image_to_match(workspace)
        # before the network runs, which takes its time
        raster = nearest_raster(image.pixel_data.shape, matched, self.x_name.value, self.match_name.value)
        segmentation = segment(
            image.pixel_data,
            self.package_path(),
            valid=valid if image.has_mask else None,
            cutoff=self.cutoff.value if self.cutoff_choice.value == CUSTOM else None,
            smallest_artifact_px=self.smallest.value if self.smallest_choice.value == CUSTOM else None,
            gate=self.wants_gate.value,
            gate_threshold=self.gate_threshold.value if self.gate_choice.value == CUSTOM else None,
            device=self.device.value,
            python=self.python.value,
            source=f"{self.x_name.value} of image set {workspace.measurements.image_set_number}",
            model=self.chosen_id(),
            server=self.chosen_server(),
            cpu_allowed=self.wants_cpu.value,
            end_with_run=self.ends_with_run.value,
        )
        grown = with_margin(segmentation.labels > 0, self.margin.value)
        artifact = (grown & valid)[raster]
        clean = (~grown & valid)[raster]
        result = segmentation.result
        labels, object_kinds = segmentation.labels, numpy.zeros(int(segmentation.labels.max()), int)
        if result["kinds"]:
            object_kinds[:] = result["object_kinds"]
        if matched is not None:
            labels, kept = renumbered(labels[raster])
            object_kinds = object_kinds[kept - 1]
        probability = segmentation.probability[raster]

        parent = image if matched is None else matched
        images = {self.artifact_mask_name.value: artifact, self.clean_mask_name.value: clean}
        if self.wants_probability.value:
            images[self.probability_name.value] = probability
        for name, pixels in images.items():
            mask = valid[raster] if image.has_mask else None
            workspace.image_set.add(name, Image(pixels, mask=mask, parent_image=parent, convert=False))

        objects = Objects()
        objects.segmented = labels
        objects.parent_image = parent
        workspace.object_set.add_objects(objects, self.y_name.value)

        kinds = counts_of_kinds(result["kinds"], object_kinds)
        values = measured(artifact, clean, kinds, result)
        if self.wants_flag.value:
            values[F_FLAG] = int(values["AreaFraction"] > self.largest_fraction.value)
        for feature, value in values.items():
            workspace.measurements.add_image_measurement(self.measurement_name(feature), value)
        of_objects = measured_of_objects(labels, probability, object_kinds)
        count = len(of_objects[M_NUMBER_OBJECT_NUMBER])
        workspace.measurements.add_image_measurement(FF_COUNT % self.y_name.value, count)
        for feature, value in of_objects.items():
            workspace.add_measurement(self.y_name.value, feature, value)

        if self.show_window:
            workspace.display_data.pixels = image.pixel_data[raster]
            workspace.display_data.labels = labels
            workspace.display_data.clean = clean
            workspace.display_data.probability = probability
            workspace.display_data.kinds = kinds
            workspace.display_data.object_kinds = object_kinds.tolist()
            workspace.display_data.statistics = displayed(values, count, kinds, result)

    def image_to_match(self, workspace):
        """Give the image whose size the outputs get; None for the brightfield image itself."""
        return workspace.image_set.get_image(self.match_name.value) if self.wants_match.value else None

    def display(self, workspace, figure):
        data = workspace.display_data
        figure.set_subplots((2, 2))
        # as is usual for brightfield: a few dark or bright pixels must not flatten the rest
        darkest, brightest = numpy.percentile(data.pixels, (0.2, 99.8))
        figure.subplot_imshow_grayscale(
            0,
            0,
            data.pixels,
            title=f"{self.x_name.value}, outlined",
            normalize=False,
            vmin=darkest,
            vmax=brightest,
            cplabels=outlines(self.y_name.value, data.labels, data.kinds, data.object_kinds),
        )
        shared = figure.subplot(0, 0)
        figure.subplot_imshow_bw(0, 1, data.clean, title=f"{self.clean_mask_name.value} (usable)", sharexy=shared)
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
        own = [(IMAGE, self.measurement_name(feature), kind) for feature, kind in self.image_features().items()]
        objects = self.y_name.value
        own += [(objects, "_".join((C_ARTSEG, feature)), kind) for feature, kind in OBJECT_FEATURES.items()]
        return own + super().get_measurement_columns(pipeline, object_name)

    def image_features(self):
        return {**FEATURES, F_FLAG: COLTYPE_INTEGER} if self.wants_flag.value else FEATURES

    def get_categories(self, pipeline, object_name):
        own = [C_ARTSEG] if object_name in (IMAGE, self.y_name.value) else []
        return own + super().get_categories(pipeline, object_name)

    def get_measurements(self, pipeline, object_name, category):
        if category == C_ARTSEG:
            own = {IMAGE: self.image_features(), self.y_name.value: OBJECT_FEATURES}
            return list(own.get(object_name, {}))
        return super().get_measurements(pipeline, object_name, category)

    def get_measurement_objects(self, pipeline, object_name, category, measurement):
        if (object_name, category) == (IMAGE, C_ARTSEG) and measurement in self.image_features():
            return [self.y_name.value]
        return []

    def prepare_to_create_batch(self, workspace, fn_alter_path):
        self.package_folder.alter_for_create_batch_files(fn_alter_path)


def counts_of_kinds(names, object_kinds):
    """Count the objects of each kind of which there is one: number of the kind, from 1, its name, and the count."""
    counts = numpy.bincount(object_kinds, minlength=len(names) + 1).tolist()
    return [(number, name, counts[number]) for number, name in enumerate(names, 1) if counts[number]]


def measured(artifact, clean, kinds, result):
    """Values of FEATURES."""
    artifact_area = int(numpy.count_nonzero(artifact))
    usable_area = int(numpy.count_nonzero(clean))
    probability = result["image_probability"]
    return {
        "AreaFraction": artifact_area / float(max(1, artifact_area + usable_area)),
        "UsableArea": usable_area,
        "Probability": float("nan") if probability is None else probability,
        "Kinds": ";".join(f"{name}:{count}" for _, name, count in kinds),
        "Cutoff": result["cutoff"],
        "SmallestArtifact": result["smallest_artifact_px"],
        "GateThreshold": float("nan") if result["gate_threshold"] is None else result["gate_threshold"],
        "ModelID": result["model_id"],
        "ModelVersion": result["model_version"],
        "ModelSHA256": result["model_sha256"],
        "Device": result["device"],
        "Engine": result["engine"],
        "Tiles": result["tiles"],
        "Seconds": result["seconds"],
        "SoftwareVersion": result["artseg"],
    }


def measured_of_objects(labels, probability, object_kinds):
    """Measurements of each artifact object: arrays of N values, by their names.

    Places and numbers are those that CellProfiler's own modules measure of objects, which go over the whole image for
    each; these go over the pixels of the objects once.

    Parameters
    ----------
    labels : ndarray
        (y, x), objects 1..N without gaps.
    probability : ndarray
        (y, x).
    object_kinds : ndarray
        (N,) int.
    """
    inside = numpy.flatnonzero(labels)
    of = labels.ravel()[inside]
    within = probability.ravel()[inside]
    rows, columns = numpy.divmod(inside, labels.shape[1])
    areas = numpy.bincount(of)[1:]
    # reduceat takes what stands together; a stable sort of small numbers goes through them a few times only
    sorted_by_object = within[numpy.argsort(of, kind="stable")]
    first = numpy.cumsum(areas) - areas

    def mean(values):
        return numpy.bincount(of, weights=values)[1:] / areas

    return {
        M_LOCATION_CENTER_X: mean(columns),
        M_LOCATION_CENTER_Y: mean(rows),
        M_LOCATION_CENTER_Z: numpy.zeros(len(areas), int),
        M_NUMBER_OBJECT_NUMBER: numpy.arange(1, len(areas) + 1),
        C_ARTSEG + "_MeanProbability": mean(within),
        C_ARTSEG + "_MaxProbability": numpy.maximum.reduceat(sorted_by_object, first).astype(float)
        if len(areas)
        else numpy.zeros(0),
        C_ARTSEG + "_KindNumber": object_kinds,
    }


def with_margin(artifact, margin):
    """Grow a mask (y, x) bool by a disk of `margin` pixels radius."""
    if not margin or not artifact.any():
        return artifact
    return distance_transform_edt(~artifact) <= margin


def renumbered(labels):
    """Close gaps in the numbers of objects: those too thin for a coarser raster are gone.

    Returns
    -------
    labels : ndarray
        (y, x), 1..N without gaps.
    kept : ndarray
        (N,) int, the numbers that the objects had.
    """
    there = numpy.bincount(labels.ravel()) > 0
    there[0] = False
    numbers = numpy.where(there, numpy.cumsum(there), 0)
    return numbers.astype(labels.dtype)[labels], numpy.flatnonzero(there)


def nearest_raster(shape, matched, name, matched_name):
    """Index an image of `shape` (y, x) so that it gets the size of the image to match, by its nearest pixels.

    Parameters
    ----------
    shape : tuple of int
        Of the brightfield image.
    matched : Image or None
        Image of the same field of view; None: the brightfield image itself.
    name, matched_name : str
        Of both, for the message.

    Returns
    -------
    tuple
        To index an array of `shape` by.

    Raises
    ------
    ValueError
        The sizes are in no simple ratio.
    """
    if matched is None:
        return (slice(None), slice(None))
    wanted = matched.pixel_data.shape[:2]
    ratio = simple_ratio(shape, wanted) if matched.dimensions == 2 else None
    if ratio is None:
        raise ValueError(
            f"SegmentArtifacts cannot match its masks to {matched_name}: {name} has {' x '.join(map(str, shape))} "
            f"pixels, {matched_name} {' x '.join(map(str, matched.pixel_data.shape))}, which is no simple ratio (such "
            "as 1:2 or 2:3, the same along both sides), so they may show different fields of view. Use Align for "
            "shifted or cropped images, Resize for other sizes, before this module."
        )
    ours, theirs = ratio
    rows, columns = (
        numpy.minimum((2 * numpy.arange(there) + 1) * ours // (2 * theirs), here - 1)
        for here, there in zip(shape, wanted)
    )
    return numpy.ix_(rows, columns)


def simple_ratio(shape, wanted):
    """Find whole numbers (ours, theirs) as which the sides of two images are to each other; None if there are none.

    A camera that bins drops the last pixels of an odd side: less than a pixel of the coarser image may be missing.
    """
    for ours in range(1, LARGEST_BINNING + 1):
        for theirs in range(1, LARGEST_BINNING + 1):
            if min(ours, theirs) > 1 and max(ours, theirs) > LARGEST_TERM:
                continue
            if all(abs(here * theirs - there * ours) < max(ours, theirs) for here, there in zip(shape, wanted)):
                return ours, theirs
    return None


def show_text(title, gather):
    """Show the text that a function gathers in a window of CellProfiler."""
    import wx  # only with a window
    from wx.lib.dialogs import ScrolledMessageDialog

    parent = wx.GetActiveWindow() or wx.GetApp().GetTopWindow()
    try:
        with wx.BusyCursor():
            text = gather()
    except ServiceError as error:
        text = str(error)
    with ScrolledMessageDialog(parent, text, title, size=(820, 560)) as dialog:
        for child in dialog.GetChildren():
            if isinstance(child, wx.TextCtrl):  # columns stand under each other
                child.SetFont(wx.Font(wx.FontInfo(10).Family(wx.FONTFAMILY_TELETYPE)))
        dialog.ShowModal()


def choose_model(gather):
    """Let the user choose out of the models that a function gathers; gives an id, None if none was chosen."""
    import wx  # only with a window

    parent = wx.GetActiveWindow() or wx.GetApp().GetTopWindow()
    try:
        with wx.BusyCursor():
            offers = gather()
        if not offers:
            raise ServiceError(
                "The service offers no models. It offers the packages in the folder that it was started with: "
                "artseg serve --models DIR; on this computer the environment variable ARTSEG_MODELS names it."
            )
    except ServiceError as error:
        text = str(error)
        show_text("List models", lambda: text)
        return None
    ids, lines = choices_of(offers)
    with wx.SingleChoiceDialog(parent, "Models that the service offers", "List models", lines) as dialog:
        dialog.SetSize((900, 420))
        return ids[dialog.GetSelection()] if dialog.ShowModal() == wx.ID_OK else None


def choices_of(offers):
    """Give ids to choose and lines to show: the newest version of each model by its id alone, others with theirs."""
    ids, lines, seen = [], [], set()
    for offer in offers:
        if (offer["id"], offer["version"]) in seen:
            continue  # the same model in an older format
        newest = all(known != offer["id"] for known, _ in seen)
        seen.add((offer["id"], offer["version"]))
        ids.append(offer["id"] if newest else f"{offer['id']}@{offer['version']}")
        lines.append(
            f"{offer['id']}: {offer['name']}, version {offer['version']}, SHA-256 {offer['sha256'][:12]}, trained on "
            f"{offer['trained_on']}"
        )
    return ids, lines


def outlines(name, labels, kinds, object_kinds):
    """Say what the figure outlines: all objects, or those of each kind in a colour of its own.

    Parameters
    ----------
    name : str
        Of the objects.
    labels : ndarray
        (y, x), objects 1..N.
    kinds : list
        As `counts_of_kinds` gives it; empty for a model that tells none.
    object_kinds : list of int
        The kind of each object.

    Returns
    -------
    list of dict
        As CellProfiler's figures take it.
    """
    if not kinds:
        return [{"name": name, "labels": [labels]}]
    kind_map = numpy.array([0, *object_kinds])[labels]
    return [
        {
            "name": f"{name}: {kind}",
            "labels": [numpy.where(kind_map == number, labels, 0)],
            "outline_color": colour_of_kind(number)[1],
        }
        for number, kind, _ in kinds
    ]


def colour_of_kind(number):
    return KIND_COLOURS[(number - 1) % len(KIND_COLOURS)]


def displayed(values, count, kinds, result):
    """Rows of the figure's table: name and value as texts."""
    if result["image_probability"] is None:
        verdict = "no classifier"
    elif result["gate_threshold"] is None:
        verdict = f"not asked ({values['Probability']:.3f})"
    else:
        verdict = f"{'artifact' if result['gate_open'] else 'clean'} ({values['Probability']:.3f})"
    of_kinds = []
    if result["kinds"]:
        of_kinds.append(("Kinds", ", ".join(f"{name} {counted}" for _, name, counted in kinds) or "none"))
    if kinds:
        of_kinds.append(("Outlines", ", ".join(f"{name} {colour_of_kind(number)[0]}" for number, name, _ in kinds)))
    flag = [("Flag", "fails" if values[F_FLAG] else "passes")] if F_FLAG in values else []
    return [
        ("Model", f"{result['model_id']} {result['model_version']}"),
        ("Classifier's verdict", verdict),
        ("Artifacts", str(count)),
        *of_kinds,
        ("Area fraction", f"{100 * values['AreaFraction']:.2f} %"),
        ("Usable area", f"{values['UsableArea']} pixels"),
        *flag,
        ("Cutoff", f"{values['Cutoff']:.3f}"),
        (
            "Seconds",
            f"{values['Seconds']:.2f} on {values['Device']} by {values['Engine']}"
            + (f", {values['Tiles']} tiles" if values["Tiles"] > 1 else ""),
        ),
    ]
