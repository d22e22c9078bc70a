"use strict";
// Draws the charts and the tables from the data block of the page. Text is only ever set as text.
const PAGE = 50; // rows drawn at once, so that thousands stay quick
let report; // charts, their data, tables, claims, commands

async function unpacked(block) { // gzip in base64, as `packed` of page.py writes it
  const bytes = Uint8Array.from(atob(block.textContent), (letter) => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
}
function records(data) { // of a chart: its own, or the name of the table that they are
  if (typeof data !== "string") return data;
  const { columns, rows } = report.tables[data];
  return rows.map((row) => Object.fromEntries(columns.map((column, i) => [column.name, row[i]])));
}

// ---- charts: ink is that of the text around them, so that light, dark and print need no second drawing
const sans = getComputedStyle(document.body).fontFamily;
function style(columns) { // of the legend; 0: all in one row
  const text = { labelColor: "currentColor", titleColor: "currentColor", labelFont: sans, titleFont: sans };
  return {
    background: "transparent", aria: false, font: sans, view: { stroke: null },
    axis: {
      ...text, domainColor: "currentColor", domainOpacity: 0.4, tickColor: "currentColor", tickOpacity: 0.4,
      gridColor: "currentColor", gridOpacity: 0.12, labelFontSize: 12, titleFontSize: 12, titleFontWeight: 500,
      titlePadding: 8, labelOpacity: 0.85, labelOverlap: true,
    },
    legend: {
      ...text, orient: "top", labelFontSize: 12, titleFontSize: 12, titleFontWeight: 500, symbolSize: 80,
      labelLimit: 240, titleLimit: 280, columns, titleOrient: columns ? "top" : "left", columnPadding: 14,
    },
  };
}
function overflows(place) {
  const edge = place.getBoundingClientRect().right + 2;
  return [...place.querySelectorAll(".role-legend")].some((legend) => legend.getBoundingClientRect().right > edge);
}
function valuesOf(field, rows) {
  return [...new Set(rows.filter((row) => field in row).map((row) => row[field]))].sort(compare);
}
async function draw(place) {
  const inside = place.appendChild(document.createElement("div")), controls = place.nextElementSibling;
  const chart = report.charts[Number(place.dataset.chart)];
  try {
    const datasets = Object.fromEntries(chart.datasets.map((name) => [name, records(report.datasets[name])]));
    let view;
    for (const columns of [0, 6, 4, 3, 2, 1]) { // as many as there is room for: names may be long, and screens narrow
      controls.replaceChildren(); // they stand beside the picture: inside one, nothing can be operated
      const drawn = await vegaEmbed(inside, { ...chart, datasets }, {
        mode: "vega-lite", renderer: "svg", actions: false, ast: true, bind: controls, config: style(columns),
      });
      inside.querySelector("svg").ariaHidden = "true"; // the words for it are those of its place
      view = drawn.view;
      if (columns === 1 || !overflows(place)) break;
      drawn.finalize();
    }
    const [field] = chart.params?.find((one) => one.bind === "legend")?.select.fields ?? [];
    if (field) controls.append(picks(view, valuesOf(field, Object.values(datasets).flat())));
  } catch (problem) { place.textContent = "This figure could not be drawn: " + problem.message; }
}
function picks(view, names) { // the legend for the keyboard: a checked box is a picked name, whoever picked it
  const boxes = names.map(() => make("input", { type: "checkbox" })), fields = view.signal("picked_tuple_fields");
  boxes.forEach((box) => box.addEventListener("change", () => {
    const picked = names.filter((_, i) => boxes[i].checked);
    view.data("picked_store", picked.map((name) => ({ fields, values: [name] }))).runAsync();
  }));
  view.addDataListener("picked_store", (_, tuples) => boxes.forEach((box, i) => {
    box.checked = tuples.some((tuple) => tuple.values[0] === names[i]);
  }));
  const labels = names.map((name, i) => make("label", {}, boxes[i], " ", name));
  return make("details", { className: "picks" }, make("summary", { textContent: "Pick by name" }), ...labels);
}
async function drawAll() { // one after the other, so that a page of many can be read meanwhile
  for (const place of document.querySelectorAll("[data-chart]")) {
    await draw(place);
    await new Promise((next) => setTimeout(next));
  }
  document.documentElement.classList.add("drawn");
}

// ---- tables
function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}
function spelt(value) { // 34944000 as 34.9 M
  const place = Math.min(6, Math.floor(Math.log10(value) / 3));
  return (value / 1000 ** place).toPrecision(3) + " " + ["", "k", "M", "G", "T", "P", "E"][place];
}
function shown(value, kind) {
  if (value === null) return "–";
  if (kind === "percent") return (100 * value).toFixed(1) + " %";
  if (kind === "seconds") return value.toFixed(2);
  if (kind === "flops") return value < 1e6 ? String(value) : spelt(value);
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (kind !== "number" || typeof value !== "number") return String(value);
  if (Number.isInteger(value) && Math.abs(value) < 1e7) return String(value);
  return String(Number(value.toPrecision(4)));
}
function compare(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a).localeCompare(String(b), "en", { numeric: true });
}
function csv(table) {
  const cell = (value) => {
    const text = value === null ? "" : String(value);
    return /[",\r\n]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
  };
  const lines = [table.columns.map((column) => column.name), ...table.rows];
  return lines.map((line) => line.map(cell).join(",")).join("\r\n") + "\r\n";
}
function download(name, text) {
  const link = make("a", { href: URL.createObjectURL(new Blob([text], { type: "text/csv" })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

class Grid {
  // A table that sorts by its headings, filters by text or by keys, and draws one page of rows.
  constructor(place, name, filtered) {
    this.table = report.tables[name];
    this.panel = name === "runs" ? document.getElementById("run") : null;
    this.words = []; this.keys = null; this.column = null; this.falling = false; this.page = 0;
    this.body = make("tbody");
    this.count = make("span", { role: "status" });
    this.back = make("button", { type: "button", textContent: "Previous", onclick: () => this.turn(-1) });
    this.next = make("button", { type: "button", textContent: "Next", onclick: () => this.turn(1) });
    this.input = make("input", { type: "search", placeholder: place.dataset.filter, ariaLabel: place.dataset.filter,
      oninput: () => this.filter() });
    this.input.setAttribute("aria-label", "Filter the rows by text");
    const save = make("button", { type: "button", textContent: "Download csv", className: "push",
      onclick: () => download(name + ".csv", csv(this.table)) });
    const tools = filtered ? [this.input, this.count, save] : [this.count, save];
    this.pager = make("div", { className: "tools" }, this.back, this.next);
    place.append(make("div", { className: "tools" }, ...tools),
      make("div", { className: "scroll" }, make("table", { className: "grid" }, this.head(), this.body)), this.pager);
    this.texts = this.table.rows.map((row) => row.join(" ").toLowerCase());
    this.draw();
  }
  head() {
    this.headings = this.table.columns.map((column, i) => {
      const heading = make("th", { scope: "col", className: column.kind },
        make("button", { type: "button", textContent: column.title, onclick: () => this.sort(i) }));
      return heading;
    });
    return make("thead", {}, make("tr", {}, ...this.headings));
  }
  sort(i) {
    this.falling = this.column === i && !this.falling;
    this.column = i;
    this.page = 0;
    this.headings.forEach((heading, j) => heading.removeAttribute("aria-sort"));
    this.headings[i].setAttribute("aria-sort", this.falling ? "descending" : "ascending");
    this.draw();
  }
  filter() {
    this.words = this.input.value.toLowerCase().split(/\s+/).filter(Boolean);
    this.keys = null;
    this.page = 0;
    this.draw();
  }
  only(name, keys) {
    this.words = [];
    this.keys = new Set(keys);
    this.input.value = "";
    this.input.placeholder = "The runs of " + name + "; type to filter all";
    this.page = 0;
    this.draw();
  }
  turn(by) { this.page += by; this.draw(); }
  wanted() {
    const rows = this.table.rows.filter((row, i) =>
      this.keys ? this.keys.has(row[0]) : this.words.every((word) => this.texts[i].includes(word)));
    if (this.column === null) return rows;
    const sign = this.falling ? -1 : 1, at = this.column; // what is unknown stands last, whichever way
    return rows.sort((a, b) => (a[at] === null) - (b[at] === null) || sign * compare(a[at], b[at]));
  }
  draw() {
    const rows = this.wanted(), pages = Math.max(1, Math.ceil(rows.length / PAGE)), from = this.page * PAGE;
    const part = rows.slice(from, from + PAGE);
    this.body.replaceChildren(...part.map((row) =>
      make("tr", {}, ...row.map((value, i) => this.cell(row, value, i)))));
    this.count.textContent = rows.length > PAGE
      ? `${from + 1} to ${from + part.length} of ${rows.length} rows` : rows.length === 1 ? "1 row" : `${rows.length} rows`;
    this.back.disabled = this.page === 0;
    this.next.disabled = this.page >= pages - 1;
    this.pager.hidden = pages === 1;
  }
  cell(row, value, i) {
    const kind = this.table.columns[i].kind, text = shown(value, kind);
    if (i || !this.panel) return make("td", { className: kind, textContent: text });
    const open = make("button", { type: "button", textContent: text, onclick: () => this.tell(row) });
    return make("td", { className: kind }, open);
  }
  tell(row) { // all of one run, and the commands that show and make it
    const values = this.table.columns.flatMap((column, i) => [
      make("dt", { textContent: column.title }), make("dd", { textContent: shown(row[i], column.kind) })]);
    const commands = Object.entries(report.commands).flatMap(([what, parts]) => [
      make("p", { className: "fine", textContent: what }), commandBox(parts.join(row[0]))]);
    this.panel.replaceChildren(make("h3", { textContent: "Run " + row[0] }), make("dl", {}, ...values), ...commands);
    this.panel.hidden = false;
    this.panel.focus();
  }
}
function commandBox(text) {
  const box = make("div", { className: "command" }, make("pre", { tabIndex: 0, textContent: text }),
    make("button", { type: "button", textContent: "Copy" }));
  copies(box.lastChild);
  return box;
}
function copies(button) {
  button.addEventListener("click", () => {
    const text = button.parentElement.querySelector("pre");
    getSelection().selectAllChildren(text); // where the clipboard is closed to us, the reader can copy by hand
    navigator.clipboard?.writeText(text.textContent).then(() => { button.textContent = "Copied"; }, () => {});
  });
}

function tabulate() {
  const grids = Object.fromEntries([...document.querySelectorAll("div[data-table]")].map((place) =>
    [place.dataset.table, new Grid(place, place.dataset.table, true)]));
  for (const fold of document.querySelectorAll("details[data-table]")) {
    fold.addEventListener("toggle", () => new Grid(fold, fold.dataset.table, false), { once: true });
  }
  for (const button of document.querySelectorAll("[data-claim]")) {
    button.addEventListener("click", () => {
      grids.runs.only(button.dataset.claim, report.claims[button.dataset.claim]);
      document.getElementById("runs").scrollIntoView();
    });
  }
}

document.querySelectorAll("[data-copy]").forEach(copies);
unpacked(document.getElementById("report-data")).then((data) => {
  report = data;
  tabulate();
  return drawAll();
}).catch((problem) => {
  const textContent = "No table or figure could be drawn: " + problem.message;
  document.getElementById("answer").append(make("p", { textContent }));
});
