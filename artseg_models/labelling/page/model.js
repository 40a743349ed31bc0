"use strict";

// Train, look at all images, export, install: each button runs a command of artseg that is shown beside it.

const MODEL_POLL_MS = 1500;
// as on the training sheet
const COLOURS = { training: "#ffa62b", validation: "#56b4e9" };
let modelPolling = 0;
let sheetOf = "";

const asked = (step) => ({
  step,
  preset: at("preset").value,
  folder: step === "export" ? at("export-folder").value.trim() : step === "install" ? at("install-folder").value.trim() : "",
});

function openModel() {
  lookAtModel();
  clearInterval(modelPolling);
  modelPolling = setInterval(() => isOpen("model") && lookAtModel(), MODEL_POLL_MS);
}

async function lookAtModel() {
  try {
    drawModel(await ask("/api/model"));
    await lookForResults();
    await showCommands();
  } catch (error) {
    banner(error.message);
  }
}

async function showCommands() {
  for (const code of document.querySelectorAll(".command")) {
    code.textContent = (await ask("/api/model/command", asked(code.dataset.of))).command;
  }
}

function drawModel(state) {
  const { job } = state;
  const labelled = state.clean + state.artifact;
  at("model-labels").textContent = labelled < state.enough
    ? `${state.clean} clean and ${state.artifact} artifact. From ${state.enough} labels on a first training is worth it: ${state.enough - labelled} more.`
    : `${state.clean} clean and ${state.artifact} artifact.`;
  for (const button of document.querySelectorAll(".act")) {
    const needsModel = ["doubt", "export"].includes(button.dataset.step);
    button.disabled = job.running || (needsModel && !state.run) || (button.dataset.step === "train" && labelled < state.enough);
  }
  at("doubt-first").disabled = !state.guesses;
  at("guesses").textContent = state.guesses ? `The model has looked at ${state.guesses} images.` : "";
  at("job-stop").disabled = !job.running;
  at("job-name").textContent = !job.name ? "Nothing runs"
    : `${job.name} ${job.running ? "runs …" : job.stopped ? "was stopped" : job.failed ? "failed" : "is done"}`;
  const log = at("job-log");
  if (log.textContent !== (job.log || "")) {
    log.textContent = job.log || "";
    log.scrollTop = log.scrollHeight;
  }
  at("curves").replaceChildren(...Object.entries(job.losses || {}).map(([network, epochs]) => curve(network, epochs)));
  at("sheet").hidden = !state.sheet;
  if (state.sheet && sheetOf !== state.run) {
    sheetOf = state.run;
    at("sheet-picture").src = `/api/model/training.png?${new URLSearchParams({ run: state.run })}`;
    at("sheet-picture").alt = `Losses, pseudo-labels and maps of ${state.run}`;
    at("sheet-caption").textContent = `${state.run}: ${state.package}`;
  }
}

function curve(network, epochs) {
  const [width, height, left, bottom] = [330, 170, 42, 24];
  const top = Math.max(...epochs.flatMap((one) => [one[2], one[3]]), 1e-6);
  const last = epochs.at(-1);
  const svg = node("svg", { width, height, role: "img",
    "aria-label": `${network}: epoch ${last[0]} of ${last[1]}, loss ${last[2]}, validation loss ${last[3]}` });
  const x = (epoch) => left + (width - left - 10) * (epoch - 1) / Math.max(1, last[1] - 1);
  const y = (loss) => 26 + (height - bottom - 30) * (1 - loss / top);
  svg.append(node("text", { x: 8, y: 16 }, `${network}: epoch ${last[0]} of ${last[1]}`));
  svg.append(node("text", { x: 4, y: y(top) + 4 }, top.toPrecision(2)), node("text", { x: 26, y: y(0) + 4 }, "0"));
  [["training", 2, "6 4"], ["validation", 3, ""]].forEach(([name, column, dashes], number) => {
    svg.append(node("polyline", {
      points: epochs.map((one) => `${x(one[0])},${y(one[column])}`).join(" "),
      fill: "none", stroke: COLOURS[name], "stroke-width": 2, "stroke-dasharray": dashes,
    }));
    svg.append(node("text", { x: left + 110 * number, y: height - 6 }, `${number ? "— " : "- - "}${name}`));
  });
  return svg;
}

function node(name, attributes, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}

for (const button of document.querySelectorAll(".act")) {
  button.addEventListener("click", async () => {
    try {
      drawModel(await ask("/api/model/start", asked(button.dataset.step)));
    } catch (error) { banner(error.message); }
  });
}
at("job-stop").addEventListener("click", async () => {
  try {
    drawModel(await ask("/api/model/stop", {}));
  } catch (error) { banner(error.message); }
});
at("split").addEventListener("click", async () => {
  try {
    const counts = await ask("/api/splits", { who: who() });
    at("split-counts").textContent = Object.entries(counts)
      .map(([split, labels]) => `${split}: ${labels.clean || 0} clean, ${labels.artifact || 0} artifact`).join("; ");
  } catch (error) { banner(error.message); }
});
for (const id of ["preset", "export-folder", "install-folder"]) at(id).addEventListener("change", showCommands);
at("doubt-first").addEventListener("change", () => { order = null; refresh(); });
at("show-guess").addEventListener("change", refresh);
