// Run unpacked packages by onnxruntime-node: node read_with_node.mjs NODE_MODULES FOLDER...
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { basename, join, resolve } from "node:path";

import { differenceOf } from "./reader.mjs";

const [modules, ...folders] = process.argv.slice(2);
const load = createRequire(join(resolve(modules), "..", "package.json"));
const [ort, yaml] = [load("onnxruntime-node"), load("js-yaml")];
const program = `onnxruntime-node ${load("onnxruntime-node/package.json").version}`;
for (const folder of folders) {
  const result = { program, package: basename(folder) };
  try {
    const difference = await differenceOf(ort, yaml, async (name) => new Uint8Array(await readFile(join(folder, name))));
    console.log(JSON.stringify({ ...result, weights: "onnx", difference }));
  } catch (error) {
    console.log(JSON.stringify({ ...result, refused: String(error).slice(0, 300) }));
  }
}
