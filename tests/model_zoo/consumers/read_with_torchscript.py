"""Run the TorchScript weights of unpacked packages by the torch of this Python; compare with their test outputs."""

import os
import sys
import warnings

import numpy as np
import torch
from own_reader import description, postprocessed, tell, tell_refusal, test_tensors

warnings.simplefilter("ignore")
program = "torch " + torch.__version__
for folder in sys.argv[1:]:
    try:
        network = torch.jit.load(os.path.join(folder, description(folder)["weights"]["torchscript"]["source"]))
        given, expected = test_tensors(folder)
        with torch.no_grad():
            output = postprocessed(folder, network(torch.from_numpy(given)).numpy())
        tell(program, folder, "torchscript", float(np.abs(output - expected).max()))
    except Exception as error:
        tell_refusal(program, folder, error)
