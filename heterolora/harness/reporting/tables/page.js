"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);

function element(name, attributes = {}, text = "", parent = null) {
  const svg = ["svg", "rect", "path", "text", "title"].includes(name);
  const made = svg
    ? document.createElementNS("http://www.w3.org/2000/svg", name)
    : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  if (parent) parent.append(made);
  return made;
}

function written(score) {
  const size = Math.abs(score);
  return size !== 0 && (size < 1e-3 || size >= 1e6) ? score.toExponential(2) : String(score);
}

// ---- curves: a legend's names pick out what they name

for (const button of document.querySelectorAll(".legend button")) {
  button.addEventListener("click", () => {
    const figure = button.closest("figure");
    button.ariaPressed = button.ariaPressed === "true" ? "false" : "true";
    const pressed = [...figure.querySelectorAll("button[aria-pressed=true]")];
    const labels = new Set(pressed.map((one) => one.dataset.label));
    figure.classList.toggle("chosen", labels.size > 0);
    for (const curve of figure.querySelectorAll(".curve"))
      curve.classList.toggle("on", labels.has(curve.dataset.label));
  });
}

// ---- allocations: one run, one search at a time

let run, cells, timer;

function chooseRun() {
  const [arm, index] = byId("run").value.split(".");
  run = data.arms[arm].runs[index];
  const { layers, roles, sites } = data.spaces[run.space];
  const grid = byId("grid");
  grid.replaceChildren();
  const head = element("tr", {}, "", element("thead", {}, "", grid));
  for (const name of ["layer", ...roles]) element("th", { scope: "col" }, name, head);
  const body = element("tbody", {}, "", grid);
  const rows = layers.map((layer) => {
    const row = element("tr", {}, "", body);
    element("th", { scope: "row" }, layer, row);
    return roles.map(() => element("td", { class: "none", title: "there is no such site" }, "-", row));
  });
  cells = sites.map(([row, column]) => rows[row][column]);
  for (const cell of cells) {
    cell.removeAttribute("title");
    cell.replaceChildren(element("span", { class: "rank" }), element("span", { class: "score" }));
  }
  byId("search").max = run.searches.length - 1;
  byId("search").value = 0;
  for (const id of ["search", "play"]) byId(id).disabled = run.searches.length < 2;
  showSearch();
}

function showSearch() {
  const search = run.searches[Number(byId("search").value)];
  const sorted = [...search.scores].sort((one, other) => one - other);
  cells.forEach((cell, site) => {
    const rank = search.ranks[site];
    cell.className = rank ? "on" : "off";
    cell.firstChild.textContent = rank ? `r${rank}` : "off";
    cell.lastChild.textContent = written(search.scores[site]);
    const order = sorted.indexOf(search.scores[site]) / Math.max(sorted.length - 1, 1);
    cell.style.setProperty("--order", order);
  });
  const on = search.ranks.filter((rank) => rank > 0).length;
  const said = [
    `Search ${search.number} of ${run.count}, after step ${search.step} (epoch ${search.epoch})`,
    `${on} of ${cells.length} sites on, ${search.parameters.toLocaleString("en")} parameters`,
  ];
  if (search.degenerate) said.push("all scores are equal, so sites were chosen at random");
  else if (search.tied) said.push(`${search.tied} sites tie at the cutoff, so the choice among them was random`);
  byId("said").textContent = said.join("; ");
  byId("search").setAttribute("aria-valuetext", said[0]);
}

function stop() {
  clearInterval(timer);
  timer = undefined;
  byId("play").textContent = "Play";
}

function play() {
  if (timer !== undefined) return stop();
  const slider = byId("search");
  if (slider.value === slider.max) slider.value = 0;
  showSearch();
  byId("play").textContent = "Pause";
  timer = setInterval(() => {
    slider.value = Number(slider.value) + 1;
    showSearch();
    if (slider.value === slider.max) stop();
  }, 400);
}

// ---- how often each site is on

function heatmap(title, { space, on }, parent) {
  const { layers, roles, sites } = data.spaces[space];
  const [wide, high, left, top] = [28, 12, 22, 14];
  const [width, height] = [roles.length * wide, layers.length * high];
  const figure = element("figure", {}, "", parent);
  element("figcaption", {}, title, figure);
  const svg = element("svg", { width: left + width + 1, height: top + height + 1, role: "img" }, "", figure);
  svg.setAttribute("aria-label", `${title}: percent of the searches that switched each site on`);
  roles.forEach((role, column) =>
    element("text", { x: left + (column + 0.5) * wide, y: top - 4, "text-anchor": "middle" }, role, svg));
  layers.forEach((layer, row) =>
    element("text", { x: left - 4, y: top + row * high + 10, "text-anchor": "end" }, layer, svg));
  const taken = new Set(sites.map(([row, column]) => `${row} ${column}`));
  layers.forEach((_, row) => roles.forEach((_, column) => {
    if (taken.has(`${row} ${column}`)) return;
    const [x, y] = [left + column * wide, top + row * high];
    element("path", { class: "rule", d: `M${x} ${y}l${wide} ${high}m0 ${-high}l${-wide} ${high}` }, "", svg);
  }));
  sites.forEach(([row, column], site) => {
    const place = { x: left + column * wide, y: top + row * high, width: wide, height: high };
    const look = { class: "rule", style: `fill: rgba(var(--tint), ${on[site] / 100})` };
    const cell = element("rect", { ...place, ...look }, "", svg);
    element("title", {}, `layer ${layers[row]}, ${roles[column]}: ${on[site]} %`, cell);
  });
}

for (const place of document.querySelectorAll(".maps")) {
  const { runs } = data.arms[place.dataset.arm];
  if (runs.length > 1) {
    const mean = (site) => runs.reduce((sum, one) => sum + one.on[site], 0) / runs.length;
    const on = runs[0].on.map((_, site) => Number(mean(site).toPrecision(3)));
    heatmap(`mean of ${runs.length} seeds`, { space: runs[0].space, on }, place);
  }
  for (const one of runs) heatmap(`seed ${one.seed}`, one, place);
}

if (data.arms.length) {
  byId("run").addEventListener("change", () => { stop(); chooseRun(); });
  byId("search").addEventListener("input", () => { stop(); showSearch(); });
  byId("play").addEventListener("click", play);
  chooseRun();
}
