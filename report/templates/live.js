"use strict";
// The live page: what is typed goes to the model (a worker in this file, or the server), what it answers is drawn.
// Texts and names are set as text, so that no sign in them can become markup.
let worker = null; // the model; null on a page of serve.py
{
const data = JSON.parse(document.getElementById("data").textContent);
const kinds = "abcdefgh", at = (id) => document.getElementById(id);
const percent = (p) => (100 * p).toFixed(1) + " %";
const short = (text, most) => [...visible(text)].slice(0, most).join("") + ([...visible(text)].length > most ? "…" : "");
const visible = (text) => text.replace(/^ (?=.)/, "").replace(/^\s*$/, "\u2423");
let turn = 0, answer = null, shares = [], here = null, head = 0, started = performance.now();

function make(tag, kind, text) {
  const element = document.createElement(tag);
  if (kind) element.className = kind;
  if (text !== undefined) element.textContent = text;
  return element;
}

function draw(tag, attributes, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

// --- The model: in a worker of this page, or behind it.
function receive(message) {
  if (message.failed) return say("This page failed: " + message.failed, true);
  if (message.ready) return ask();
  if (message.checked) return showCheck(message.checked);
  if (message.turn !== turn) return;
  if (message.answer) {
    answer = message.answer;
    shares = answer.words.map(() => null);
    here = null;
    show();
  }
  if (message.shares) { shares = message.shares; showWords(); }
  if (message.guesses) showGuesses(message.guesses);
}

async function post(path, sent) {
  try {
    const reply = await fetch(path, { method: "POST", headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ text: at("text").value }) });
    const content = await reply.json();
    if (sent === turn) receive(reply.ok ? { turn: sent, ...content } : { failed: content.error });
    return reply.ok;
  } catch {
    if (sent === turn) say("The server does not answer. Is serve.py still running?", true);
    return false;
  }
}

let waiting = false; // one question at a time; what was typed meanwhile is asked next
async function askServer() {
  if (waiting) return;
  waiting = true;
  for (let asked = null; asked !== turn;) {
    asked = turn;
    if (await post("predict", asked) && asked === turn) await post("explain", asked);
  }
  waiting = false;
}

function ask() {
  turn++;
  started = performance.now();
  if (worker) worker.postMessage({ turn, text: at("text").value });
  else askServer();
}

function say(text, bad = false) {
  at("state").textContent = text;
  at("state").classList.toggle("bad", bad);
}

// --- What is shown.
function show() {
  const cut = answer.tokens - answer.read, tokens = (n) => n + (n === 1 ? " token" : " tokens");
  say((answer.tokens ? tokens(answer.read) + " read" : "nothing to read: this is what the model says of an empty text") +
    (cut > 0 ? `, ${cut} cut off at the ${data.keepEnd ? "beginning" : "end"}: this model reads ${data.maxLength}` : "") +
    ` · ${Math.round(performance.now() - started)} ms`);
  showBars();
  showChart();
  showWords();
  showHeads();
}

const best = (row) => row.indexOf(Math.max(...row));
const now = () => (here === null ? answer.probabilities : answer.steps[here]);

data.names.forEach((name, label) => {
  const row = make("div", "name"), track = make("div", "track");
  const line = draw("svg", { class: "swatch", viewBox: "0 0 24 12", "aria-hidden": "true" });
  line.append(draw("path", { class: "line " + kinds[label % 8], d: "M0 6H24" }));
  row.append(line, make("span", "", name));
  track.append(make("div", "bar " + kinds[label % 8]));
  at("bars").append(row, track, make("div", "value", "…"));
});

function showBars() {
  const p = now(), cells = at("bars").children, first = best(p);
  p.forEach((value, label) => {
    cells[3 * label].classList.toggle("first", label === first);
    cells[3 * label + 1].firstChild.style.width = 100 * value + "%";
    cells[3 * label + 2].classList.toggle("first", label === first);
    cells[3 * label + 2].textContent = percent(value);
  });
  at("when").textContent = here === null ? "After the whole text." : `After “${visible(answer.words[here])}”.`;
}

const LEFT = 42; // pixels for the scale
function showChart() {
  const width = Math.max(260, at("chart").clientWidth), height = 190, left = LEFT, top = 8, bottom = 22;
  const steps = answer.steps, x = (i) => left + (steps.length < 2 ? 0.5 : i / (steps.length - 1)) * (width - left - 12);
  const y = (p) => top + (1 - p) * (height - top - bottom);
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img",
    "aria-label": "probability of each label after each word" });
  for (const p of [0, 0.5, 1]) {
    svg.append(draw("path", { class: "grid", d: `M${left} ${y(p)}H${width - 12}` }),
      draw("text", { class: "y", x: left - 6, y: y(p) + 4 }, 100 * p + "%"));
  }
  data.names.forEach((_, label) => {
    const points = steps.map((row, i) => `${x(i).toFixed(1)} ${y(row[label]).toFixed(1)}`);
    if (points.length === 1) points.push(`${x(0) + 0.1} ${y(steps[0][label])}`);
    if (points.length) svg.append(draw("path", { class: "line " + kinds[label % 8], d: "M" + points.join("L") }));
  });
  if (steps.length) {
    const last = steps.length - 1, shown = [...new Set([0, here ?? last, last])];
    for (const i of shown) {
      const anchor = last === 0 ? "middle" : i === 0 ? "start" : i === last ? "end" : "middle";
      if (i !== here && here !== null && Math.abs(x(i) - x(here)) < 110) continue;
      svg.append(draw("text", { x: x(i), y: height - 4, "text-anchor": anchor }, short(answer.words[i], 14)));
    }
    if (here !== null) svg.append(draw("path", { class: "here", d: `M${x(here)} ${top}V${height - bottom}` }));
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect(), place = (event.clientX - box.left) / box.width * width - left;
      point(Math.max(0, Math.min(last, Math.round(place / (width - left - 12) * last))));
    });
    svg.addEventListener("pointerleave", () => point(null));
  }
  at("chart").replaceChildren(svg);
}

// Look at what the model thought after one word; null: after the last.
function point(word) {
  if (word === here) return;
  here = word;
  showBars();
  [...at("words").children].forEach((button, i) => button.classList.toggle("here", i === here));
  at("share").textContent = here === null ? "Point at a word." : shares[here] === null ? "…" :
    `“${visible(answer.words[here])}”: ${points(shares[here])}`;
  const mark = at("chart").querySelector(".here"), events = at("chart").firstChild;
  if (mark) mark.remove();
  if (here !== null && events) {
    const box = events.viewBox.baseVal, last = answer.steps.length - 1;
    const x = LEFT + (last < 1 ? 0.5 : here / last) * (box.width - LEFT - 12);
    events.append(draw("path", { class: "here", d: `M${x} 8V168` }));
  }
}

const points = (share) => (share >= 0 ? "+" : "\u2212") + Math.abs(100 * share).toFixed(1) + " percentage points";

function showWords() {
  const label = best(answer.probabilities), most = Math.max(0.02, ...shares.map((share) => Math.abs(share ?? 0)));
  at("shares-lead").textContent = answer.words.length
    ? `What each word adds to the probability of “${data.names[label]}”. Underlined: speaks for it; dotted: against.` : "";
  const buttons = answer.words.map((word, i) => {
    const button = make("button", "", visible(word)), share = shares[i];
    button.type = "button";
    if (share !== null) {
      const side = share >= 0 ? "for" : "against", strength = Math.abs(share) / most;
      if (strength > 0.08) button.className = side;
      button.style.backgroundColor = `rgba(var(--${side}), ${(0.5 * strength).toFixed(2)})`;
      button.title = points(share);
    }
    button.addEventListener("pointerenter", () => point(i));
    button.addEventListener("pointerleave", () => point(null));
    button.addEventListener("focus", () => point(i));
    button.addEventListener("blur", () => point(null));
    return button;
  });
  const focused = [...at("words").children].indexOf(document.activeElement);
  at("words").replaceChildren(...buttons);
  if (buttons[focused]) buttons[focused].focus({ preventScroll: true });
  else if (here !== null && buttons[here]) buttons[here].classList.add("here");
}

// --- Attention: a small map for each head, a large one for the chosen head.
const NAMES = 90; // pixels for the tokens' names
let cell = 5;
const weight = (number, t, j) => {
  const { size, maps } = answer.attention;
  return maps[(number * size + t) * size + j];
};
// names: with the token beside the last cell of each row. row: the one to mark, if any.
function paint(canvas, number, cell, names = 0, row = -1) {
  const { size, tokens } = answer.attention, style = getComputedStyle(document.documentElement);
  const sharp = names ? devicePixelRatio : 1, brush = canvas.getContext("2d");
  canvas.width = (size * cell + names) * sharp;
  canvas.height = size * cell * sharp;
  brush.scale(sharp, sharp);
  brush.font = `${Math.max(8, Math.min(13, cell))}px system-ui, "Liberation Sans", Arial, sans-serif`;
  brush.textBaseline = "middle";
  for (let t = 0; t < size; t++) {
    for (let j = 0; j <= t; j++) {
      brush.fillStyle = `rgba(${style.getPropertyValue("--shade")}, ${0.06 + 0.94 * Math.sqrt(weight(number, t, j))})`;
      brush.fillRect(j * cell, t * cell, cell, cell);
    }
    brush.fillStyle = style.getPropertyValue(t === row ? "--ink" : "--dim");
    if (names) brush.fillText(short(tokens[t], 12), (t + 1) * cell + 5, (t + 0.5) * cell + 1);
    brush.strokeStyle = style.getPropertyValue("--ink");
    if (t === row) brush.strokeRect(0.5, t * cell + 0.5, (t + 1) * cell - 1, cell - 1);
  }
}

function showHeads() {
  const map = answer.attention;
  at("heads").hidden = at("map").hidden = !map;
  if (!map) { at("look").textContent = answer.why; return; }
  head = Math.min(head, map.layers * map.heads - 1);
  at("heads").style.gridTemplateColumns = `repeat(${map.heads}, 1fr)`;
  at("heads").replaceChildren(...Array.from({ length: map.layers * map.heads }, (_, number) => {
    const button = make("button"), canvas = make("canvas");
    button.type = "button";
    button.setAttribute("aria-label", nameOf(number));
    button.setAttribute("aria-pressed", number === head);
    button.title = nameOf(number);
    button.append(canvas);
    paint(canvas, number, 2);
    button.addEventListener("click", () => {
      at("heads").children[head].setAttribute("aria-pressed", false);
      head = number;
      button.setAttribute("aria-pressed", true);
      showMap();
    });
    return button;
  }));
  showMap();
}
const nameOf = (number) => `layer ${Math.floor(number / answer.attention.heads) + 1}, ` +
  `head ${number % answer.attention.heads + 1}`;
const quote = (i) => "“" + visible(answer.attention.tokens[i]) + "”";

function showMap(t = answer.attention.size - 1) {
  const { size } = answer.attention;
  cell = Math.max(5, Math.min(26, Math.floor((at("map").parentNode.clientWidth - NAMES) / size)));
  paint(at("map"), head, cell, NAMES, t);
  at("map").style.width = size * cell + NAMES + "px";
  const order = Array.from({ length: t + 1 }, (_, j) => j).sort((a, b) => weight(head, t, b) - weight(head, t, a));
  at("look").textContent = nameOf(head) + ": " + quote(t) + " looks at " +
    order.slice(0, 3).map((j) => `${quote(j)} ${percent(weight(head, t, j))}`).join(", ") +
    (answer.read > size ? ` (the last ${size} of ${answer.read} tokens are drawn)` : "");
}
at("map").addEventListener("pointermove", (event) => {
  const box = at("map").getBoundingClientRect(), { size } = answer.attention;
  showMap(Math.max(0, Math.min(size - 1, Math.floor((event.clientY - box.top) / cell))));
});
at("map").addEventListener("pointerleave", () => showMap());

function showGuesses(guesses) {
  at("guesses").replaceChildren(...guesses.map(([token, p]) => {
    const item = make("li", "", token.startsWith(" ") ? visible(token) : "…" + visible(token));
    item.append(make("span", "tag", percent(p)));
    return item;
  }));
}

function showCheck({ difference, different, texts }) {
  const right = difference <= data.bound && !different;
  at("checked").classList.toggle("bad", !right);
  at("checked").textContent = (different ? `${different} texts are cut into other tokens here. ` : "") +
    `The largest difference of a logit, on ${texts} texts: ${difference.toExponential(1)}. ` +
    (right ? `That is rounding: ${data.precision}.` : `More than the ${data.bound} of rounding: do not trust this page.`);
}

// --- Begin.
let timer = 0;
at("text").addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(ask, 60); });
new ResizeObserver(() => { if (answer) showChart(); }).observe(at("chart"));
const repaint = () => { if (answer) { showWords(); showHeads(); } };
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
new MutationObserver(repaint).observe(document.documentElement, { attributeFilter: ["data-theme"] });
if (data.model) {
  const code = new Blob([at("model").textContent], { type: "text/javascript" });
  worker = new Worker(URL.createObjectURL(code));
  worker.onmessage = (event) => receive(event.data);
  worker.onerror = (event) => say("This page failed: " + event.message, true);
  worker.postMessage({ data: data.model, weights: at("weights").textContent.trim() });
  at("weights").remove();
  at("check").disabled = false;
  at("check").addEventListener("click", () => {
    at("checked").textContent = "checking …";
    worker.postMessage({ check: data.check });
  });
} else {
  ask();
}
}
