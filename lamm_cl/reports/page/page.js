"use strict";
const { groups, copies } = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const AVERAGE = "average over datasets", LEARNED = "learned", MOST_CLASSES = 40, MOST_CONFUSIONS = 30;
const GLYPHS = { x: "✖", circle: "●", "triangle-up": "▲", square: "■", cross: "✚", diamond: "◆", "triangle-down": "▼", star: "★", "triangle-left": "◀", "triangle-right": "▶", "diamond-tall": "⬧", pentagon: "⬟", hexagon: "⬢", octagon: "⯃" };
const state = { group: 0, place: 0, space: null, curve: LEARNED, confused: 0, hidden: new Set() };

// --- words and numbers

const group = () => groups[state.group];
const placeName = (place) => (place.average ? AVERAGE : place.key);
const fixed = (x, digits = 2) => (x === null || Number.isNaN(x) ? "–" : x.toFixed(digits).replace("-", "−"));
// plotly reads a few HTML tags and $math$; a name is never markup.
const plain = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll("$", "&#36;");

const shortened = (text, room) => (text.length > room ? `${text.slice(0, room - 1)}…` : text);

function summed(bySeed) {  // {seed: number or null} -> mean, sample deviation, seeds
  const values = Object.values(bySeed).filter((x) => x !== null);
  if (!values.length) return { mean: null, std: null, seeds: bySeed };
  const mean = values.reduce((a, b) => a + b, 0) / values.length;
  const squares = values.reduce((a, b) => a + (b - mean) ** 2, 0);
  return { mean, std: values.length > 1 ? Math.sqrt(squares / (values.length - 1)) : null, seeds: bySeed };
}
const pick = (bySeed, read) => Object.fromEntries(Object.entries(bySeed).map(([seed, value]) => [seed, read(value)]));
const written = (s) => fixed(s.mean) + (s.std === null ? "" : ` ± ${fixed(s.std)}`);
const bySeedText = (s) => Object.entries(s.seeds).map(([seed, x]) => `seed ${seed}: ${fixed(x)}`).join(", ");

// --- what is drawn: [{method, points: [{x, mean, std, seeds}]}]

function curves() {
  const g = group(), learned = state.curve === LEARNED;
  const found = (learned ? g.learned : g.accuracy)[state.space][state.place];
  return g.methods.map((method, m) => {
    const length = Math.max(0, ...Object.values(found[m]).map((each) => each.length));
    const points = Array.from({ length }, (_, i) => ({
      x: learned ? i + 1 : i,
      ...summed(pick(found[m], (each) => (learned ? each[i] : each[i][state.curve - 1] ?? null))),
    }));
    return { method, points: points.filter((point) => point.mean !== null) };
  });
}

function guessed() {  // what guessing scores: [{x, y}]
  const g = group(), learned = state.curve === LEARNED, each = g.chance[state.space][state.place][learned ? "learned" : "accuracy"];
  const points = (each ?? []).map((row, i) => ({ x: learned ? i + 1 : i, y: learned ? row : row[state.curve - 1] ?? null }));
  return points.filter((p) => p.y !== null);
}

function classes() {
  const g = group(), drops = g.drops[state.space], average = g.places[state.place].average;
  const rows = (average ? drops : [drops[state.place]]).flatMap((found, d) => found.classes.map((name, c) => ({
    name: average ? `${g.places[d].key}: ${name}` : name, experience: found.experiences[c],
    lost: g.methods.map((_, m) => summed(pick(found.lost[m], (each) => each[c]))),
  })));
  const seen = (row) => row.lost.filter((s, m) => s.mean !== null && !state.hidden.has(g.methods[m].key)).map((s) => s.mean);
  const mean = (row) => { const all = seen(row); return all.length ? all.reduce((a, b) => a + b, 0) / all.length : -Infinity; };
  return rows.filter((row) => row.lost.some((s) => s.mean !== null)).sort((a, b) => mean(b) - mean(a));
}

const fewShot = () => groups.filter((g) => g.folder === group().folder);

// --- charts

const dark = () => document.documentElement.dataset.theme === "dark";
const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const colour = (method) => (dark() ? method.dark : method.colour);
const shown = (method) => !state.hidden.has(method.key);

let printing = false;  // then charts have the width of paper, and a legend instead of the controls
function layout(changes, width = 680) {
  const axis = { gridcolor: style("--line"), zerolinecolor: style("--line"), linecolor: style("--quiet"), automargin: true, ticks: "outside" };
  const { xaxis, yaxis, ...rest } = changes;
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: printing, legend: { orientation: "h", y: -0.25 },
    width: printing ? width : undefined, autosize: !printing, margin: { l: 56, r: 16, t: 12, b: 48 },
    font: { family: "system-ui, sans-serif", size: 13, color: style("--text") }, hovermode: "closest", dragmode: false,
    hoverlabel: { bgcolor: style("--panel"), bordercolor: style("--line"), font: { color: style("--text") }, align: "left" },
    xaxis: { ...axis, ...xaxis }, yaxis: { ...axis, ...yaxis }, ...rest,
  };
}
const config = { responsive: true, displaylogo: false, displayModeBar: false };

function band(method, points) {
  const spread = points.filter((p) => p.std !== null);
  if (!spread.length) return [];
  const x = spread.map((p) => p.x);
  return [{
    x: [...x, ...x.toReversed()], fill: "toself", fillcolor: colour(method), opacity: 0.15, line: { width: 0 }, hoverinfo: "skip", mode: "lines", showlegend: false,
    y: [...spread.map((p) => p.mean + p.std), ...spread.toReversed().map((p) => p.mean - p.std)],
  }];
}

function line(method, points, text) {
  return {
    x: points.map((p) => p.x), y: points.map((p) => p.mean), name: plain(method.name), mode: "lines+markers", meta: method.key,
    line: { color: colour(method), width: 2.5 }, marker: { symbol: method.symbol, size: 8, color: colour(method) },
    text: points.map((p) => `<b>${plain(method.name)}</b><br>${text(p)}: ${written(p)} %<br>${bySeedText(p).replaceAll(", ", "<br>")}`),
    hovertemplate: "%{text}<extra></extra>",
  };
}

function drawCurves() {
  const g = group(), learned = state.curve === LEARNED, found = curves().filter((c) => shown(c.method) && c.points.length);
  const on = learned ? "all classes learned so far" : `Set ${state.curve}`;
  $("curves-what").textContent = `Accuracy on ${on}, ${placeName(g.places[state.place])}, ${state.space} label space, ${g.name}; band: one standard deviation over ${g.over}.`;
  const traces = found.flatMap((c) => [...band(c.method, c.points), line(c.method, c.points, (p) => `after ${p.x}`)]);
  if (learned && state.space === "joint" && g.bounds) {
    const bounds = g.methods.map((method, m) => [method, summed(g.bounds[state.place]?.[m] ?? {})]).filter(([method, b]) => shown(method) && b.mean !== null);
    if (bounds.length) $("curves-what").textContent += " Thin lines: the same methods on all classes at once.";
    traces.push(...bounds.map(([method, b]) => ({
      x: [1, g.T], y: [b.mean, b.mean], name: `${plain(method.name)}, all classes at once`, mode: "lines", meta: `${method.key}@joint`, showlegend: false,
      line: { color: colour(method), width: 1, dash: "dash" }, hovertemplate: `<b>${plain(method.name)}</b><br>all classes at once: ${written(b)} %<extra></extra>`,
    })));
  }
  const guess = guessed();
  if (guess.some((p) => p.y < 100)) {
    const [least, most] = [Math.min(...guess.map((p) => p.y)), Math.max(...guess.map((p) => p.y))];
    $("curves-what").textContent += ` Chance: ${fixed(least, 1)}${fixed(least, 1) === fixed(most, 1) ? "" : ` to ${fixed(most, 1)}`} %.`;
    const lowest = Math.min(...found.flatMap((c) => c.points.map((p) => p.mean)));
    if (most >= lowest - 10) {  // else the curves would have to shrink for it
      traces.push({ x: guess.map((p) => p.x), y: guess.map((p) => p.y), name: "chance", mode: "lines", hovertemplate: "chance: %{y:.1f} %<extra></extra>", line: { color: style("--quiet"), width: 1.5, dash: "dot" } });
    }
  }
  const before = learned ? [] : [{ type: "rect", xref: "x", yref: "paper", x0: 0, x1: state.curve, y0: 0, y1: 1, fillcolor: style("--line"), opacity: 0.25, line: { width: 0 }, layer: "below" }];
  Plotly.react("curves-chart", traces, layout({
    shapes: before,
    xaxis: { title: { text: "experiences learned" }, dtick: g.T <= 12 ? 1 : undefined, range: [learned ? 1 - 0.02 * g.T : -0.02 * g.T, g.T * 1.02] },
    yaxis: { title: { text: "accuracy (%)" }, zeroline: false },
  }), config);
  const columns = [...new Set(found.flatMap((c) => c.points.map((p) => p.x)))].sort((a, b) => a - b);
  fillTable("curves-values", ["method", ...columns.map((x) => `after ${x}`)], found.map((c) => [
    c.method.name, ...columns.map((x) => { const p = c.points.find((q) => q.x === x); return p ? { text: written(p), title: bySeedText(p) } : "–"; }),
  ]));
}

function drawFewShot() {
  const levels = fewShot();
  $("few-shot").hidden = levels.length < 2;
  if (levels.length < 2) return;
  const key = JSON.stringify(group().places[state.place]);
  const methods = [...new Map(levels.flatMap((g) => g.methods).map((m) => [m.key, m])).values()].filter(shown);
  const traces = methods.map((method) => {
    const points = levels.map((g) => {
      const place = g.places.findIndex((p) => JSON.stringify(p) === key), m = g.methods.findIndex((other) => other.key === method.key);
      const bySeed = place < 0 || m < 0 || !g.spaces.includes(state.space) ? {} : g.learned[state.space][place][m];
      return { x: String(g.shots), ...summed(pick(bySeed, (each) => each.at(-1))) };
    }).filter((p) => p.mean !== null);
    return { ...line(method, points, (p) => `${p.x} shots`), error_y: { type: "data", array: points.map((p) => p.std ?? 0), thickness: 1 } };
  });
  $("few-shot-what").textContent = `Last accuracy by training images per class, ${placeName(group().places[state.place])}, ${state.space} label space; bar: one standard deviation.`;
  Plotly.react("few-shot-chart", traces, layout({
    xaxis: { title: { text: "training images per class" }, type: "category", categoryarray: levels.map((g) => String(g.shots)), categoryorder: "array" },
    yaxis: { title: { text: "last accuracy (%)" }, zeroline: false },
  }), config);
}

function drawClasses() {
  const g = group(), all = classes(), most = all.slice(0, MOST_CLASSES);
  const place = g.places[state.place].average ? "all datasets" : g.places[state.place].key;
  const what = all.length ? `${all.length > most.length ? `The ${most.length} classes (of ${all.length}) that` : "Classes by how much they"} lost on average over the methods shown: accuracy right after a class was learned minus after the last experience, in points; ${place}, ${state.space} label space.`
    : "No class can have lost accuracy here, or the records hold no counts per class.";
  $("classes-what").textContent = what;
  $("classes-chart").hidden = !all.length;
  $("classes-values").parentElement.hidden = !all.length;
  if (!all.length) return;
  const room = innerWidth < 700 ? 18 : 36;
  const label = (row) => plain(shortened(row.name, room));
  const traces = g.methods.map((method, m) => ({
    x: most.map((row) => row.lost[m].mean), y: most.map((_, i) => i), mode: "markers", meta: method.key, name: plain(method.name),
    marker: { symbol: method.symbol, size: 10, color: colour(method) }, hovertemplate: "%{text}<extra></extra>",
    text: most.map((row) => `<b>${plain(method.name)}</b><br>${plain(row.name)} (Set ${row.experience})<br>lost ${written(row.lost[m])}`),
  })).filter((_, m) => shown(g.methods[m]));
  Plotly.react("classes-chart", traces, layout({
    height: 110 + 22 * most.length, xaxis: { title: { text: "points lost" }, zeroline: true, zerolinecolor: style("--quiet") },
    yaxis: { tickvals: most.map((_, i) => i), ticktext: most.map(label), range: [most.length - 0.4, -0.6], zeroline: false },
  }), config);
  const methods = g.methods.filter(shown);
  fillTable("classes-values", ["class", "set", ...methods.map((m) => m.name)], all.map((row) => [
    row.name, String(row.experience), ...g.methods.flatMap((m, i) => (shown(m) ? [{ text: written(row.lost[i]), title: bySeedText(row.lost[i]) }] : [])),
  ]));
}

function drawConfusion() {
  const g = group(), found = g.confusion[state.place] ?? null, any = g.confusion.some((each) => each !== null);
  $("confusion").hidden = $("confusion-link").hidden = !any;
  if (!any) return;
  const there = g.methods.map((_, m) => m).filter((m) => found?.counts[state.space][m]);
  if (!there.includes(state.confused)) state.confused = there[0] ?? 0;
  fill($("confused"), there.map((m) => [m, g.methods[m].name]), state.confused);
  $("confusion-chart").hidden = !there.length;
  $("confusion-values").parentElement.hidden = !there.length;
  if (!there.length) {
    $("confusion-what").textContent = "Choose one dataset: no run kept predictions of what is chosen now (lamm-cl run with --predictions keeps them).";
    return;
  }
  const cells = found.counts[state.space][state.confused], many = found.classes.length > MOST_CLASSES;
  const experience = found.sizes.flatMap((size, j) => Array(size).fill(j));
  const names = many ? found.sizes.map((_, j) => `Set ${j + 1}`) : found.classes.map((name, c) => `${c + 1} ${shortened(name, 24)}`);
  const z = names.map(() => names.map(() => 0)), images = names.map(() => 0), of = found.classes.map(() => 0);
  for (const [c, p, n] of cells) {
    const [i, j] = many ? [experience[c], experience[p]] : [c, p];
    z[i][j] += n;
    images[i] += n;
    of[c] += n;
  }
  const share = z.map((row, i) => row.map((n) => (images[i] ? (100 * n) / images[i] : null)));
  $("confusion-what").textContent = `${many ? "Of the test images of an experience (row), those taken for a class of another (column)" : "Of a class's test images (row), those taken for another (column)"}, in %, after the last experience, all seeds together; ${placeName(g.places[state.place])}, ${state.space} label space.`;
  const at = names.map((_, i) => i);
  Plotly.react("confusion-chart", [{
    type: "heatmap", z: share.map((row) => row.map((x) => (x === null ? null : Math.sqrt(x)))), colorscale: "Viridis", zmin: 0, zmax: 10, xgap: 1, ygap: 1,
    colorbar: { title: { text: "%" }, tickvals: [0, 2, 5, 7.07, 10], ticktext: ["0", "4", "25", "50", "100"], thickness: 12 },
    text: share.map((row, i) => row.map((x, j) => `${plain(names[i])} taken for ${plain(names[j])}: ${fixed(x, 1)} %, ${z[i][j]} of ${images[i]}`)), hovertemplate: "%{text}<extra></extra>",
  }], layout({
    height: 160 + 16 * Math.max(12, names.length), xaxis: { title: { text: many ? "experience predicted" : "class predicted" }, tickvals: at, ticktext: at.map((i) => String(i + 1)), showgrid: false, tickangle: 0 },
    yaxis: { tickvals: at, ticktext: names.map(plain), autorange: "reversed", showgrid: false },
  }), config);
  const worst = cells.filter(([c, p]) => c !== p).sort((a, b) => b[2] - a[2]).slice(0, MOST_CONFUSIONS);
  fillTable("confusion-values", ["class", "taken for", "images", "% of the class"], worst.map(([c, p, n]) => [found.classes[c], found.classes[p], `${n} of ${of[c]}`, fixed((100 * n) / of[c], 1)]));
}

function drawCosts() {
  const g = group(), { space, accuracy } = g.cost, place = state.place;
  $("costs-what").textContent = `Last accuracy, ${placeName(g.places[place])}, ${space} label space, against what learns and what a run takes.`;
  for (const [id, of, title] of [["parameters-chart", g.cost.parameters, "trainable parameters"], ["effort-chart", g.cost.effort, g.cost.effort_name]]) {
    const costs = of[place].flatMap((bySeed) => Object.values(bySeed)).filter((x) => x > 0);
    const least = Math.min(...costs), middle = Math.sqrt(least * Math.max(...costs));
    const traces = g.methods.flatMap((method, m) => {
      const x = summed(of[place][m]), y = summed(accuracy[place][m]);
      if (!shown(method) || x.mean === null || y.mean === null) return [];
      return [{
        x: [x.mean > 0 ? x.mean : least / 4], y: [y.mean], mode: "markers+text", text: [plain(shortened(method.name, 18))], meta: method.key, showlegend: false,
        textposition: x.mean > middle ? "middle left" : "middle right", cliponaxis: false,
        marker: { symbol: method.symbol, size: 12, color: colour(method) }, error_y: { type: "data", array: [y.std ?? 0], thickness: 1 },
        hovertemplate: `<b>${plain(method.name)}</b><br>${title}: ${x.mean.toLocaleString("en")}<br>${written(y)} %<extra></extra>`,
      }];
    });
    const zero = of[place].some((bySeed) => Object.values(bySeed).some((x) => x === 0));
    const note = zero ? `${title} (leftmost: none)` : title;
    Plotly.react(id, traces, layout({
      xaxis: { title: { text: note }, type: "log", dtick: 1, exponentformat: "SI" }, yaxis: { title: { text: "last accuracy (%)" }, zeroline: false },
    }, 330), config);
  }
}

// --- tables

function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function fillTable(id, heads, rows) {
  const table = document.createElement("table"), head = table.createTHead().insertRow(), body = table.createTBody();
  heads.forEach((text) => head.append(element("th", text, { scope: "col" })));
  for (const [name, ...cells] of rows) {
    const row = body.insertRow();
    row.append(element("th", name, { scope: "row" }));
    cells.forEach((cell) => row.append(typeof cell === "string" ? element("td", cell) : element("td", cell.text, { title: cell.title })));
  }
  $(id).replaceChildren(table);
}

// Viridis, sampled; text is black or white, whichever is readable on it.
const VIRIDIS = ["#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725"];
function scale(accuracies, least = 20) {  // from and to, in tens, inside 0 to 100, at least so far apart
  if (!accuracies.length) return [0, 100];
  const [least10, most10] = [10 * Math.floor(Math.min(...accuracies) / 10), 10 * Math.ceil(Math.max(...accuracies) / 10)];
  const low = Math.max(0, Math.min(least10, most10 - least));
  return [low, Math.max(most10, low + least)];
}
function heat(accuracy, [from, to]) {
  const at = Math.min(0.9999, Math.max(0, (accuracy - from) / (to - from))) * (VIRIDIS.length - 1), low = Math.floor(at), part = at - low;
  const channel = (hex, i) => parseInt(hex.slice(1 + 2 * i, 3 + 2 * i), 16);
  const rgb = [0, 1, 2].map((i) => Math.round((1 - part) * channel(VIRIDIS[low], i) + part * channel(VIRIDIS[low + 1], i)));
  const light = 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2] > 128;
  return `background:rgb(${rgb});color:${light ? "#000" : "#fff"}`;
}

function drawMatrices() {
  const g = group(), digits = g.T > 5 ? 0 : 1;
  $("matrices-what").textContent = `Accuracy (%), mean over ${g.over}, ${placeName(g.places[state.place])}, ${state.space} label space. Rows: experiences learned; columns: the set tested; hatched: undefined.`;
  const cell = g.T > 5 ? 1.45 : 3;  // as in the style sheet
  $("matrices-grid").style.setProperty("--matrix", `${Math.min(70, Math.max(9.5, cell * g.T + 3))}rem`);
  $("matrices-grid").classList.toggle("dense", g.T > 5);
  const every = g.methods.flatMap((method, m) => {
    const found = g.accuracy[state.space][state.place][m], any = Object.values(found)[0];
    return shown(method) && any ? any.flatMap((row, i) => row.map((_, j) => summed(pick(found, (R) => R[i][j])).mean)) : [];
  });
  const reach = scale(every.filter((mean) => mean !== null));
  $("matrices-what").textContent += ` Colours reach from ${reach[0]} to ${reach[1]} %.`;
  const tables = g.methods.flatMap((method, m) => {
    const found = g.accuracy[state.space][state.place][m], any = Object.values(found)[0];
    if (!shown(method) || !any) return [];
    const table = document.createElement("table"), head = table.createTHead().insertRow(), body = table.createTBody();
    table.setAttribute("aria-label", method.name);
    head.append(element("th", "", { scope: "col" }));
    any[0].forEach((_, j) => head.append(element("th", String(j + 1), { scope: "col" })));
    any.forEach((_, i) => {
      const row = body.insertRow();
      row.append(element("th", String(i), { scope: "row" }));
      any[i].forEach((_, j) => {
        const s = summed(pick(found, (R) => R[i][j]));
        row.append(s.mean === null ? element("td", "", { class: "undefined", "aria-label": "undefined" })
          : element("td", fixed(s.mean, digits), { style: heat(s.mean, reach), title: `${written(s)}; ${bySeedText(s)}` }));
      });
    });
    const scroll = document.createElement("div");
    scroll.className = "scroll";
    scroll.append(element("p", method.name), table);
    return [scroll];
  });
  $("matrices-grid").replaceChildren(...tables);
}

function sortable(table) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0], original = [...body.rows];
  heads.forEach((head, column) => {
    const button = element("button", head.textContent, { type: "button" });
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const next = { none: "descending", descending: "ascending", ascending: "none" }[head.getAttribute("aria-sort") ?? "none"];
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      if (next !== "none") head.setAttribute("aria-sort", next);
      const sign = next === "ascending" ? 1 : -1;
      const number = (row) => parseFloat(row.cells[column].dataset.value);
      const text = (row) => row.cells[column].textContent;
      const numeric = head.classList.contains("number");
      const compare = (a, b) => {
        if (!numeric) return sign * text(a).localeCompare(text(b), "en", { numeric: true });
        const [x, y] = [number(a), number(b)];  // what is undefined stays below
        return Number.isNaN(x) || Number.isNaN(y) ? Number.isNaN(x) - Number.isNaN(y) : sign * (x - y);
      };
      body.append(...(next === "none" ? original : original.toSorted(compare)));
    });
  });
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {  // no permission, or an old browser
    const area = element("textarea", text);
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}

// --- controls

function fill(select, options, chosen) {
  select.replaceChildren(...options.map(([value, text]) => element("option", text, { value })));
  select.value = String(chosen);
}

function controls() {
  const g = group();
  state.place = Math.min(state.place, g.places.length - 1);
  if (!g.spaces.includes(state.space)) state.space = g.spaces.at(-1);
  if (state.curve > g.T) state.curve = LEARNED;
  $("pick-group").hidden = groups.length === 1;
  fill($("group"), groups.map((each, i) => [i, each.name]), state.group);
  fill($("place"), g.places.map((place, i) => [i, placeName(place)]), state.place);
  fill($("space"), g.spaces.map((space) => [space, space]), state.space);
  const sets = Array.from({ length: g.T }, (_, j) => [j + 1, `Set ${j + 1}`]);
  fill($("curve"), [[LEARNED, "all classes learned so far"], ...sets], state.curve);
  $("methods").replaceChildren(...g.methods.map((method) => {
    const label = document.createElement("label"), box = element("input", "", { type: "checkbox" }), swatch = element("i", GLYPHS[method.symbol] ?? "●", { "aria-hidden": "true" });
    box.checked = shown(method);
    box.dataset.method = method.key;
    box.addEventListener("change", () => { state.hidden[box.checked ? "delete" : "add"](method.key); draw(); });
    swatch.style.color = colour(method);
    label.append(box, swatch, method.name);
    return label;
  }));
}

function draw() {
  drawCurves();
  drawFewShot();
  drawMatrices();
  drawClasses();
  drawConfusion();
  drawCosts();
}

const THEMES = ["system", "light", "dark"], system = matchMedia("(prefers-color-scheme: dark)");
let theme = "system";
function applyTheme() {
  const isDark = !printing && (theme === "dark" || (theme === "system" && system.matches));
  document.documentElement.dataset.theme = isDark ? "dark" : "light";
  $("theme").textContent = `Theme: ${theme}`;
  controls();
  draw();
}

for (const name of ["group", "place", "space", "curve"]) {
  $(name).addEventListener("change", ({ target }) => {
    state[name] = /^\d+$/.test(target.value) ? Number(target.value) : target.value;
    controls();
    draw();
  });
}
$("confused").addEventListener("change", ({ target }) => { state.confused = Number(target.value); drawConfusion(); });
$("theme").addEventListener("click", () => { theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length]; applyTheme(); });
system.addEventListener("change", applyTheme);
window.addEventListener("beforeprint", () => { printing = true; applyTheme(); });
window.addEventListener("afterprint", () => { printing = false; applyTheme(); });
document.querySelectorAll("#tables table").forEach(sortable);
document.querySelectorAll(".table").forEach((section) => section.querySelectorAll("[data-copy]").forEach((button) => {
  button.addEventListener("click", async () => {
    await copy(copies[section.id][button.dataset.copy]);
    section.querySelector("[role=status]").textContent = `${button.textContent.replace("Copy ", "")} copied`;
  });
}));
state.group = groups.findLastIndex((g) => g.folder === 0);  // the most shots
state.place = group().places.length - 1;
state.space = group().spaces.at(-1);
applyTheme();
