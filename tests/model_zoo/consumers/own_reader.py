"""A reader of packages that shares nothing with artseg: numpy and the rdf.yaml's own words, for any Python from 3.8."""

import json
import os

import numpy as np
import yaml


def description(folder):
    """Read rdf.yaml."""
    with open(os.path.join(folder, "rdf.yaml"), encoding="utf-8") as opened:
        return yaml.safe_load(opened)


def test_tensors(folder):
    """Give the package's test input, preprocessed as rdf.yaml says, and its test output."""
    content = description(folder)
    given, expected = (
        np.load(os.path.join(folder, content[side][0]["test_tensor"]["source"])) for side in ("inputs", "outputs")
    )
    return applied(content["inputs"][0].get("preprocessing", ()), given), expected


def postprocessed(folder, output):
    """Apply what rdf.yaml says of the output."""
    return applied(description(folder)["outputs"][0].get("postprocessing", ()), output)


def applied(steps, tensor):
    """Carry out operations of the format 0.5 on a whole tensor of one image."""
    values = tensor.astype(np.float64)
    for step in steps:
        name, options = step["id"], step.get("kwargs", {})
        if name == "zero_mean_unit_variance":
            values = (values - values.mean()) / (values.std() + options.get("eps", 1e-6))
        elif name == "sigmoid":
            values = 1 / (1 + np.exp(-values))
        elif name == "scale_linear":
            values = values * options.get("gain", 1.0) + options.get("offset", 0.0)
        elif name != "ensure_dtype":
            raise SystemExit("this reader has no operation " + name)
    return values.astype(np.float32)


def tell(program, folder, weights, difference):
    """Print one result as a line of JSON."""
    result = {"program": program, "package": os.path.basename(folder), "weights": weights, "difference": difference}
    print(json.dumps(result))


def tell_refusal(program, folder, error):
    """Print that a package was not opened, and why."""
    reason = " ".join(str(error).split())[:300]
    print(json.dumps({"program": program, "package": os.path.basename(folder), "refused": reason}))
