// The network as a graph to walk through, in the order in which one computes by hand.

import { $, show, svg } from "/playground/dom.js";
import { LAYERS, hiddenSize, parameters, sizes, stepsOf, valuesOf, writeOut } from "/playground/network.js";
import { change, current, explanation, follow, state } from "/playground/state.js";

const [NODE_WIDTH, NODE_HEIGHT] = [64, 32];
const narrow = matchMedia("(max-width: 44rem)");

let nodes;
let edges;

/** Where a node is: layers are columns, on narrow screens rows. */
function place(layer, index) {
  const across = (index + 0.5) / sizes(current().weights)[layer];
  return narrow.matches ? [8 + 344 * across, 40 + 92 * layer] : [56 + 168 * layer, 22 + 292 * across];
}

function drawEdge(from, to, weight, matrix = 0) {
  const [[x1, y1], [x2, y2]] = [place(...from), place(...to)];
  const size = matrix ? 1 + 5 * Math.min(1, Math.abs(weight)) : 1;
  const line = svg("line", { x1, y1, x2, y2, "stroke-width": size, class: "edge" });
  line.classList.toggle("minus", weight < 0);
  const share = narrow.matches ? 0.55 : 0.3;
  const spot = { x: x1 + (x2 - x1) * share, y: y1 + (y2 - y1) * share + 4, class: "weight" };
  const label = svg("text", spot, matrix ? show(weight) : "");
  const parts = [line];
  if (matrix) { // a wider line that is not seen, to be hit by a finger
    const hit = svg("line", { x1, y1, x2, y2, class: "hit" });
    hit.addEventListener("click", () => change({ edge: { matrix, to: to[1], from: from[1], chosen: true } }));
    parts.push(hit);
  }
  edges.push({ from, to, matrix, line, label, parts });
}

function drawEdges(weights) {
  for (const [matrix, layer] of [[1, 1], [2, 3]]) {
    weights[`layer${matrix}.weight`].forEach((row, to) =>
      row.forEach((weight, from) => drawEdge([layer - 1, from], [layer, to], weight, matrix)));
  }
  for (let index = 0; index < hiddenSize(weights); index += 1) drawEdge([1, index], [2, index], 1);
  for (let index = 0; index < 4; index += 1) {
    drawEdge([3, index], [4, index], 1);
    drawEdge([4, index], [5, 0], 1);
  }
}

function drawNode(layer, index) {
  const [x, y] = place(layer, index);
  const box = { x: x - NODE_WIDTH / 2, y: y - NODE_HEIGHT / 2, width: NODE_WIDTH, height: NODE_HEIGHT, rx: 10 };
  const value = svg("text", { x, y: y + 5, class: "value" });
  const below = svg("text", { x, y: y + NODE_HEIGHT / 2 + 14, class: "name" });
  const group = svg("g", { role: "button", tabindex: -1, class: "node" }, svg("rect", box), value, below);
  const step = stepsOf(current().weights).findIndex((each) =>
    each.layer === layer && (each.index ?? index) === index) + 1;
  group.addEventListener("click", () => change({ step }));
  nodes.push({ layer, index, step, group, value, below });
}

function draw() {
  const { weights } = current();
  [nodes, edges] = [[], []];
  sizes(weights).forEach((size, layer) => {
    for (let index = 0; index < size; index += 1) drawNode(layer, index);
  });
  drawEdges(weights);
  const titles = LAYERS.map(({ title }, layer) => {
    const [x, y] = narrow.matches ? [8, 18 + 92 * layer] : [place(layer, 0)[0], 14];
    return svg("text", { x, y, class: "title" }, title);
  });
  const viewBox = narrow.matches ? "0 0 360 540" : "0 0 952 322";
  const picture = svg("svg", { viewBox, role: "group", "aria-label": "The network: arrow keys walk through it" },
    ...edges.flatMap(({ parts }) => parts), ...edges.map(({ label }) => label),
    ...titles, ...nodes.map(({ group }) => group));
  picture.classList.toggle("narrow", narrow.matches);
  picture.addEventListener("keydown", (event) => {
    const moves = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
    if (!(event.key in moves) || event.altKey || event.ctrlKey || event.metaKey) return; // the browser's own
    event.preventDefault();
    change({ step: state.step + moves[event.key] });
    nodes.find(({ step }) => step === state.step).group.focus();
  });
  $("graph").replaceChildren(picture);
  const hidden = hiddenSize(weights);
  $("size").textContent = `Version ${state.version}: Linear 4→${hidden}, ReLU, Linear ${hidden}→4, ${parameters(weights)} `
    + "parameters. Press “Next step”, choose a node, or use the arrow keys. Numbers are rounded to four decimals.";
}

function showNodes() {
  const values = valuesOf(explanation());
  for (const { layer, index, step, group, value, below } of nodes) {
    const number = values[layer][index];
    const [is, isLater] = [step === state.step, step > state.step];
    const name = layer === 5 ? "m" : LAYERS[layer].letter + index;
    value.textContent = show(number);
    below.textContent = layer === 4 ? `${name}, target ${explanation().target[index]}` : name;
    group.classList.toggle("negative", show(number).startsWith("−"));
    group.classList.toggle("chosen", is);
    group.classList.toggle("later", isLater);
    const told = isLater && $("hide").checked ? "not computed yet" : show(number);
    group.setAttribute("aria-label", `${LAYERS[layer].one} ${name}: ${told}`);
    group.setAttribute("tabindex", is && (layer > 0 || index === 0) ? 0 : -1);
    group.setAttribute("aria-current", is ? "step" : "false");
  }
  $("graph").classList.toggle("hiding", $("hide").checked);
}

function showEdges() {
  const now = stepsOf(current().weights)[state.step - 1];
  const { chosen = false, ...edge } = state.edge;
  for (const { from, to, matrix, line, label } of edges) {
    const used = to[0] === now.layer && to[1] === now.index;
    const lit = chosen && matrix === edge.matrix && to[1] === edge.to && from[1] === edge.from;
    for (const part of [line, label]) {
      part.classList.toggle("used", used);
      part.classList.toggle("lit", lit);
    }
  }
}

function showStep() {
  const steps = stepsOf(current().weights);
  const { title, why, lines, result } = writeOut(current().weights, explanation(), steps[state.step - 1]);
  $("step").textContent = `Step ${state.step} of ${steps.length}: ${title}`;
  $("why").textContent = why;
  $("arithmetic").textContent = [...lines, ...(result ? [`= ${result}`] : [])].join("\n");
  $("back").setAttribute("aria-disabled", state.step === 1);
  $("next").setAttribute("aria-disabled", state.step === steps.length);
}

export function startGraph() {
  $("back").addEventListener("click", () => change({ step: state.step - 1 }));
  $("next").addEventListener("click", () => change({ step: state.step + 1 }));
  $("hide").addEventListener("change", showNodes);
  narrow.addEventListener("change", () => { draw(); showNodes(); showEdges(); });
  follow((changed) => {
    if (changed.has("version")) draw();
    showNodes();
    showEdges();
    showStep();
  });
}
