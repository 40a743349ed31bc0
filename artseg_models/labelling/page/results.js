"use strict";

// Probability maps and masks: the mask follows the sliders here in the browser, and is made anew from the whole map by the
// server when it is accepted.

const OUTLINE = [255, 166, 43]; // orange on grey, as in every figure
let results = [];
let resultAt = 0;
let map = null; // { width, height, values, step } of the shown image; all 0 where no model has seen it
let kept = null; // the mask that was accepted or imported, as `map`; null where the sliders make the mask
let strokes = [];
let drawing = null;
let tool = "move";
let mapShown = false;
let resultShownAt = 0;
let judging = false;
let look = { scale: 1, x: 0, y: 0 };
let pen = null; // where the keys paint, (x, y) in pixels of the image

async function lookForResults() {
  const shown = results[resultAt]?.name;
  results = await ask("/api/results");
  if (shown) resultAt = Math.max(0, results.findIndex((one) => one.name === shown));
}

async function openResults() {
  try {
    const opened = map !== null;
    await lookForResults();
    if (!opened) resultAt = Math.max(0, results.findIndex((one) => !one.label));
    // what is painted and not yet accepted stays
    if (!opened || !strokes.length) await showResult();
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
  if (!one) {
    nothingToJudge();
    return;
  }
  const query = new URLSearchParams({ image: one.name });
  strokes = [];
  drawing = null;
  look = { scale: 1, x: 0, y: 0 };
  at("result-name").textContent = one.name;
  at("result-name").title = one.name;
  try {
    const accepted = one.mask ? await pixelsOf(`/api/results/mask?${query}`) : null;
    const loaded = one.map ? await pixelsOf(`/api/results/probability?${query}`)
      : { ...accepted, values: new Uint8Array(accepted.values.length) };
    if (results[resultAt]?.name !== one.name) return;
    map = loaded;
    at("results-message").hidden = true;
    at("under").src = `/api/preview?${query}&side=0&clip=${CLIPS[at("contrast").value]}`;
    at("under").alt = one.name;
    at("over").width = map.width;
    at("over").height = map.height;
    asModel();
    kept = accepted;
    pen = [map.width * map.step / 2, map.height * map.step / 2];
    for (const id of ["cutoff", "smallest", "as-model", "map-shown"]) at(id).disabled = !one.map;
    drawMask();
    resultShownAt = performance.now();
  } catch (error) {
    map = null;
    resultsMessage(error.message);
  }
  describeResult();
}

function resultsMessage(text) {
  at("results-message").hidden = false;
  at("results-message").textContent = text;
  at("under").removeAttribute("src");
  at("over").width = at("over").height = 1;
}

function nothingToJudge() {
  map = null;
  resultsMessage("No masks yet.\n\nLearn from your labels in the tab Model and let the model look at all images, or "
    + "import masks that were drawn elsewhere.");
  at("result-name").textContent = at("result-standing").textContent = at("found").textContent = "";
  for (const control of document.querySelectorAll("#results aside :is(button, input)")) {
    control.disabled = !["import", "import-files"].includes(control.id);
  }
}

function describeResult() {
  const one = results[resultAt];
  const judged = results.filter((each) => each.label).length;
  for (const control of document.querySelectorAll("#results aside :is(.tool, .export, #radius)")) control.disabled = false;
  at("result-before").disabled = resultAt === 0;
  at("result-after").disabled = resultAt === results.length - 1;
  at("result-standing").textContent = `${resultAt + 1} of ${results.length}, ${judged} judged · `
    + (one.mask ? "mask accepted" : one.label || "not judged yet")
    + (one.gateOpen ? "" : " · the classifier says clean") + (one.map ? "" : " · not looked at by a model");
  for (const button of document.querySelectorAll(".judge")) {
    const chosen = one.label === button.dataset.judge;
    button.classList.toggle("chosen", chosen);
    button.setAttribute("aria-pressed", chosen);
    button.disabled = !map;
  }
}

function asModel() {
  const one = results[resultAt];
  kept = null;
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
  if (kept) return { mask: Uint8Array.from(kept.values, (value) => Number(value > 127)), count: 0 };
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
  const large = new Set();
  for (let i = 0; i < mask.length; i++) {
    if (!labels[i]) continue;
    const label = root(labels[i]);
    if (whole[label] >= least) {
      mask[i] = 1;
      large.add(label);
    }
  }
  return { mask, count: large.size };
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
    if (stroke.tool === "polygon") {
      if (points.length > 2) context.fill("evenodd");
    }
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
      else if (!(mask[i - 2 * thick] && mask[i + 2 * thick] && mask[i - 2 * thick * width] && mask[i + 2 * thick * width])) {
        image.data.set([0, 0, 0, 200], 4 * i); // a dark rim, so that the outline is seen on bright ground, too
      }
    }
  }
  at("over").getContext("2d").putImageData(image, 0, 0);
  drawPen();
  at("cutoff-shown").textContent = Number(at("cutoff").value).toFixed(3);
  at("smallest-shown").textContent = `${smallest()} px`;
  at("radius-shown").textContent = `${at("radius").value} px`;
  at("found").textContent = (kept ? "the accepted mask, " : `${found.count} found by the model, `)
    + `${(100 * area / mask.length).toFixed(2)} % of the image in all`
    + (strokes.length ? `, ${strokes.length} strokes` : "");
  at("undo-stroke").disabled = !strokes.length && !drawing;
  at("drawing-said").textContent = tool === "move" ? ""
    : drawing?.tool === "polygon" ? `${drawing.points.length} corners: close with Enter or a double click`
      : tool === "polygon" ? "Click corner by corner, or drag around it; Shift takes away"
        : `Drag over the image${tool === "brush" ? "; Shift takes away" : ""}`;
  placeLayers();
}

// Where the keys would paint, and the corners of a polygon that is not closed yet.
function drawPen() {
  if (tool === "move") return;
  const context = at("over").getContext("2d");
  const wide = Math.max(1, map.width / 700);
  const line = (path) => {
    for (const [width, colour] of [[3 * wide, "#000"], [1.5 * wide, "#fff"]]) {
      context.lineWidth = width;
      context.strokeStyle = colour;
      context.beginPath();
      path();
      context.stroke();
    }
  };
  if (drawing?.tool === "polygon") {
    line(() => drawing.points.forEach(([x, y]) => context.lineTo(x / map.step, y / map.step)));
    for (const [x, y] of drawing.dragged ? [] : drawing.points) {
      line(() => context.arc(x / map.step, y / map.step, 3 * wide, 0, 7));
    }
  }
  if (!pen || document.activeElement !== at("canvas-stage")) return;
  const [x, y] = [pen[0] / map.step, pen[1] / map.step];
  const radius = tool === "polygon" ? 4 * wide : Number(at("radius").value) / map.step;
  line(() => context.arc(x, y, radius, 0, 7));
  line(() => { context.moveTo(x - radius / 2, y); context.lineTo(x + radius / 2, y); });
  line(() => { context.moveTo(x, y - radius / 2); context.lineTo(x, y + radius / 2); });
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
      kept: kept !== null,
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
      await showResult();
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
  if (map) drawMask();
  at("canvas-stage").focus();
  at("canvas-stage").dataset.tool = name;
  for (const control of document.querySelectorAll(".of-brush")) control.hidden = !["brush", "eraser"].includes(name);
  for (const button of document.querySelectorAll(".tool")) {
    button.setAttribute("aria-pressed", button.dataset.tool === name);
  }
}

function undoStroke() {
  if (drawing) {
    drawing.points.pop();
    if (!drawing.points.length) drawing = null;
  } else strokes.pop();
  drawMask();
}

function newDrawing(erase, point) {
  return { tool: tool === "polygon" ? "polygon" : "brush", erase: tool === "eraser" || erase,
    radius: Number(at("radius").value), points: [point] };
}

function closeDrawing() {
  if (!drawing) return;
  const { tool: used, erase, radius, points } = drawing;
  if (used === "brush" || points.length > 2) strokes.push({ tool: used, erase, radius, points });
  drawing = null;
  drawMask();
}

function movePen(event, x, y) {
  if (tool === "move" || !map) return moveLook(-80 * x, -80 * y);
  const step = event.shiftKey ? 1 : Math.max(1, Number(at("radius").value) / 2);
  pen = [Math.min(map.width * map.step, Math.max(0, pen[0] + step * x)), Math.min(map.height * map.step, Math.max(0, pen[1] + step * y))];
  drawMask();
}

function paintAtPen() {
  if (tool === "move" || !map) return;
  if (tool !== "polygon") {
    drawing = newDrawing(false, [...pen]);
    closeDrawing();
  } else if (drawing) drawing.points.push([...pen]);
  else drawing = newDrawing(false, [...pen]);
  drawMask();
}

function toggleMap() {
  mapShown = !mapShown;
  at("map-shown").setAttribute("aria-pressed", mapShown);
  drawMask();
}

function moveCutoff(by) {
  if (at("cutoff").disabled) return;
  kept = null;
  at("cutoff").value = Number(at("cutoff").value) + by;
  drawMask();
}

const RESULT_KEYS = {
  a: () => judge("artifact"), c: () => judge("clean"), u: () => judge("unsure"),
  b: () => goTo(-1), Backspace: () => goTo(-1), s: () => goTo(1), m: toggleMap, z: undoStroke,
  h: () => choose("move"), p: () => choose("brush"), e: () => choose("eraser"), l: () => choose("polygon"),
  ",": () => moveCutoff(-0.01), ".": () => moveCutoff(0.01),
  "+": () => zoomLook(1.4), "=": () => zoomLook(1.4), "-": () => zoomLook(1 / 1.4), 0: () => zoomLook(0),
  ArrowLeft: (event) => movePen(event, -1, 0), ArrowRight: (event) => movePen(event, 1, 0),
  ArrowUp: (event) => movePen(event, 0, -1), ArrowDown: (event) => movePen(event, 0, 1),
  " ": paintAtPen, Enter: closeDrawing, Escape: () => { drawing = null; if (map) drawMask(); },
  v: () => open("one"), "?": help,
};

function inBase64(file) {
  return new Promise((done, failed) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => failed(new Error(`${file.name} could not be read.`));
    reader.readAsDataURL(file);
  });
}

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
  let pressed = false;
  stage.addEventListener("pointerdown", (event) => {
    if (!map) return;
    stage.setPointerCapture(event.pointerId);
    if (tool === "move") dragged = [event.clientX, event.clientY];
    else if (drawing?.tool === "polygon") {
      const [x, y] = drawing.points[0];
      const [px, py] = pointOf(event);
      const near = 10 * map.width * map.step / at("layers").getBoundingClientRect().width;
      if (drawing.points.length > 2 && Math.hypot(px - x, py - y) < near) closeDrawing();
      else drawing.points.push([px, py]);
      drawSoon();
    } else {
      drawing = newDrawing(event.shiftKey, pointOf(event));
      pressed = true;
      drawSoon();
    }
  });
  stage.addEventListener("pointermove", (event) => {
    if (dragged) {
      moveLook(event.clientX - dragged[0], event.clientY - dragged[1]);
      dragged = [event.clientX, event.clientY];
    } else if (drawing && pressed) {
      drawing.points.push(pointOf(event));
      drawing.dragged = drawing.points.length > 3;
      drawSoon();
    }
  });
  stage.addEventListener("pointerup", () => {
    dragged = null;
    // a polygon that was clicked, not drawn in one go, waits for its other corners
    if (pressed && drawing && (drawing.tool === "brush" || drawing.dragged)) closeDrawing();
    else if (pressed && drawing) drawing.points.length = 1;
    pressed = false;
  });
  stage.addEventListener("dblclick", closeDrawing);
  for (const change of ["focus", "blur"]) stage.addEventListener(change, () => map && drawSoon());
  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    const box = stage.getBoundingClientRect();
    zoomLook(event.deltaY < 0 ? 1.2 : 1 / 1.2, event.clientX - box.left - box.width / 2, event.clientY - box.top - box.height / 2);
  }, { passive: false });
  new ResizeObserver(placeLayers).observe(stage);
  for (const id of ["cutoff", "smallest", "radius"]) {
    at(id).addEventListener("input", () => {
      if (id !== "radius") kept = null;
      drawSoon();
    });
  }
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
        at("exported-command").textContent = told.command;
        banner("");
      } catch (error) { banner(error.message); }
    });
  }
  at("import").addEventListener("click", () => at("import-files").click());
  at("import-files").addEventListener("change", async () => {
    at("import").disabled = true;
    try {
      const files = await Promise.all([...at("import-files").files].map(async (file) => ({
        name: file.name, content: await inBase64(file),
      })));
      at("import-files").value = ""; // the same file may be chosen again
      if (!files.length) return;
      at("exported").textContent = "Importing …";
      at("exported-command").textContent = "";
      const told = await ask("/api/results/import", { files, who: who() });
      at("exported").textContent = told.said;
      at("exported-command").textContent = told.command;
      banner("");
      await lookForResults();
      resultAt = Math.max(0, results.findIndex((one) => one.name === told.first));
      await showResult();
    } catch (error) {
      at("exported").textContent = "";
      banner(error.message);
    } finally {
      at("import").disabled = false;
    }
  });
}
