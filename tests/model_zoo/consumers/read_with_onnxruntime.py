"""Run the ONNX weights of unpacked packages by the onnxruntime of this Python; compare with their test outputs."""

import os
import sys

import numpy as np
import onnxruntime
from own_reader import description, postprocessed, tell, tell_refusal, test_tensors

program = "onnxruntime " + onnxruntime.__version__
for folder in sys.argv[1:]:
    try:
        path = os.path.join(folder, description(folder)["weights"]["onnx"]["source"])
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        given, expected = test_tensors(folder)
        output = postprocessed(folder, session.run(None, {session.get_inputs()[0].name: given})[0])
        tell(program, folder, "onnx", float(np.abs(output - expected).max()))
    except Exception as error:
        tell_refusal(program, folder, error)
