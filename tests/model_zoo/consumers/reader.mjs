// A reader of packages in JavaScript that applies the rdf.yaml's own preprocessing, for Node and for browsers.

/** Read a .npy file of little-endian float32: its shape and its values. */
function readArray(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const version = bytes[6];
  const start = version === 1 ? 10 : 12;
  const length = version === 1 ? view.getUint16(8, true) : view.getUint32(8, true);
  const header = new TextDecoder("latin1").decode(bytes.subarray(start, start + length));
  if (!header.includes("'<f4'") || header.includes("'fortran_order': True")) throw new Error(`unexpected ${header}`);
  const shape = header.match(/'shape': \(([^)]*)\)/)[1].split(",").filter((part) => part.trim()).map(Number);
  const values = new Float32Array(bytes.slice(start + length).buffer);
  return { shape, values };
}

/** Carry out operations of the format 0.5 on a whole tensor of one image. */
function applied(steps, given) {
  let values = Float64Array.from(given);
  for (const { id, kwargs = {} } of steps ?? []) {
    if (id === "zero_mean_unit_variance") {
      const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
      const variance = values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length;
      values = values.map((value) => (value - mean) / (Math.sqrt(variance) + (kwargs.eps ?? 1e-6)));
    } else if (id === "sigmoid") {
      values = values.map((value) => 1 / (1 + Math.exp(-value)));
    } else if (id === "scale_linear") {
      values = values.map((value) => value * (kwargs.gain ?? 1) + (kwargs.offset ?? 0));
    } else if (id !== "ensure_dtype") {
      throw new Error(`this reader has no operation ${id}`);
    }
  }
  return Float32Array.from(values);
}

/**
 * Run a package's ONNX weights on its test input.
 *
 * @param ort onnxruntime-node or onnxruntime-web
 * @param yaml js-yaml
 * @param read gives the bytes of a file of the package
 * @returns the largest difference to the test output
 */
export async function differenceOf(ort, yaml, read) {
  const content = yaml.load(new TextDecoder().decode(await read("rdf.yaml")));
  const [input, output] = [content.inputs[0], content.outputs[0]];
  const given = readArray(await read(input.test_tensor.source));
  const expected = readArray(await read(output.test_tensor.source));
  const session = await ort.InferenceSession.create(await read(content.weights.onnx.source));
  const tensor = new ort.Tensor("float32", applied(input.preprocessing, given.values), given.shape);
  const found = (await session.run({ [session.inputNames[0]]: tensor }))[session.outputNames[0]];
  if (String(found.dims) !== String(expected.shape)) throw new Error(`shape ${found.dims}, not ${expected.shape}`);
  const values = applied(output.postprocessing, found.data);
  return values.reduce((largest, value, index) => Math.max(largest, Math.abs(value - expected.values[index])), 0);
}
