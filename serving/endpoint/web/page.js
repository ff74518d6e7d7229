"use strict";
const $ = id => document.getElementById(id);
// light that is added: every pair differs for every kind of colour vision, one channel alone is grey
const COLOURS = { 1: ["#ffffff"], 2: ["#ff40ff", "#00e060"], 3: ["#ff40c0", "#00d0ff", "#ffe000"] };
// many channels lie on each other: each is darker, or all of it would be white
const MANY = ["#0060c0", "#a08800", "#a02868", "#009068", "#a84800", "#6838a8", "#808080"];
const VOICES = ["encoder", "twin", "control"];
// as the command line says it
const CONFOUNDED = "Plate layout alone does better: the task supports no conclusion.";
let models = [];

// what is asked for ends what was asked for before: an earlier answer that comes late would stand under another image, or another model's name
function turns() {
  let current = new AbortController();
  return () => {
    current.abort();
    current = new AbortController();
    return current.signal;
  };
}
const nextReading = turns(), nextStart = turns();

// ---------------------------------------------------------------- the service

function headers() {
  return $("token").value ? { Authorization: `Bearer ${$("token").value}` } : {};
}

async function ask(path, signal, body) {
  let response;
  try {
    response = await fetch(path, { signal, headers: headers(), ...(body === undefined ? {} : { method: "POST", body }) });
  } catch (error) {
    signal.throwIfAborted();
    throw new Error(`No answer from the service (${error.message}).`);
  }
  if (response.status === 401) $("token-label").hidden = false;
  if (!response.ok) throw new Error((await response.json().catch(() => ({}))).error ?? `The service answered ${response.status}.`);
  return response;
}

const inJson = async (path, signal, body) => (await ask(path, signal, body)).json();

// ---------------------------------------------------------------- small things

function make(tag, text, attributes = {}) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

function say(message, error = false) {
  $("state").textContent = message;
  $("state").className = error ? "error" : "";
}

const percent = value => (100 * value).toFixed(1) + " %";
const score = value => value === null || value === undefined ? "–" : value.toFixed(3);
const chosen = () => models.find(model => model.name === $("model").value);

// ---------------------------------------------------------------- the image in false colour

/** Shows the image; gives what outlines one tile in it. */
async function showPicture(found, signal) {
  const images = await Promise.all(found.channels.map(async channel => {
    const image = new Image();
    image.src = channel.png;
    await image.decode();
    return image;
  }));
  signal.throwIfAborted();
  let outlined = null;
  const rgb = found.channels.map(channel => channel.name).join() === "red,green,blue";
  const palette = rgb ? ["#ff0000", "#00ff00", "#0000ff"] : COLOURS[images.length] ?? MANY;
  const canvas = $("canvas"), [first] = images;
  canvas.width = first.naturalWidth;
  canvas.height = first.naturalHeight;
  const boxes = found.channels.map((channel, i) => {
    const label = make("label"), box = make("input", undefined, { type: "checkbox" }), swatch = make("span", undefined, { class: "swatch" });
    box.checked = true;
    box.addEventListener("change", draw);
    swatch.style.background = palette[i % palette.length];
    label.append(box, swatch, make("span", channel.name));
    return [label, box];
  });
  function draw() {
    const shown = boxes.flatMap(([, box], i) => box.checked ? [i] : []), context = canvas.getContext("2d");
    context.globalCompositeOperation = "source-over";
    context.fillStyle = "#000";
    context.fillRect(0, 0, canvas.width, canvas.height);
    for (const i of shown) {
      const layer = make("canvas"), light = layer.getContext("2d");
      [layer.width, layer.height] = [canvas.width, canvas.height];
      light.drawImage(images[i], 0, 0);
      light.globalCompositeOperation = "multiply";
      light.fillStyle = shown.length === 1 && !rgb ? "#ffffff" : palette[i % palette.length];
      light.fillRect(0, 0, layer.width, layer.height);
      context.globalCompositeOperation = "lighter";
      context.drawImage(layer, 0, 0);
    }
    if (outlined) {
      const scale = canvas.width / found.width;
      context.globalCompositeOperation = "source-over";
      context.strokeStyle = "#ffffff";
      context.lineWidth = 2;
      context.strokeRect(outlined.x * scale + 1, outlined.y * scale + 1, outlined.width * scale - 2, outlined.height * scale - 2);
    }
    canvas.setAttribute("aria-label", `The image in false colour: ${shown.map(i => found.channels[i].name).join(", ") || "no channel"}`);
  }
  $("channels").replaceChildren(make("legend", rgb ? "Channels" : "Channels, each stretched to what is in it"), ...boxes.map(([label]) => label));
  $("size").textContent = `${found.height} x ${found.width} pixels (y, x). `
    + found.channels.map(channel => `${channel.name} ${Math.round(channel.low)} to ${Math.round(channel.high)}`).join(", ") + ".";
  draw();
  return tile => {
    outlined = tile;
    draw();
  };
}

// ---------------------------------------------------------------- the reading

function bars(task) {
  const voices = VOICES.map(kind => [kind, task[kind]]).filter(([, opinion]) => opinion), parts = [];
  const key = make("div", undefined, { class: "key" });
  for (const [kind, opinion] of voices) {
    const known = opinion.benchmark_score === null ? "" : `, ${score(opinion.benchmark_score)} on the benchmark`;
    key.append(make("span", `${opinion.row} (${kind}${known})`));
  }
  parts.push(key);
  const labels = Object.keys(task.encoder.probabilities);
  const most = label => Math.max(...voices.map(([, opinion]) => opinion.probabilities[label] ?? 0));
  const shown = labels.length > 6 ? [...labels].sort((a, b) => most(b) - most(a)) : labels;
  const lines = shown.map(label => {
    const group = make("div");
    group.append(make("h4", label));
    for (const [kind, opinion] of voices) {
      const value = opinion.probabilities[label] ?? 0, line = make("div", undefined, { class: `voice ${kind}` });
      const bar = make("div", undefined, { class: "bar", "aria-hidden": "true" }), fill = make("div");
      fill.style.width = `${100 * value}%`;
      bar.append(fill);
      line.append(make("span", kind), bar, make("span", percent(value), { class: "number" }));
      group.append(line);
    }
    return group;
  });
  parts.push(...lines.slice(0, 6));
  if (lines.length > 6) {
    const rest = make("details");
    rest.append(make("summary", `${lines.length - 6} less probable labels`), ...lines.slice(6));
    parts.push(rest);
  }
  return parts;
}

function nearest(reading) {
  if (!reading.nearest?.length) return [];
  const list = make("ul", undefined, { id: "nearest" });
  for (const one of reading.nearest) {
    const item = make("li"), labels = Object.entries(one.labels).map(([task, label]) => `${task}: ${label}`).join(", ");
    if (one.thumbnail) item.append(make("img", undefined, { src: one.thumbnail, alt: `Training image ${one.image_id}` }));
    item.append(make("div", labels || "no label"), make("div", `${one.image_id}, at ${one.distance.toFixed(2)}`, { class: "soft" }));
    list.append(item);
  }
  return [make("h3", "Nearest training images"), list, ...(reading.thumbnails ? [make("p", reading.thumbnails, { class: "soft" })] : [])];
}

function showReading(reading, name) {
  const { tile } = reading, title = `${name}${tile ? `, tile at ${tile.y}, ${tile.x}` : ""}, read by ${reading.model.name}`;
  const parts = [make("h2", title, { id: "reading-title" })];
  if (reading.model.evidence.startsWith("stale")) parts.push(make("p", "Scores and verdicts are " + reading.model.evidence, { class: "warning" }));
  for (const warning of reading.warnings) parts.push(make("p", warning, { class: "warning" }));
  if (reading.distance) parts.push(make("p", reading.distance.sentence, { class: reading.distance.unlike ? "warning" : "" }));
  for (const task of reading.tasks) {
    const section = make("section", undefined, { class: "task" });
    section.append(make("h3", task.task), make("p", task.question, { class: "soft" }), ...bars(task));
    if (task.verdict) section.append(make("p", task.verdict.sentence, { class: "verdict" }));
    if (task.verdict?.confounded) section.append(make("p", CONFOUNDED, { class: "warning" }));
    for (const control of task.unservable) {
      const known = control.benchmark_score === null ? "" : ` (${score(control.benchmark_score)} on the benchmark)`;
      section.append(make("p", `${control.name}${known} is not computed here: ${control.reason}`, { class: "soft" }));
    }
    parts.push(section);
  }
  parts.push(...nearest(reading));
  for (const note of reading.notes) parts.push(make("p", note, { class: "soft" }));
  const whole = make("details");
  whole.append(make("summary", `Embedding of ${reading.embedding.length} numbers, and the whole answer`), make("pre", JSON.stringify(reading, null, 1)));
  $("reading").replaceChildren(...parts, whole);
  say(`${title}.`);
}

function showTiles(images, name, outline) {
  const buttons = images.map((one, i) => {
    const tile = one.answer?.tile, button = make("button", tile ? `${tile.y}, ${tile.x}` : `${i}`, { type: "button", "aria-pressed": "false" });
    button.addEventListener("click", () => {
      for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
      outline(tile);
      if (one.answer) return showReading(one.answer, name);
      $("reading").replaceChildren();
      say(one.error.error, true);
    });
    return button;
  });
  $("tiles").replaceChildren(make("p", `${images.length} tiles, by their upper left corner (y, x):`), ...buttons);
  buttons[0]?.click();
}

/** Takes away what was read and ends what is being read; gives the signal of what comes next. */
function clear() {
  const signal = nextReading();
  say("");
  $("result").hidden = true;
  $("whose").textContent = "";
  $("tiles").replaceChildren();
  $("reading").replaceChildren();
  return signal;
}

/** Reads what `fetched` gives, under the name of its file. */
async function read(name, fetched) {
  const query = `model=${encodeURIComponent($("model").value)}`, field = $("field").value, signal = clear();
  say(`Reading ${name} ...`);
  try {
    const body = await fetched(query, signal);
    const found = await inJson(`v1/channels?${query}`, signal, body);
    const outline = await showPicture(found, signal);
    $("result").hidden = false;
    const answer = await inJson(`v1/score?${query}&field=${field}`, signal, body);
    signal.throwIfAborted();
    answer.images ? showTiles(answer.images, name, outline) : showReading(answer, name);
  } catch (error) {
    if (!signal.aborted) say(error.message, true);
  }
}

const readFile = file => read(file.name, () => file);

// ---------------------------------------------------------------- what is served

function showExpected() {
  const { image } = chosen(), size = image.pixel_size_um ? `, ${image.pixel_size_um} µm per pixel` : "";
  $("takes").textContent = `Takes ${image.formats.join(", ")}: ${image.channels.length} channels (${image.channels.join(", ")}), `
    + `${image.height} x ${image.width} pixels (y, x)${image.resize === "linear" ? ", other sizes are resampled" : ""}, ${image.dtype}${size}.`;
}

async function showBoard(signal) {
  const lines = [], heads = [...$("board").tHead.rows[0].cells].map(head => head.textContent);
  for (const { name } of models) {
    const page = await inJson(`v1/models/${encodeURIComponent(name)}`, signal), facts = page.model;
    const tasks = page.scorecard.tasks.length ? page.scorecard.tasks : [null];
    for (const task of tasks) {
      const best = roles => task && Math.max(...task.comparisons.filter(c => roles.includes(c.role)).map(c => c.control_value).filter(Number.isFinite));
      const known = value => Number.isFinite(value) ? score(value) : "–";
      const line = make("tr", "", { role: "row" });
      line.append(make("td", name), make("td", facts.benchmark), make("td", task?.task ?? "–"));
      for (const value of [task?.value, best(["twin"]), best(["negative"])]) line.append(make("td", known(value), { class: "number" }));
      const judged = make("td", task?.sentence ?? "a control: nothing to be judged", { class: "sentence" });
      if (task?.confounded) judged.append(make("p", CONFOUNDED, { class: "warning" }));
      line.append(judged, make("td", facts.evidence));
      // where there is no room for columns each cell says its own, and the roles stay what they are
      for (const [i, cell] of [...line.cells].entries()) {
        cell.dataset.head = heads[i];
        cell.setAttribute("role", "cell");
      }
      lines.push(line);
    }
  }
  signal.throwIfAborted();
  $("board").tBodies[0].replaceChildren(...lines);
}

function showOperations(document) {
  const parts = [];
  for (const [path, methods] of Object.entries(document.paths)) for (const [method, operation] of Object.entries(methods)) {
    const source = operation["x-codeSamples"]?.[0]?.source.replaceAll(document.servers[0].url, location.origin);
    const block = make("details");
    block.append(make("summary", `${method.toUpperCase()} ${path}`), make("p", operation.description));
    if (source) block.append(make("pre", source, { tabindex: "0" }));
    parts.push(block);
  }
  $("operations").replaceChildren(...parts);
  // a followed link carries no token: the document that came with it is given instead
  URL.revokeObjectURL($("document").href);
  if ($("token").value) $("document").href = URL.createObjectURL(new Blob([JSON.stringify(document, null, 1)], { type: "application/json" }));
  else $("document").href = "openapi.json";
}

async function start() {
  const signal = nextStart();
  clear();
  try {
    const served = (await inJson("v1/models", signal)).models;
    signal.throwIfAborted();
    models = served;
    $("model").replaceChildren(...models.map(model => make("option", model.name, { value: model.name })));
    showExpected();
    await showBoard(signal);
    const document = await inJson("openapi.json", signal);
    signal.throwIfAborted();
    showOperations(document);
  } catch (error) {
    if (!signal.aborted) say(error.message, true);
  }
}

$("token").addEventListener("change", start);
$("model").addEventListener("change", () => {
  // what stands there was said by another model
  clear();
  showExpected();
});
// or of another file
$("file").addEventListener("change", clear);
$("form").addEventListener("submit", event => {
  event.preventDefault();
  const file = $("file").files[0];
  file ? readFile(file) : say("Choose an image file first, or read an example image.", true);
});
$("example").addEventListener("click", () => {
  read("Example image", async (query, signal) => {
    const response = await ask(`v1/example?${query}`, signal), body = await response.blob();
    signal.throwIfAborted();
    // the image is of others: whose, and under which licence, stands under it
    $("whose").textContent = JSON.parse(response.headers.get("X-Attribution") ?? '""');
    return body;
  });
});
for (const name of ["dragover", "dragleave", "drop"]) $("drop").addEventListener(name, event => {
  event.preventDefault();
  $("drop").classList.toggle("over", name === "dragover");
  const [file] = name === "drop" ? event.dataTransfer.files : [];
  if (!file) return;
  $("file").files = event.dataTransfer.files;
  readFile(file);
});
start();
