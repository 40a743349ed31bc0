"""Run unpacked packages by BiaPy's own check and loader of Model Zoo models; compare with their test outputs."""

import contextlib
import io
import os
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import torch
from own_reader import description, postprocessed, tell, tell_refusal, test_tensors

warnings.simplefilter("ignore")
with contextlib.redirect_stdout(io.StringIO()):  # it greets
    import biapy
    from biapy.models import build_bmz_model, check_bmz_model_compatibility
    from bioimageio.core import load_description
program = "BiaPy " + biapy.__version__
for folder in sys.argv[1:]:
    try:
        content = description(folder)
        given, expected = test_tensors(folder)
        described = os.path.join(folder, "rdf.yaml")
        with contextlib.redirect_stdout(io.StringIO()):
            # as it is asked for an entry of the Zoo's list, which calls the description "manifest"
            found = check_bmz_model_compatibility({"raw": {"manifest": content}, "nickname": described})
        if found["error"]:
            raise ValueError(found["reason_message"].strip())
        settings = SimpleNamespace(
            PROBLEM=SimpleNamespace(NDIM=found["workflow_info"]["ndim"]),
            DATA=SimpleNamespace(PATCH_SIZE=found["opts"]["DATA.PATCH_SIZE"]),
        )
        with contextlib.redirect_stdout(io.StringIO()):
            network = build_bmz_model(settings, load_description(described), torch.device("cpu")).eval()
        with torch.no_grad():
            output = postprocessed(folder, network(torch.from_numpy(given)).numpy())
        tell(program, folder, "pytorch_state_dict", float(np.abs(output - expected).max()))
    except Exception as error:
        tell_refusal(program, folder, error)
