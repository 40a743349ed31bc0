"use strict";

// Train, look at all images, export, install: each button runs a command of artseg that is shown beside it.

const MODEL_POLL_MS = 1500;
// as on the training sheet
const COLOURS = { training: "#ffa62b", validation: "#56b4e9" };
let modelPolling = 0;
let sheetOf = "";
let model = { enough: 40, job: {}, guesses: 0 }; // as the server last told
let jobRuns = false;
let resultsOf = "";

const asked = (step) => ({
  step,
  preset: at("preset").value,
  folder: step === "export" ? at("export-folder").value.trim() : step === "install" ? at("install-folder").value.trim() : "",
});

function openModel() {
  lookAtModel();
  lookAtPeople();
  clearInterval(modelPolling);
  modelPolling = setInterval(() => isOpen("model") && lookAtModel(), MODEL_POLL_MS);
}

async function lookAtModel() {
  try {
    const before = jobRuns;
    const state = await ask("/api/model");
    const changed = state.run !== model.run || state.unfinished !== model.unfinished || !model.asked;
    model = { ...state, asked: true };
    jobRuns = state.job.running;
    drawModel(state);
    if (changed || before !== jobRuns) await showCommands();
    const seen = `${state.run} ${state.guesses} ${jobRuns}`;
    if (seen !== resultsOf) {
      resultsOf = seen;
      await lookForResults();
      if (!saving) await learn(current);
      if (before && !jobRuns) {
        if (state.guesses) sortByDoubt();
        say(`${jobTitle(state.job)}.`);
      }
      refresh();
    }
  } catch (error) {
    banner(error.message);
  }
}

async function lookAtPeople() {
  try {
    const { people, agreements, conflicts } = await ask("/api/people");
    const lines = people.map((one) => `${one.name || "without a name"}: ${one.images} images`
      + (one.seconds === null ? "" : `, ${one.seconds.toFixed(1)} s an image`));
    for (const { names, images: both, same, kappa } of agreements) {
      lines.push(`${names.map((name) => name || "without a name").join(" and ")}: ${same} of ${both} images alike, `
        + `Cohen's kappa ${kappa === null ? "not defined" : kappa.toFixed(2)}`);
    }
    if (conflicts) lines.push(`${conflicts} images on which people disagree; where as many say otherwise, they are not trained on`);
    at("people").replaceChildren(...lines.map((line) => Object.assign(document.createElement("li"), { textContent: line })));
    at("conflicts").hidden = !conflicts;
  } catch (error) { banner(error.message); }
}

function sortByDoubt() {
  at("doubt-first").checked = true;
  order = null;
}

async function showCommands() {
  const codes = [...document.querySelectorAll(".command[data-of]")];
  const told = await ask("/api/model/commands", codes.map((code) => asked(code.dataset.of)));
  for (const code of codes) code.textContent = told[code.dataset.of] || "";
}

function jobTitle(job) {
  if (!job.name) return "Nothing runs";
  if (job.running) return `${job.name} runs …`;
  if (job.stopped) return `${job.name} was stopped`;
  if (job.partly) return `${job.name}: done, but not for every image (see below)`;
  return job.failed ? `${job.name} failed` : `${job.name}: done`;
}

// What stands beside the image while somebody labels.
function drawLearning() {
  const { job } = model;
  const labelled = [...images.values()].filter((one) => ["clean", "artifact"].includes(one.label)).length;
  const disagreed = [...images.values()].filter((one) => !one.gone && disagrees(one) && !lookedAgain.has(one.name)).length;
  const enough = labelled >= model.enough;
  at("learning").hidden = !(job.running || model.guesses || enough);
  const epoch = Object.entries(model.losses || {}).map(([network, epochs]) => `${network} ${epochs.at(-1)[0]} of ${epochs.at(-1)[1]}`).at(-1);
  at("learning-said").textContent = job.running
    ? `${job.name} runs${job.name === "Training" && epoch ? `: ${epoch}` : ""}. Go on labelling.`
    : model.unfinished ? "The training was stopped before its end."
      : model.guesses ? `The model has looked at ${model.guesses} images and disagrees with ${disagreed || "none"} of your labels.`
        : model.run ? "" : `${labelled} labels: enough for a first training, in the background.`;
  for (const button of document.querySelectorAll(".act[data-step=learn], .act[data-step=train]")) {
    button.disabled = job.running || !enough;
  }
  const next = document.querySelector("#learning .act");
  next.hidden = job.running;
  next.dataset.step = model.unfinished ? "resume" : "learn";
  next.textContent = model.unfinished ? "Go on with it" : model.run ? "Learn anew" : "Learn from my labels";
  at("second-look").hidden = at("second-look-too").hidden = !disagreed || job.running;
  at("second-look").textContent = `Look again at ${disagreed}`;
  at("guesses").textContent = model.guesses
    ? `The model has looked at ${model.guesses} images and disagrees with ${disagreed || "none"} of your labels.` : "";
  at("tab-model").textContent = job.running ? "Model …" : model.unfinished ? "Model: stopped" : enough && !model.run ? "Model: can train" : "Model";
}

function lookAt(filter) {
  lookedAgain.clear();
  at("filter").value = filter;
  at("filter").dispatchEvent(new Event("change"));
  open("one");
}

function drawModel(state) {
  const { job } = state;
  const labelled = state.clean + state.artifact;
  at("model-labels").textContent = labelled < state.enough
    ? `${state.clean} clean and ${state.artifact} artifact. From ${state.enough} labels on a first training is worth it: ${state.enough - labelled} more.`
    : `${state.clean} clean and ${state.artifact} artifact.`;
  if (state.kinds.length) at("model-labels").append(` The training tells kinds apart: ${state.kinds.join(", ")}.`);
  for (const button of document.querySelectorAll(".act")) {
    const { step } = button.dataset;
    if (["doubt", "export"].includes(step)) button.disabled = job.running || !state.run;
    else if (["resume", "install"].includes(step)) button.disabled = job.running;
  }
  at("resuming").hidden = !state.unfinished || job.running;
  at("resuming-said").textContent = `${state.unfinished} was stopped before its end, and goes on where it was`;
  at("doubt-first").disabled = !state.guesses;
  at("job-stop").disabled = !job.running;
  at("job-name").textContent = jobTitle(job);
  const log = at("job-log");
  if (log.textContent !== (job.log || "")) {
    log.textContent = job.log || "";
    log.scrollTop = log.scrollHeight;
  }
  at("curves").replaceChildren(...Object.entries(state.losses || {}).map(([network, epochs]) => curve(network, epochs)));
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
      model = { ...await ask("/api/model/start", asked(button.dataset.step)), asked: true };
      jobRuns = model.job.running;
      drawModel(model);
      drawLearning();
      banner("");
    } catch (error) { banner(error.message); }
  });
}
at("job-stop").addEventListener("click", async () => {
  try {
    await ask("/api/model/stop", {});
    await lookAtModel();
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
at("conflicts").addEventListener("click", () => lookAt("conflict"));
for (const id of ["second-look", "second-look-too"]) at(id).addEventListener("click", () => lookAt("doubted"));
