"use strict";

// The percent of pixels that become black, and white, for each step of the contrast slider.
const CLIPS = [0, 0.1, 0.25, 0.5, 1, 2, 3, 5, 8, 12, 18];
const AHEAD = 3; // images loaded before they are asked for
const PAGE = 48;
const POLL_MS = 3000;
const MARKS = { clean: "○", artifact: "▲", unsure: "?" };

const at = (id) => document.getElementById(id);
const windowName = crypto.randomUUID();

const images = new Map(); // name -> what the server says of it
const pictures = new Map(); // address -> promise of a loaded picture
let order = null; // all images that are there, in the order of showing
let taken = new Set(); // shown by other windows just now
let learning = Promise.resolve(); // the last question for news
let revision = -1;
let project = { kinds: [] };
let current = null;
let shownAt = 0;
let hiddenMs = 0;
let hiddenSince = 0;
let saving = false;
let raw = false;
let pace = null;
const visited = []; // for Back
let page = 0;
const selected = new Set();
let view = { scale: 1, x: 0, y: 0 };
let loadedSide = 0;
const lookedAgain = new Set(); // where the model disagreed and the person has decided once more

// ---- talking to the server ----

async function ask(path, body) {
  const options = body === undefined
    ? {}
    : { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error(
      "The server has ended. What you decided before is saved. Start artseg label again and use the page that opens.");
  }
  const content = await answer.json();
  if (!answer.ok) throw new Error(content.error || `The server answered ${answer.status}.`);
  return content;
}

// What went wrong stays until something is done again: an action, reaching the server, writing the table.
const troubles = { action: "", server: "", table: "" };

function banner(message, of = "action") {
  troubles[of] = message || "";
  const shown = troubles.action || troubles.server || troubles.table;
  if (at("banner").textContent !== shown) at("banner").textContent = shown;
  at("banner").hidden = !shown;
}

function say(message) {
  at("said").textContent = message;
}

function takeNews(news) {
  revision = news.revision;
  for (const one of news.images) {
    images.set(one.name, one);
    order = null;
  }
  taken = new Set(news.taken);
  pace = news.pace;
  banner(news.problem, "table");
  const { done, total } = news.twins;
  at("searching").textContent = done < total ? `looking for near-duplicates: ${done} of ${total}` : "";
}

const who = () => at("who").value.trim();

async function learn(showing) {
  learning = ask("/api/images", { since: revision, who: who(), window: windowName, showing: showing || "" });
  takeNews(await learning);
}

async function poll() {
  if (saving) return;
  try {
    await learn(current);
    if (current && images.get(current)?.gone) await show(following(current, 1)[0] || null);
    else if (!current && !at("one").hidden) await show(first());
    refresh();
    banner("", "server");
    if (jobRuns) await lookAtModel();
  } catch (error) {
    banner(error.message, "server");
  }
}

// ---- which images ----

function ordered() {
  if (!order) {
    order = [...images.values()].filter((one) => !one.gone);
    const doubtful = at("doubt-first").checked;
    order.sort((a, b) => (doubtful ? (a.sure ?? 2) - (b.sure ?? 2) : 0) || a.rank - b.rank || (a.name < b.name ? -1 : 1));
    order.forEach((one, place) => (one.place = place));
  }
  return order;
}

function passes(one) {
  switch (at("filter").value) {
    case "unlabelled": return !one.label && !one.error;
    case "mine": return !one.votes?.[who()] && !one.error;
    case "clean": case "artifact": case "unsure": return one.label === at("filter").value;
    case "conflict": return Boolean(one.conflict);
    case "twins": return twinsOf(one).length > 0;
    case "doubted": return disagrees(one) && !lookedAgain.has(one.name);
    case "error": return Boolean(one.error);
    default: return true;
  }
}

const disagrees = (one) => Boolean(one.guess) && ["clean", "artifact"].includes(one.label) && one.guess !== one.label;

const mayShow = (one) => !one.gone && passes(one) && !taken.has(one.name);

function first() {
  return ordered().find(mayShow)?.name || null;
}

function following(name, count) {
  const all = ordered();
  const start = name && images.has(name) ? (images.get(name).place ?? -1) : -1;
  const found = [];
  for (let step = 1; step <= all.length && found.length < count; step++) {
    const one = all[(start + step + all.length) % all.length];
    if (one.name !== name && mayShow(one)) found.push(one.name);
  }
  return found;
}

let groups = new Map();
let groupsOf = null;

// The image that gave its group the name does not bear it itself.
function twinsOf(one) {
  if (groupsOf !== ordered()) {
    groupsOf = order;
    groups = new Map();
    for (const each of order) {
      const name = each.group || each.name;
      if (groups.has(name)) groups.get(name).push(each);
      else groups.set(name, [each]);
    }
  }
  return groups.get(one.group || one.name).filter((each) => each.name !== one.name);
}

// ---- pictures ----

function wantedSide() {
  const stage = at("stage");
  return Math.max(512, Math.ceil(Math.max(stage.clientWidth, stage.clientHeight) * devicePixelRatio / 256) * 256);
}

function address(name, side) {
  const asked = new URLSearchParams({ image: name, side, clip: CLIPS[at("contrast").value], raw });
  return `/api/preview?${asked}`;
}

function load(name, side = wantedSide()) {
  const from = address(name, side);
  if (!pictures.has(from)) {
    pictures.set(from, (async () => {
      const answer = await fetch(from);
      if (!answer.ok) return { name, error: (await answer.json()).error };
      const picture = new Image();
      picture.src = URL.createObjectURL(await answer.blob());
      await picture.decode();
      picture.alt = name;
      picture.draggable = false;
      return { name, side, picture, facts: answer.headers.get("X-Image") };
    })().catch((error) => {
      pictures.delete(from);
      return { name, error: `It could not be loaded (${error.message}).` };
    }));
  }
  return pictures.get(from);
}

function forget(keep) {
  const kept = new Set(keep.flatMap((name) => [address(name, wantedSide()), address(name, 0)]));
  for (const [from, loading] of pictures) {
    if (kept.has(from)) continue;
    pictures.delete(from);
    loading.then(({ picture }) => picture && picture.src.startsWith("blob:") && !picture.isConnected
      && URL.revokeObjectURL(picture.src));
  }
}

function loadAhead() {
  const next = following(current, AHEAD);
  next.forEach((name) => load(name));
  forget([current, visited.at(-1), ...next].filter(Boolean));
}

// ---- one by one ----

async function show(name) {
  current = name;
  if (!name) {
    put(null);
    const left = { unlabelled: "Every image has a label.",
      doubted: "There is nothing more to look at again: of the other labels the model says the same." };
    const elsewhere = ordered().some((one) => passes(one) && taken.has(one.name));
    message(elsewhere
      ? "The last images are open in another window."
      : `${left[at("filter").value] || "No image here."}\n\nChoose others below (Show), or Finish.`);
    refresh();
    return;
  }
  const slow = setTimeout(() => message("Loading …"), 250);
  const loaded = await load(name);
  clearTimeout(slow);
  if (current !== name) return; // another one was asked for meanwhile
  if (loaded.error) {
    put(null);
    images.get(name).error = loaded.error;
    message(`This image cannot be shown, and is left out.\n\n${loaded.error}\n\nGo on with S (skip).`);
    say("This image cannot be shown.");
  } else {
    message("");
    view = { scale: 1, x: 0, y: 0 };
    put(loaded);
  }
  requestAnimationFrame(() => {
    shownAt = performance.now();
    hiddenMs = 0;
  });
  refresh();
  loadAhead();
}

function message(text) {
  at("message").hidden = !text;
  at("message").textContent = text;
}

function put(loaded) {
  const there = at("stage").querySelector("img");
  if (!loaded) {
    there?.remove();
    at("facts").textContent = "";
    return;
  }
  loadedSide = loaded.side;
  at("facts").textContent = loaded.facts || "";
  const [width, height] = (loaded.facts || "").split(/ x | /).map(Number);
  loaded.picture.dataset.width = width;
  loaded.picture.dataset.height = height;
  if (there !== loaded.picture) {
    if (there) there.replaceWith(loaded.picture);
    else at("stage").prepend(loaded.picture);
  }
  place();
}

function place() {
  const picture = at("stage").querySelector("img");
  if (!picture) return;
  const { clientWidth, clientHeight } = at("stage");
  const fit = Math.min(clientWidth / picture.dataset.width, clientHeight / picture.dataset.height);
  picture.style.width = `${picture.dataset.width * fit}px`;
  picture.style.height = `${picture.dataset.height * fit}px`;
  picture.style.transform = `translate(-50%, -50%) translate(${view.x}px, ${view.y}px) scale(${view.scale})`;
  picture.classList.toggle("near", fit * view.scale > 3);
  // zoomed in beyond the preview: fetch the image as it is
  const shown = Math.max(picture.dataset.width, picture.dataset.height) * fit * view.scale * devicePixelRatio;
  if (loadedSide && shown > loadedSide * 1.2 && Math.max(picture.dataset.width, picture.dataset.height) > loadedSide) {
    const name = current;
    load(name, 0).then((loaded) => {
      if (current === name && !loaded.error) put(loaded);
    });
  }
}

function zoom(factor, x = 0, y = 0) {
  const scale = Math.min(40, Math.max(1, view.scale * factor));
  const by = scale / view.scale;
  view = scale === 1 ? { scale, x: 0, y: 0 } : { scale, x: x - (x - view.x) * by, y: y - (y - view.y) * by };
  place();
}

function move(x, y) {
  if (view.scale === 1) return;
  view.x += x;
  view.y += y;
  place();
}

async function decide(label, kind = "") {
  if (saving) return;
  const inGrid = !at("grid").hidden;
  let names;
  let seconds = null;
  if (inGrid) {
    names = [...selected].filter((name) => !images.get(name).error);
    if (!names.length) return say("Select images first.");
  } else {
    const one = images.get(current);
    if (!one) return;
    if (one.error && label) return say("This image cannot be shown; skip it.");
    names = [current];
    if (!at("twins").hidden && at("alike").checked) names.push(...twinsOf(one).map((each) => each.name));
    seconds = label ? Math.max(0, (performance.now() - shownAt - hiddenMs) / 1000) : null;
  }
  saving = true;
  const doubted = names.filter((name) => disagrees(images.get(name)));
  try {
    // it says what is shown now, and must not reach the server after the claim of what comes next
    await learning.catch(() => {});
    let next = inGrid ? null : label ? following(current, 1)[0] || null : current;
    takeNews(await ask("/api/decide", {
      images: names, label, kind, who: who(), seconds, since: revision, window: windowName,
      showing: next || "",
    }));
    banner("");
    for (const name of doubted) lookedAgain.add(name);
    const done = ordered().filter((one) => one.label).length;
    say(`${label ? `Saved: ${kind || label}` : "Label removed"}. ${done} of ${ordered().length} labelled.`);
    if (inGrid) {
      selected.clear();
      drawGrid();
      refresh();
    } else if (label) {
      visited.push(current);
      // another window may have been first
      while (next && !mayShow(images.get(next))) {
        next = following(current, 1)[0] || null;
        await learn(next);
      }
      await show(next);
    } else {
      refresh();
    }
  } catch (error) {
    banner(error.message);
  } finally {
    saving = false;
  }
}

function back() {
  if (saving) return;
  let name = visited.pop();
  while (name && (!images.has(name) || images.get(name).gone)) name = visited.pop();
  if (!name) {
    // after a restart: the one before in the order
    const all = ordered();
    const place = current ? images.get(current).place : all.length;
    name = all.slice(0, place).reverse().find((one) => one.label)?.name;
  }
  if (name) show(name);
  else say("This is the first image.");
}

function skip() {
  if (saving || !current) return;
  visited.push(current);
  show(following(current, 1)[0] || null);
}

// ---- the grid ----

function gridImages() {
  const all = ordered().filter(passes);
  if (at("filter").value !== "twins") return all;
  // stable: within a group in the order of showing
  return all.sort((a, b) => groupPlace(a) - groupPlace(b));
}

const groupPlace = (one) => Math.min(one.place, ...twinsOf(one).map((each) => each.place));

function drawGrid() {
  const all = gridImages();
  const pages = Math.max(1, Math.ceil(all.length / PAGE));
  page = Math.min(page, pages - 1);
  const cells = [];
  let group = null;
  for (const one of all.slice(page * PAGE, (page + 1) * PAGE)) {
    if (at("filter").value === "twins" && groupPlace(one) !== group) {
      group = groupPlace(one);
      cells.push(groupHeading([one, ...twinsOf(one)]));
    }
    cells.push(cell(one));
  }
  if (!cells.length) {
    const empty = document.createElement("p");
    empty.className = "empty";
    empty.textContent = "No image here. Choose others below (Show).";
    cells.push(empty);
  }
  at("cells").replaceChildren(...cells);
  at("page-number").textContent = `${page + 1} of ${pages}`;
  at("page-before").disabled = page === 0;
  at("page-after").disabled = page >= pages - 1;
  drawSelected();
}

function groupHeading(members) {
  const heading = document.createElement("div");
  heading.className = "group";
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = `Select these ${members.length}`;
  button.addEventListener("click", () => {
    for (const one of members) if (!one.error) selected.add(one.name);
    drawSelected();
  });
  heading.append("Nearly the same ", button);
  return heading;
}

function cell(one) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "cell";
  button.dataset.name = one.name;
  button.setAttribute("role", "checkbox");
  button.title = one.name;
  button.setAttribute("aria-label", `${one.name}, ${one.error ? "cannot be shown" : one.label || "not labelled"}`);
  if (one.error) {
    const lost = document.createElement("span");
    lost.className = "lost";
    lost.textContent = "cannot be shown";
    lost.title = one.error;
    button.append(lost);
  } else {
    const picture = new Image();
    picture.loading = "lazy";
    picture.alt = "";
    picture.src = `/api/thumbnail?${new URLSearchParams({ image: one.name })}`;
    picture.addEventListener("error", () => {
      const lost = document.createElement("span");
      lost.className = "lost";
      lost.textContent = "cannot be shown";
      picture.replaceWith(lost);
      images.get(one.name).error = "It cannot be read.";
      if (selected.delete(one.name)) drawSelected();
    });
    button.append(picture);
  }
  const caption = document.createElement("span");
  caption.className = `caption ${one.label || ""}`;
  if (one.label) {
    const mark = document.createElement("span");
    mark.className = "mark";
    mark.textContent = MARKS[one.label];
    caption.append(mark, ` ${one.kind || one.label} · `);
  }
  caption.append(one.name.split("/").at(-1));
  button.append(caption);
  button.addEventListener("click", () => toggle(one.name));
  return button;
}

function toggle(name) {
  if (!selected.delete(name)) selected.add(name);
  drawSelected();
}

function drawSelected() {
  for (const button of at("cells").querySelectorAll(".cell")) {
    button.setAttribute("aria-checked", selected.has(button.dataset.name));
  }
  at("selected").textContent = `${selected.size} selected`;
  at("together").disabled = selected.size < 2;
}

function selectAll() {
  for (const button of at("cells").querySelectorAll(".cell")) {
    if (!images.get(button.dataset.name).error) selected.add(button.dataset.name);
  }
  drawSelected();
}

function turn(by) {
  page = Math.max(0, page + by);
  selected.clear();
  drawGrid();
  at("cells").scrollTop = 0;
}

function walk(key) {
  const cells = [...at("cells").querySelectorAll(".cell")];
  const from = cells.indexOf(document.activeElement);
  const columns = getComputedStyle(at("cells")).gridTemplateColumns.split(" ").length;
  const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns }[key];
  cells[from < 0 ? 0 : Math.min(cells.length - 1, Math.max(0, from + step))]?.focus();
}

// ---- what stands around ----

function duration(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

function refresh() {
  const all = ordered();
  const counts = { clean: 0, artifact: 0, unsure: 0, conflict: 0, error: 0 };
  for (const one of all) {
    if (one.label) counts[one.label] += 1;
    if (one.conflict) counts.conflict += 1;
    if (one.error) counts.error += 1;
  }
  const done = counts.clean + counts.artifact + counts.unsure;
  const left = all.filter((one) => !one.label && !one.error).length;
  at("progress").max = Math.max(1, all.length);
  at("progress").value = done;
  at("pace").textContent = `${done} of ${all.length}`
    + (pace ? ` · ${pace.toFixed(1)} s an image` : "") + (pace && left ? ` · ${duration(pace * left)} left` : "");
  at("counts").textContent = `○ ${counts.clean} clean   ▲ ${counts.artifact} artifact   ? ${counts.unsure} unsure`
    + (counts.conflict ? `   ${counts.conflict} disagreed` : "") + (counts.error ? `   ${counts.error} cannot be shown` : "");
  drawLearning();
  at("shown-count").textContent = `${all.filter(passes).length} images`;

  const one = images.get(current);
  at("name").textContent = one ? one.name : "";
  at("name").title = one ? one.name : "";
  const mine = one?.votes?.[who()];
  at("standing").textContent = standing(one);
  for (const button of document.querySelectorAll("#one .label")) {
    const chosen = Boolean(one) && mine === button.dataset.label && (button.dataset.kind || "") === (button.dataset.kind ? one.kind : "");
    button.classList.toggle("chosen", chosen);
    button.setAttribute("aria-pressed", chosen);
    button.disabled = !one || Boolean(one.error);
  }
  at("withdraw").disabled = !mine;
  at("skip").disabled = !one;
  const twins = one && !one.error ? twinsOf(one) : [];
  at("twins").hidden = !twins.length;
  if (at("twin-pictures").dataset.of !== `${current} ${twins.length}`) {
    at("twin-pictures").dataset.of = `${current} ${twins.length}`;
    at("alike").checked = false;
    at("twin-count").textContent = twins.length + 1;
    at("twin-pictures").replaceChildren(...twins.slice(0, 4).map((each) => {
      const picture = new Image();
      picture.alt = each.name;
      picture.title = `${each.name}${each.label ? ` (${each.label})` : ""}`;
      picture.src = `/api/thumbnail?${new URLSearchParams({ image: each.name })}`;
      return picture;
    }));
  }
}

function standing(one) {
  if (!one) return "";
  const said = Object.entries(one.votes || {}).map(([name, label]) => `${label}${name ? ` (${name})` : ""}`);
  // the model must not sway who has not decided yet
  const guess = one.guess && (one.votes?.[who()] || at("show-guess").checked)
    ? `; the model says ${one.guess}${one.sure < 0.3 ? ", in doubt" : ""}` : "";
  if (!said.length) return `not labelled yet${guess}`;
  return said.join(", ") + (one.conflict ? ": people disagree" : "") + guess;
}

function open(tab) {
  banner("");
  for (const button of document.querySelectorAll("[role=tab]")) {
    const chosen = button.id === `tab-${tab}`;
    button.setAttribute("aria-selected", chosen);
    button.tabIndex = chosen ? 0 : -1;
    at(button.getAttribute("aria-controls")).hidden = !chosen;
  }
  if (tab === "grid") {
    drawGrid();
    at("cells").querySelector(".cell")?.focus();
  } else if (tab === "one") {
    const one = images.get(current);
    show(one && !one.gone && passes(one) ? current : first());
    at("stage").focus();
  } else if (tab === "model") {
    openModel();
  } else if (tab === "results") {
    openResults();
  }
}

const isOpen = (tab) => at(`tab-${tab}`).getAttribute("aria-selected") === "true";

function reload() {
  if (current && !at("one").hidden) {
    const name = current;
    load(name).then((loaded) => {
      if (current === name && !loaded.error) put(loaded);
      loadAhead();
    });
  }
}

function contrast(by) {
  at("contrast").value = Number(at("contrast").value) + by;
  at("contrast").dispatchEvent(new Event("input"));
}

function toggleRaw() {
  raw = !raw;
  at("raw").setAttribute("aria-pressed", raw);
  at("contrast").disabled = raw;
  reload();
}

function help() {
  at("keys").showModal();
  at("keys").scrollTop = 0;
}

// ---- keys, buttons, mouse ----

const KEYS = {
  c: () => decide("clean"),
  a: () => decide("artifact"),
  u: () => decide("unsure"),
  v: () => open(isOpen("grid") ? "one" : "grid"),
  "?": help,
};
const ONE_KEYS = {
  b: back, Backspace: back, s: skip, Delete: () => decide(""),
  r: toggleRaw, "[": () => contrast(-1), "]": () => contrast(1),
  "+": () => zoom(1.4), "=": () => zoom(1.4), "-": () => zoom(1 / 1.4), 0: () => zoom(0),
  ArrowLeft: () => move(80, 0), ArrowRight: () => move(-80, 0), ArrowUp: () => move(0, 80), ArrowDown: () => move(0, -80),
  g: () => { if (!at("twins").hidden) at("alike").checked = !at("alike").checked; },
};
const GRID_KEYS = {
  x: selectAll, n: () => { selected.clear(); drawSelected(); }, PageUp: () => turn(-1), PageDown: () => turn(1),
  ArrowLeft: () => walk("ArrowLeft"), ArrowRight: () => walk("ArrowRight"),
  ArrowUp: () => walk("ArrowUp"), ArrowDown: () => walk("ArrowDown"),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || at("keys").open || document.body.classList.contains("ended")) return;
  const within = event.target;
  if (within.matches("input[type=text], input[type=number], select, textarea")) return;
  if (within.matches("input[type=range]") && event.key.startsWith("Arrow")) return;
  if (within.matches("[role=tab]") && event.key.startsWith("Arrow")) {
    const tabs = [...document.querySelectorAll("[role=tab]:not([hidden])")];
    const next = tabs[(tabs.indexOf(within) + (event.key === "ArrowRight" ? 1 : tabs.length - 1)) % tabs.length];
    next.click();
    next.focus();
    return;
  }
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (isOpen("results")) {
    if (RESULT_KEYS[key] && !(within.matches("button, summary") && ["Enter", " "].includes(key))) {
      event.preventDefault();
      RESULT_KEYS[key](event);
    }
    return;
  }
  const kind = /^[1-9]$/.test(key) && project.kinds[key - 1];
  let act = KEYS[key] || (isOpen("one") ? ONE_KEYS[key] : isOpen("grid") ? GRID_KEYS[key] : null);
  if (kind) act = () => decide("artifact", kind);
  if (!act || (!isOpen("one") && !isOpen("grid") && !["v", "?"].includes(key))) return;
  event.preventDefault();
  if (!event.repeat || /^(Arrow|[-+=[\]])/.test(event.key)) act();
});

document.addEventListener("visibilitychange", () => {
  if (document.hidden) hiddenSince = performance.now();
  else hiddenMs += performance.now() - hiddenSince;
});

function wire() {
  for (const button of document.querySelectorAll(".label[data-label]")) {
    button.addEventListener("click", () => decide(button.dataset.label, button.dataset.kind));
  }
  for (const tab of document.querySelectorAll("[role=tab]")) {
    tab.addEventListener("click", () => open(tab.id.replace("tab-", "")));
  }
  const clicks = {
    back, skip, withdraw: () => decide(""), raw: toggleRaw, larger: () => zoom(1.4), smaller: () => zoom(1 / 1.4),
    fit: () => zoom(0), help, "select-all": selectAll,
    "select-none": () => { selected.clear(); drawSelected(); }, "page-before": () => turn(-1), "page-after": () => turn(1),
  };
  for (const [id, act] of Object.entries(clicks)) at(id).addEventListener("click", act);
  at("apart").addEventListener("click", async () => {
    const one = images.get(current);
    try {
      await ask("/api/apart", { images: [current, ...twinsOf(one).map((each) => each.name)], who: who() });
      await poll();
    } catch (error) { banner(error.message); }
  });
  at("together").addEventListener("click", async () => {
    try {
      await ask("/api/together", { images: [...selected], who: who() });
      selected.clear();
      await poll();
      drawGrid();
    } catch (error) { banner(error.message); }
  });
  at("finish").addEventListener("click", async () => {
    try {
      const { job } = await ask("/api/model");
      if (job.running && !confirm(`${job.name} still runs and would be stopped. Finish all the same?`)) return;
      await ask("/api/stop", {});
      clearInterval(polling);
      clearInterval(modelPolling);
      document.body.classList.add("ended");
      for (const part of document.querySelectorAll("header, main, footer")) part.inert = true;
      banner(`Finished. Your labels are in ${project.table}. You can close this page; artseg label goes on where you were.`);
    } catch (error) { banner(error.message); }
  });
  at("filter").addEventListener("change", () => {
    page = 0;
    selected.clear();
    visited.length = 0;
    if (isOpen("grid")) drawGrid();
    else show(first());
    at("filter").blur();
    refresh();
  });
  let waiting = 0;
  at("contrast").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(reload, 40);
  });
  at("who").addEventListener("change", () => { localStorage.setItem("who", who()); refresh(); });
  const stage = at("stage");
  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    const box = stage.getBoundingClientRect();
    zoom(event.deltaY < 0 ? 1.2 : 1 / 1.2, event.clientX - box.left - box.width / 2, event.clientY - box.top - box.height / 2);
  }, { passive: false });
  let dragged = null;
  stage.addEventListener("pointerdown", (event) => {
    dragged = { x: event.clientX, y: event.clientY };
    stage.setPointerCapture(event.pointerId);
  });
  stage.addEventListener("pointermove", (event) => {
    if (!dragged) return;
    move(event.clientX - dragged.x, event.clientY - dragged.y);
    dragged = { x: event.clientX, y: event.clientY };
  });
  stage.addEventListener("pointerup", () => { dragged = null; });
  new ResizeObserver(place).observe(stage);
}

let polling = 0;

async function start() {
  wire();
  try {
    project = await ask("/api/project");
    at("folder").textContent = `· ${project.folder}`;
    at("table").textContent = project.table;
    at("table").title = project.table;
    at("who").value = localStorage.getItem("who") || project.who;
    project.kinds.slice(0, 9).forEach((kind, number) => {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "label artifact";
      button.dataset.label = "artifact";
      button.dataset.kind = kind;
      button.innerHTML = `<kbd>${number + 1}</kbd> `;
      button.append(kind);
      button.addEventListener("click", () => decide("artifact", kind));
      at("kinds").append(button);
    });
    takeNews(await ask("/api/images", { since: -1, who: who(), window: windowName, showing: "" }));
    if ((await ask("/api/model")).guesses) sortByDoubt();
    await show(first());
    await poll(); // tells other windows what is shown here
    if (document.activeElement === document.body) at("stage").focus(); // who was faster keeps the focus
    await lookAtModel();
    polling = setInterval(poll, POLL_MS);
  } catch (error) {
    banner(error.message);
  }
}

start();
