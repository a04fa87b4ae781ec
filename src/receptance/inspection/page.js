"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const count = data.tokens.length;
const byId = (id) => document.getElementById(id);
const tokens = [...document.querySelectorAll(".t")]; // one for each prediction: the last is what comes next
const dark = matchMedia("screen and (prefers-color-scheme: dark)");
const NAT_IN_BITS = Math.LOG2E;
let chosen = null; // the prediction that was chosen to stay
let seen = null; // the one that is shown: what is pointed at, or the chosen one

document.documentElement.classList.add("live");

// Scales: a number to a place from 0 to 1.
const scales = {
  surprise: (nats) => Math.min(1, (nats * NAT_IN_BITS) / 14),
  divergence: (nats) => Math.min(1, Math.max(0, (Math.log10(nats) + 3) / 4)), // 0.001 to 10 nats
  gain: (nats) => Math.min(1, Math.sqrt(Math.abs(nats) / 6)),
  weight: (nats) => Math.min(1, Math.max(0, (Math.log10(nats) + 2) / 4)), // 0.01 to 100 nats
  changes: (share) => Math.min(1, share / 1.5),
  norms: (share) => share,
};

// What a token moves in all that follows, but the prediction just after it, which rests on it more than on any other.
const weights = data.tokens.map((_, i) => data.divergence.slice(i + 2).reduce((sum, row) => sum + (row[i] ?? 0), 0));

// Colours: the mixture of the page with a scale's end, in OKLab as the style sheet mixes it, as RGB from 0 to 255.
function oklab(name) {
  const [lightness, chroma, hue] = getComputedStyle(document.documentElement).getPropertyValue(name).trim().split(/\s+/).map(Number);
  return [lightness, chroma * Math.cos((hue * Math.PI) / 180), chroma * Math.sin((hue * Math.PI) / 180)];
}
function rgb([L, a, b]) {
  const l = (L + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (L - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (L - 0.0894841775 * a - 1.291485548 * b) ** 3;
  return [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ].map((linear) => {
    const x = Math.min(1, Math.max(0, linear));
    return Math.round(255 * (x <= 0.0031308 ? 12.92 * x : 1.055 * x ** (1 / 2.4) - 0.055));
  });
}
function ramp(end) {
  const from = oklab("--paper"), to = oklab(end);
  return (t) => rgb(from.map((value, i) => value + t * (to[i] - value)));
}

// Numbers and words as a reader wants them.
function digits(value, figures = 2) {
  if (value === null) return "–";
  if (value >= 1000) return Math.round(value).toLocaleString("en");
  return value > 0 && value < 0.001 ? "< 0.001" : String(Number(value.toPrecision(figures)));
}
function percent(p) {
  if (p >= 0.9995) return "> 99.9 %";
  return p >= 0.001 ? `${digits(100 * p, p >= 0.1 ? 3 : 2)} %` : `1 in ${digits(1 / p, 2)}`;
}
function ordinal(n) {
  const ending = n % 100 >= 11 && n % 100 <= 13 ? "th" : ["th", "st", "nd", "rd"][n % 10] || "th";
  return `${n.toLocaleString("en")}${ending}`;
}
const visible = (text) => text.replace(/\n/g, "↵").replace(/\t/g, "⇥").replace(/ /g, "·");
const nameOf = (j) => (j < count ? `“${visible(data.tokens[j].text)}”` : "what comes next");
function times(nats) {
  const factor = Math.exp(nats ?? 0);
  return factor > 1000 ? "> ×1000" : `×${digits(factor)}`;
}

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

// The text.
function paint() {
  const field = document.querySelector("[name=chosen]:checked").value;
  const rest = document.querySelector("[name=rest]:checked").value;
  tokens.forEach((token, i) => {
    let place = 0, blue = false;
    if (seen === null) {
      blue = rest === "weight";
      const value = i < count ? (blue ? weights[i] : data.surprisal[i]) : null;
      place = value === null ? 0 : scales[rest](value);
    } else {
      const value = i < seen ? ((data[field][seen] || [])[i] ?? null) : null;
      blue = field === "divergence" || value >= 0;
      place = value === null ? 0 : scales[field](value);
    }
    token.style.setProperty("--s", place.toFixed(3));
    token.classList.toggle("blue", blue);
    token.classList.toggle("deep", place > 0.62);
    token.classList.toggle("chosen", i === seen);
    token.setAttribute("aria-selected", String(i === seen));
  });
  legend(seen === null ? rest : field);
}
function legend(kind, into = "legend") {
  const ends = {
    surprise: ["--surprise", "expected", "14 bits of surprise"],
    weight: ["--influence", "moves what follows by 0.01 nats", "100 nats"],
    divergence: ["--influence", "moved it by 0.001 nats", "10 nats"],
    gain: [null, "less likely by 6 nats", "likelier by 6 nats"],
    changes: ["--influence", "kept", "made anew"],
    norms: ["--influence", "empty", "as large as ever"],
  }[kind];
  const strip = make("span", { className: "ramp" });
  for (let i = 0; i <= 40; i++) {
    const t = i / 40;
    const [end, place] = ends[0] ? [ends[0], t] : [t < 0.5 ? "--surprise" : "--influence", Math.abs(2 * t - 1)];
    strip.append(make("i", { style: `background: rgb(${ramp(end)(place)})` }));
  }
  byId(into).replaceChildren(make("span", { textContent: ends[1] }), strip, make("span", { textContent: ends[2] }));
}

// The panel: what was expected, and what that rested on.
function bars(rows) {
  return make("ul", { className: "bars" }, ...rows.map((row) => {
    const bar = make("div", { className: `bar ${row.blue ? "blue" : ""}`, style: `width: ${(100 * row.part).toFixed(1)}%` });
    const name = make("span", { className: "name" }, ...row.name);
    name.title = name.textContent;
    return make("li", { className: row.came ? "came" : "" }, name, make("div", {}, bar), make("span", { className: "value", textContent: row.value }));
  }));
}
function describe() {
  const panel = byId("panel");
  panel.classList.toggle("open", seen !== null);
  if (seen === null) {
    const strongest = data.tokens.map((_, i) => i).sort((a, b) => weights[b] - weights[a]).slice(0, 5);
    const surprising = data.tokens.map((_, i) => i).filter((i) => data.surprisal[i] !== null).sort((a, b) => data.surprisal[b] - data.surprisal[a]).slice(0, 5);
    panel.replaceChildren(
      make("p", { className: "big", textContent: "The whole text" }),
      make("h3", { textContent: "Least expected, in bits" }),
      bars(surprising.map((i) => ({ name: inContext(i), part: data.surprisal[i] / data.surprisal[surprising[0]], value: digits(data.surprisal[i] * NAT_IN_BITS, 3) }))),
      make("h3", { textContent: "What the rest hangs on most, in nats" }),
      bars(strongest.map((i) => ({ name: inContext(i), blue: true, part: weights[i] / (weights[strongest[0]] || 1), value: digits(weights[i]) }))),
    );
    return;
  }
  const parts = [make("div", { className: "word", textContent: seen < count ? visible(data.tokens[seen].text) : "what comes next" })];
  if (seen < count && data.surprisal[seen] !== null) {
    const nats = data.surprisal[seen], rank = data.rank[seen];
    parts.push(make("p", { className: "big", textContent: `${percent(Math.exp(-nats))}, the ${rank === 1 ? "first" : ordinal(rank)} choice` }));
    parts.push(make("p", { className: "faint", textContent: `${digits(nats * NAT_IN_BITS)} bits of surprise` }));
  }
  const expected = data.likeliest[seen];
  if (expected === null) parts.push(make("p", { className: "faint", textContent: "Nothing comes before it, so nothing was expected." }));
  else {
    parts.push(make("h3", { textContent: "What was expected" }));
    parts.push(bars(expected.map((each) => ({
      name: [visible(each.text)], part: each.probability, value: percent(each.probability), came: seen < count && each.id === data.tokens[seen].id,
    }))));
  }
  const row = data.divergence[seen].map((value, i) => ({ value, i })).filter((each) => each.value !== null);
  if (row.length) {
    row.sort((a, b) => b.value - a.value);
    parts.push(make("h3", { textContent: seen < count ? "What it rests on: nats, and how much likelier" : "What it rests on, in nats" }));
    parts.push(bars(row.slice(0, 6).map(({ value, i }) => ({
      name: inContext(i), blue: true, part: value / (row[0].value || 1),
      value: seen < count ? `${digits(value)}  ${times(data.gain[seen][i])}` : digits(value),
    }))));
  }
  panel.replaceChildren(...parts);
}
function inContext(i) {
  const own = visible(data.tokens[i].text);
  let before = "";
  for (let k = i - 1; k >= 0 && before.length + own.length < 8; k--) before = visible(data.tokens[k].text) + before;
  return [make("span", { className: "faint", textContent: before }), make("b", { textContent: own })];
}

function show(j) {
  if (j === seen) return;
  seen = j;
  paint();
  describe();
}
function choose(j, focus = false) {
  chosen = j;
  show(j);
  tokens.forEach((token, i) => (token.tabIndex = i === j ? 0 : -1));
  byId("text").tabIndex = j === null ? 0 : -1;
  if (j !== null && focus) tokens[j].focus({ preventScroll: false });
}
const text = byId("text");
const indexOf = (event) => {
  const token = event.target.closest(".t");
  return token ? tokens.indexOf(token) : null;
};
text.addEventListener("pointerover", (event) => {
  const j = indexOf(event);
  if (event.pointerType === "mouse" && j !== null) show(j);
});
text.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && show(chosen));
text.addEventListener("click", (event) => {
  const j = indexOf(event);
  if (j !== null) choose(j === chosen ? null : j, j !== chosen);
});
text.addEventListener("keydown", (event) => {
  const from = chosen ?? -1;
  const to = { ArrowRight: from + 1, ArrowDown: from + 10, ArrowLeft: from - 1, ArrowUp: from - 10, Home: 0, End: tokens.length - 1 }[event.key];
  if (event.key === "Escape") choose(null), text.focus();
  else if (to !== undefined) choose(Math.min(tokens.length - 1, Math.max(0, to)), true);
  else return;
  event.preventDefault();
});
document.querySelectorAll("[name=rest], [name=chosen]").forEach((input) => input.addEventListener("change", paint));

// Maps: a pixel of the canvas for each cell, which the style sheet enlarges.
function fill(canvas, width, height, colourOf) {
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d"), image = context.createImageData(width, height);
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) {
      const colour = colourOf(x, y);
      if (colour) image.data.set([...colour, 255], 4 * (y * width + x));
    }
  context.putImageData(image, 0, 0);
}
function cell(canvas, event) {
  const box = canvas.getBoundingClientRect();
  const at = (position, size, cells) => Math.min(cells - 1, Math.max(0, Math.floor((position / size) * cells)));
  return [at(event.clientX - box.left, box.width, canvas.width), at(event.clientY - box.top, box.height, canvas.height)];
}
function drawMap() {
  const colour = ramp("--influence");
  fill(byId("map"), count, count, (i, y) => {
    const value = data.divergence[y + 1][i] ?? null;
    return value === null ? null : colour(scales.divergence(value));
  });
  const strip = make("span", { className: "ramp" });
  for (let i = 0; i <= 40; i++) strip.append(make("i", { style: `background: rgb(${colour(i / 40)})` }));
  const ticks = ["0.001", "0.01", "0.1", "1", "10 nats"].map((textContent) => make("span", { textContent }));
  byId("map-legend").replaceChildren(strip, make("div", { className: "ticks" }, ...ticks));
}
byId("map").addEventListener("pointermove", (event) => {
  const [i, y] = cell(byId("map"), event), j = y + 1;
  if (i >= j) return;
  const gain = (data.gain[j] || [])[i] ?? null;
  const read = `${nameOf(j)} without ${nameOf(i)}, ${j - i} back: ${digits(data.divergence[j][i])} nats`;
  byId("map-read").textContent = gain === null ? `${read}.` : `${read}; with it ${times(gain)} as likely.`;
});
byId("map").addEventListener("click", (event) => {
  choose(cell(byId("map"), event)[1] + 1);
  text.scrollIntoView({ block: "nearest", behavior: "smooth" });
});

function drawMemory() {
  const field = document.querySelector("[name=memory]:checked").value;
  const layers = data[field], height = layers.length;
  const colour = ramp("--influence");
  const most = layers.map((layer) => Math.max(...layer) || 1);
  const canvas = byId("memory");
  fill(canvas, count, height, (t, y) => colour(scales[field](field === "changes" ? layers[y][t] : layers[y][t] / most[y])));
  legend(field, "memory-legend");
  canvas.style.height = `${Math.max(10, Math.min(22, 420 / height)) * height}px`;
  byId("memory-lead").textContent = field === "changes"
    ? "Each row is a layer, each column a token: how much of the memory the token changed."
    : "Each row is a layer, each column a token: how large the memory is, as a share of the largest in the layer.";
  const step = Math.ceil(height / 24);
  byId("memory-layers").replaceChildren(...layers.map((_, y) => make("span", { textContent: y % step ? "" : String(y) })));
  byId("memory-layers").style.height = canvas.style.height;
  byId("memory-read").textContent = "Point at a cell to read it.";
}
byId("memory").addEventListener("pointermove", (event) => {
  const [t, layer] = cell(byId("memory"), event);
  byId("memory-read").textContent =
    `Layer ${layer} at ${nameOf(t)}: size ${digits(data.norms[layer][t], 3)}, ${digits(100 * data.changes[layer][t])} % of it changed.`;
});
document.querySelectorAll("[name=memory]").forEach((input) => input.addEventListener("change", drawMemory));

function draw() {
  paint();
  describe();
  drawMap();
  drawMemory();
}
dark.addEventListener("change", draw);
matchMedia("print").addEventListener("change", draw);
draw();
