"use strict";

// Probability maps and masks: the mask follows the sliders here in the browser, and is made anew from the whole map by the
// server when it is accepted.

const OUTLINE = [255, 166, 43]; // orange on grey, as in every figure
let results = [];
let resultAt = 0;
let map = null; // { width, height, values, step } of the shown image
let strokes = [];
let drawing = null;
let tool = "move";
let mapShown = false;
let resultShownAt = 0;
let judging = false;
let look = { scale: 1, x: 0, y: 0 };

async function lookForResults() {
  results = await ask("/api/results");
  at("tab-results").hidden = !results.length;
}

async function openResults() {
  try {
    const name = results[resultAt]?.name;
    await lookForResults();
    resultAt = Math.max(0, name ? results.findIndex((one) => one.name === name) : results.findIndex((one) => !one.label));
    await showResult();
    at("canvas-stage").focus();
  } catch (error) { banner(error.message); }
}

async function pixelsOf(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error((await answer.json()).error);
  // as stored: colour management would move the values
  const bitmap = await createImageBitmap(await answer.blob(), { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const data = context.getImageData(0, 0, bitmap.width, bitmap.height).data;
  const values = new Uint8Array(bitmap.width * bitmap.height);
  for (let i = 0; i < values.length; i++) values[i] = data[4 * i];
  return { width: bitmap.width, height: bitmap.height, values, step: Number(answer.headers.get("X-Step")) };
}

async function showResult() {
  const one = results[resultAt];
  if (!one) return;
  const query = new URLSearchParams({ image: one.name });
  strokes = [];
  drawing = null;
  look = { scale: 1, x: 0, y: 0 };
  at("result-name").textContent = one.name;
  at("result-name").title = one.name;
  try {
    const loaded = await pixelsOf(`/api/results/probability?${query}`);
    if (results[resultAt] !== one) return;
    map = loaded;
    at("results-message").hidden = true;
    at("under").src = `/api/preview?${query}&side=0&clip=${CLIPS[at("contrast").value]}`;
    at("under").alt = one.name;
    at("over").width = map.width;
    at("over").height = map.height;
    asModel();
    resultShownAt = performance.now();
  } catch (error) {
    map = null;
    at("results-message").hidden = false;
    at("results-message").textContent = error.message;
  }
  describeResult();
}

function describeResult() {
  const one = results[resultAt];
  const judged = results.filter((each) => each.label).length;
  at("result-standing").textContent = `${resultAt + 1} of ${results.length}, ${judged} judged · `
    + (one.mask ? "mask accepted" : one.label || "not judged yet")
    + (one.gateOpen ? "" : " · the classifier says clean");
  for (const button of document.querySelectorAll(".judge")) {
    const chosen = one.label === button.dataset.judge;
    button.classList.toggle("chosen", chosen);
    button.setAttribute("aria-pressed", chosen);
    button.disabled = !map;
  }
}

function asModel() {
  const one = results[resultAt];
  at("cutoff").value = one.cutoff;
  at("smallest").value = sliderOf(one.smallest);
  drawMask();
}

// the slider is fine for small areas and coarse for large ones: 0 to 100,000 pixels
const areaOf = (value) => Math.round(value ** 2.5);
const sliderOf = (area) => Math.round(area ** 0.4);
const smallest = () => {
  const one = results[resultAt];
  const value = Number(at("smallest").value);
  return value === sliderOf(one.smallest) ? one.smallest : areaOf(value);
};

// ---- the mask ----

function automatic() {
  const { width, height, values, step } = map;
  const cut = Number(at("cutoff").value) * 255;
  const least = smallest() / step ** 2;
  const labels = new Int32Array(values.length);
  const parent = [0];
  const sizes = [0];
  const root = (label) => {
    while (parent[label] !== label) label = parent[label] = parent[parent[label]];
    return label;
  };
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i++) {
      if (values[i] < cut) continue;
      let label = 0;
      // neighbours that were seen already, diagonals included
      for (const [dx, dy] of [[-1, 0], [-1, -1], [0, -1], [1, -1]]) {
        const nx = x + dx;
        if (nx < 0 || nx >= width || y + dy < 0) continue;
        const other = labels[i + dx + dy * width];
        if (!other) continue;
        if (!label) label = root(other);
        else parent[Math.max(label, root(other))] = label = Math.min(label, root(other));
      }
      if (!label) {
        label = parent.length;
        parent.push(label);
        sizes.push(0);
      }
      labels[i] = label;
      sizes[label] += 1;
    }
  }
  const whole = new Float64Array(parent.length);
  for (let label = 1; label < parent.length; label++) whole[root(label)] += sizes[label];
  const mask = new Uint8Array(values.length);
  const kept = new Set();
  for (let i = 0; i < mask.length; i++) {
    if (!labels[i]) continue;
    const label = root(labels[i]);
    if (whole[label] >= least) {
      mask[i] = 1;
      kept.add(label);
    }
  }
  return { mask, count: kept.size };
}

function painted(mask) {
  if (!strokes.length && !drawing) return mask;
  const { width, height, step } = map;
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  for (const stroke of [...strokes, ...(drawing ? [drawing] : [])]) {
    context.clearRect(0, 0, width, height);
    context.fillStyle = context.strokeStyle = "#fff";
    context.lineCap = context.lineJoin = "round";
    const points = stroke.points.map(([x, y]) => [x / step, y / step]);
    context.beginPath();
    points.forEach(([x, y]) => context.lineTo(x, y));
    if (stroke.tool === "polygon") context.fill("evenodd");
    else {
      context.lineWidth = 2 * stroke.radius / step;
      context.lineTo(points.at(-1)[0] + 0.01, points.at(-1)[1]);
      context.stroke();
    }
    const data = context.getImageData(0, 0, width, height).data;
    for (let i = 0; i < mask.length; i++) if (data[4 * i + 3] > 127) mask[i] = stroke.erase ? 0 : 1;
  }
  return mask;
}

function drawMask() {
  if (!map) return;
  const { width, height, values } = map;
  const found = automatic();
  const mask = painted(found.mask);
  const image = new ImageData(width, height);
  let area = 0;
  const thick = Math.max(1, Math.round(width / 900));
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i++) {
      if (mapShown) {
        image.data.set([255, 80, 200, values[i] * 0.75], 4 * i);
      }
      if (!mask[i]) continue;
      area += 1;
      const inside = x >= thick && y >= thick && x < width - thick && y < height - thick
        && mask[i - thick] && mask[i + thick] && mask[i - thick * width] && mask[i + thick * width];
      if (!inside) image.data.set([...OUTLINE, 255], 4 * i);
    }
  }
  at("over").getContext("2d").putImageData(image, 0, 0);
  at("cutoff-shown").textContent = Number(at("cutoff").value).toFixed(3);
  at("smallest-shown").textContent = `${smallest()} px`;
  at("radius-shown").textContent = `${at("radius").value} px`;
  at("found").textContent = `${found.count} found by the model, ${(100 * area / mask.length).toFixed(2)} % of the image in all`
    + (strokes.length ? `, ${strokes.length} strokes` : "");
  at("undo-stroke").disabled = !strokes.length;
  placeLayers();
}

let frame = 0;
function drawSoon() {
  cancelAnimationFrame(frame);
  frame = requestAnimationFrame(drawMask);
}

function placeLayers() {
  if (!map) return;
  const stage = at("canvas-stage");
  const fit = Math.min(stage.clientWidth / map.width, stage.clientHeight / map.height);
  at("layers").style.width = `${map.width * fit}px`;
  at("layers").style.height = `${map.height * fit}px`;
  at("layers").style.transform = `translate(-50%, -50%) translate(${look.x}px, ${look.y}px) scale(${look.scale})`;
}

function zoomLook(factor, x = 0, y = 0) {
  const scale = Math.min(40, Math.max(1, look.scale * factor));
  const by = scale / look.scale;
  look = scale === 1 ? { scale, x: 0, y: 0 } : { scale, x: x - (x - look.x) * by, y: y - (y - look.y) * by };
  placeLayers();
}

function moveLook(x, y) {
  if (look.scale === 1) return;
  look.x += x;
  look.y += y;
  placeLayers();
}

// ---- judging ----

async function judge(label) {
  if (judging || !map) return;
  judging = true;
  const one = results[resultAt];
  try {
    const told = await ask("/api/results/judge", {
      image: one.name, label, cutoff: Number(at("cutoff").value), smallest: smallest(), strokes, who: who(),
      seconds: (performance.now() - resultShownAt) / 1000,
    });
    one.label = told.label;
    one.mask = told.mask;
    banner("");
    say(`Saved: ${label === "artifact" ? "mask accepted" : label}.`);
    if (resultAt < results.length - 1) {
      resultAt += 1;
      await showResult();
    } else {
      describeResult();
      say("This was the last image.");
    }
  } catch (error) {
    banner(error.message);
  } finally {
    judging = false;
  }
}

function goTo(by) {
  const next = Math.min(results.length - 1, Math.max(0, resultAt + by));
  if (next === resultAt) return;
  resultAt = next;
  showResult();
}

function choose(name) {
  tool = name;
  drawing = null;
  at("canvas-stage").dataset.tool = name;
  for (const button of document.querySelectorAll(".tool")) {
    button.setAttribute("aria-pressed", button.dataset.tool === name);
  }
}

function undoStroke() {
  strokes.pop();
  drawMask();
}

function toggleMap() {
  mapShown = !mapShown;
  at("map-shown").setAttribute("aria-pressed", mapShown);
  drawMask();
}

function moveCutoff(by) {
  at("cutoff").value = Number(at("cutoff").value) + by;
  drawMask();
}

const RESULT_KEYS = {
  a: () => judge("artifact"), c: () => judge("clean"), u: () => judge("unsure"),
  b: () => goTo(-1), Backspace: () => goTo(-1), s: () => goTo(1), m: toggleMap, z: undoStroke,
  h: () => choose("move"), p: () => choose("brush"), e: () => choose("eraser"), l: () => choose("polygon"),
  ",": () => moveCutoff(-0.01), ".": () => moveCutoff(0.01),
  "+": () => zoomLook(1.4), "=": () => zoomLook(1.4), "-": () => zoomLook(1 / 1.4), 0: () => zoomLook(0),
  ArrowLeft: () => moveLook(80, 0), ArrowRight: () => moveLook(-80, 0),
  ArrowUp: () => moveLook(0, 80), ArrowDown: () => moveLook(0, -80), "?": () => at("keys").showModal(),
};

// ---- mouse ----

function pointOf(event) {
  const box = at("layers").getBoundingClientRect();
  return [
    (event.clientX - box.left) / box.width * map.width * map.step,
    (event.clientY - box.top) / box.height * map.height * map.step,
  ];
}

{
  const stage = at("canvas-stage");
  let dragged = null;
  stage.addEventListener("pointerdown", (event) => {
    if (!map) return;
    stage.setPointerCapture(event.pointerId);
    if (tool === "move") dragged = [event.clientX, event.clientY];
    else {
      drawing = { tool: tool === "polygon" ? "polygon" : "brush", erase: tool === "eraser" || event.shiftKey,
        radius: Number(at("radius").value), points: [pointOf(event)] };
      drawSoon();
    }
  });
  stage.addEventListener("pointermove", (event) => {
    if (dragged) {
      moveLook(event.clientX - dragged[0], event.clientY - dragged[1]);
      dragged = [event.clientX, event.clientY];
    } else if (drawing) {
      drawing.points.push(pointOf(event));
      drawSoon();
    }
  });
  stage.addEventListener("pointerup", () => {
    dragged = null;
    if (!drawing) return;
    if (drawing.tool === "brush" || drawing.points.length > 2) strokes.push(drawing);
    drawing = null;
    drawMask();
  });
  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    const box = stage.getBoundingClientRect();
    zoomLook(event.deltaY < 0 ? 1.2 : 1 / 1.2, event.clientX - box.left - box.width / 2, event.clientY - box.top - box.height / 2);
  }, { passive: false });
  new ResizeObserver(placeLayers).observe(stage);
  for (const id of ["cutoff", "smallest", "radius"]) at(id).addEventListener("input", drawSoon);
  for (const button of document.querySelectorAll(".judge")) {
    button.addEventListener("click", () => judge(button.dataset.judge));
  }
  for (const button of document.querySelectorAll(".tool")) {
    button.addEventListener("click", () => choose(button.dataset.tool));
  }
  const clicks = { "result-before": () => goTo(-1), "result-after": () => goTo(1), "as-model": asModel,
    "map-shown": toggleMap, "undo-stroke": undoStroke };
  for (const [id, act] of Object.entries(clicks)) at(id).addEventListener("click", act);
  for (const button of document.querySelectorAll(".export")) {
    button.addEventListener("click", async () => {
      try {
        const told = await ask("/api/results/export", { format: button.dataset.format });
        at("exported").textContent = `${told.images} masks in ${told.folder}`;
      } catch (error) { banner(error.message); }
    });
  }
}
