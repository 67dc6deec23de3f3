// Both ways to write a weight matrix, with the current edge lit in both.

import { $, button, element, paintValue, shape, show } from "/playground/dom.js";
import { change, current, follow, state } from "/playground/state.js";

const transpose = (rows) => rows[0].map((_, column) => rows.map((row) => row[column]));

/** A table of weights; `edgeAt` says which edge a cell is. */
function table(name, told, rows, [down, across], edgeAt) {
  const largest = Math.max(...rows.flat().map(Math.abs));
  const head = element("tr", {}, element("td"), ...rows[0].map((_, column) =>
    element("th", { scope: "col" }, across + column)));
  const body = rows.map((row, index) => element("tr", {}, element("th", { scope: "row" }, down + index),
    ...row.map((weight, column) => {
      const edge = edgeAt(index, column);
      const cell = button(show(weight), () => change({ edge }), { "data-edge": `${edge.to}-${edge.from}` });
      paintValue(cell, weight, 2.5 * largest);
      return element("td", {}, cell);
    })));
  const caption = element("caption", {}, element("b", {}, `${name} ${shape(rows.length, rows[0].length)}`), ` ${told}`);
  return element("table", { class: "weights" }, caption, element("thead", {}, head), element("tbody", {}, ...body));
}

function draw() {
  const { matrix } = state.edge;
  const stored = current().weights[`layer${matrix}.weight`];
  const [from, to] = matrix === 1 ? ["x", "s"] : ["h", "y"];
  $("tables").replaceChildren(
    table(`W${matrix}`, `as written: ${from}·W${matrix} + b${matrix}`, transpose(stored), [from, to],
      (row, column) => ({ matrix, to: column, from: row, chosen: true })),
    table(`layer${matrix}.weight`, `as stored: ${from}·Wᵀ + b`, stored, [to, from],
      (row, column) => ({ matrix, to: row, from: column, chosen: true })),
  );
}

function light() {
  const { matrix, to, from } = state.edge;
  for (const cell of $("tables").querySelectorAll("button")) {
    cell.setAttribute("aria-pressed", cell.dataset.edge === `${to}-${from}`);
  }
  const [source, sink] = matrix === 1 ? ["x", "s"] : ["h", "y"];
  const weight = show(current().weights[`layer${matrix}.weight`][to][from]);
  $("edge").textContent = `The edge from ${source}${from} to ${sink}${to} has the weight ${weight}: `
    + `W${matrix}[${from}, ${to}] as written, layer${matrix}.weight[${to}, ${from}] as stored.`;
  for (const each of [1, 2]) $(`layer-${each}`).setAttribute("aria-pressed", each === matrix);
}

export function startConvention() {
  for (const matrix of [1, 2]) {
    $(`layer-${matrix}`).addEventListener("click", () => change({ edge: { matrix, to: 0, from: 0, chosen: true } }));
  }
  let drawn = "";
  follow(() => {
    const wanted = `${state.version} ${state.edge.matrix}`;
    if (wanted !== drawn) draw(); // only then: a cell that is drawn anew loses the focus
    drawn = wanted;
    light();
  });
}
