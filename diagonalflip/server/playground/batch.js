// All sixteen images at once, and how many images per second requests of each size bring.

import { $, count, element, paintValue, shape, show, svg, table } from "/playground/dom.js";
import { hiddenSize, valuesOf } from "/playground/network.js";
import { packed, predictBody } from "/playground/service.js";
import { current, explanation, follow, state } from "/playground/state.js";

const SIZES = [1, 16, 1024, 65536];
const LEAST_MS = 200;
const compact = (value) => value.toLocaleString("en", { notation: "compact" });

function matrix(letter, name, rows) {
  const largest = Math.max(...rows.flat().map(Math.abs));
  const cells = rows.flatMap((row, image) => row.map((value) => {
    const cell = element("span", { "data-image": image });
    paintValue(cell, value, largest);
    return cell;
  }));
  const label = `${name}, shape ${shape(rows.length, rows[0].length)}`;
  const grid = element("span", { class: "matrix", role: "img", "aria-label": label }, ...cells);
  grid.style.gridTemplateColumns = `repeat(${rows[0].length}, 1fr)`;
  const caption = element("figcaption", {}, element("b", {}, letter), ` ${shape(rows.length, rows[0].length)}`);
  return element("figure", {}, caption, grid, element("small", {}, name));
}

const arrow = (...lines) => element("div", { class: "step" }, ...[...lines, "→"].map((line) => element("div", {}, line)));

function draw() {
  const values = current().explanations.map(valuesOf);
  const hidden = hiddenSize(current().weights);
  const layer = (place) => values.map((each) => each[place]);
  $("batch").replaceChildren(
    matrix("X", "pixels", layer(0)),
    arrow(`@ W1 ${shape(4, hidden)}`, `+ b1 ${shape(hidden)}`),
    matrix("S", "sums", layer(1)),
    arrow("ReLU"),
    matrix("H", "hidden", layer(2)),
    arrow(`@ W2 ${shape(hidden, 4)}`, `+ b2 ${shape(4)}`),
    matrix("Y", "prediction", layer(3)),
  );
}

/** Shows the single pass of the image beside its row; without `single` it is not known. */
export function showSingle(single, unknown = "…") {
  const { prediction } = explanation();
  $("rows").replaceChildren(table(["Prediction", "y0", "y1", "y2", "y3"], [
    [`Row ${state.image} of the batch`, ...prediction.map(show)],
    ["Single pass", ...(single ? single.map(show) : Array(4).fill(unknown))],
  ]));
  const largest = single && Math.max(...single.map((value, index) => Math.abs(value - prediction[index])));
  const verdict = largest === 0 ? "Equal, to the last bit." : `The largest difference is ${largest?.toExponential(1)}.`;
  $("same").textContent = single ? verdict : "";
}

async function measureSize(version, images) {
  const [body, type] = packed(images);
  let requests = 0;
  const started = performance.now();
  do {
    const { predictions } = await predictBody(version, body, type);
    if (predictions.length !== 4 * images) throw new Error(`The response has ${predictions.length} numbers.`);
    requests += 1;
  } while (requests < 3 || performance.now() - started < LEAST_MS);
  const seconds = (performance.now() - started) / 1000;
  return { images, rate: (requests * images) / seconds, ms: (1000 * seconds) / requests };
}

/** Images per second over images per request, both axes logarithmic. */
function plot(measured) {
  const rates = measured.map(({ rate }) => Math.log10(rate));
  const [low, high] = [Math.floor(Math.min(...rates)), Math.ceil(Math.max(...rates))];
  const x = (images) => 70 + (Math.log2(images) / 16) * 400;
  const y = (power) => 220 - ((power - low) / (high - low)) * 190;
  const lines = Array.from({ length: high - low + 1 }, (_, step) => low + step).flatMap((power) => [
    svg("line", { x1: 62, x2: 490, y1: y(power), y2: y(power), class: "axis" }),
    svg("text", { x: 54, y: y(power) + 4, class: "end" }, compact(10 ** power)),
  ]);
  const points = measured.map(({ images, rate }) => [x(images), y(Math.log10(rate)), count(images)]);
  const label = "Images per second over images per request, as in the table";
  return svg("svg", { viewBox: "0 0 520 270", role: "img", "aria-label": label, class: "plot" }, ...lines,
    svg("polyline", { points: points.map(([at, up]) => `${at},${up}`).join(" ") }),
    ...points.flatMap(([at, up, images]) => [svg("circle", { cx: at, cy: up, r: 5 }), svg("text", { x: at, y: 242 }, images)]),
    svg("text", { x: 270, y: 264 }, "images per request"), svg("text", { x: 62, y: 14 }, "images per second"));
}

async function measure() {
  $("measure").setAttribute("aria-disabled", "true");
  const { version } = state;
  try {
    const measured = [];
    for (const images of SIZES) {
      $("speed").textContent = `Sending requests of ${count(images)} images …`;
      measured.push(await measureSize(version, images));
    }
    const rows = measured.map(({ images, ms, rate }) => [count(images), ms.toFixed(2), count(rate)]);
    $("speed").replaceChildren(plot(measured), table(["Images per request", "Milliseconds", "Images/s"], rows));
  } catch (error) {
    $("speed").replaceChildren(element("span", { class: "wrong" }, error.message));
  }
  $("measure").removeAttribute("aria-disabled");
}

export function startBatch() {
  $("measure").addEventListener("click", () => $("measure").ariaDisabled || measure());
  follow((changed) => {
    if (changed.has("version")) draw();
    for (const cell of $("batch").querySelectorAll("[data-image]")) {
      cell.classList.toggle("here", Number(cell.dataset.image) === state.image);
    }
  });
}
