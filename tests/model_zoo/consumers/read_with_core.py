"""Run unpacked packages by the bioimageio.core of this Python, in every weight format that it has a library for."""

import importlib.metadata
import importlib.util
import os
import sys
import warnings
from pathlib import Path

import numpy as np
from own_reader import description, tell, tell_refusal

warnings.simplefilter("ignore")
from bioimageio.core import create_prediction_pipeline  # noqa: E402 - it warns when it is imported
from bioimageio.core.digest_spec import create_sample_for_model  # noqa: E402
from bioimageio.spec import load_model_description  # noqa: E402

program = "bioimageio.core " + importlib.metadata.version("bioimageio.core")
LIBRARIES = {"onnx": "onnxruntime", "torchscript": "torch", "pytorch_state_dict": "torch"}
for folder in sys.argv[1:]:
    try:
        model = load_model_description(Path(folder))
        content = description(folder)
        given, expected = (
            np.load(os.path.join(folder, content[side][0]["test_tensor"]["source"])) for side in ("inputs", "outputs")
        )
        for weights, library in LIBRARIES.items():
            if importlib.util.find_spec(library) is None:
                continue
            with create_prediction_pipeline(model, weight_format=weights) as pipeline:
                sample = create_sample_for_model(model, inputs={content["inputs"][0]["id"]: given})
                done = pipeline.predict_sample_without_blocking(sample)
            output = np.asarray(next(iter(done.members.values())).data.values)
            tell(program, folder, weights, float(np.abs(output - expected).max()))
    except Exception as error:
        tell_refusal(program, folder, error)
