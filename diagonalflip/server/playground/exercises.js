// The chapter's exercises: what is filled in is checked against the service's numbers.

import { $, element, shape, show, svg } from "/playground/dom.js";
import { bestAffine, forward, hiddenSize, meanError, parameters, stepsOf, valuesOf, writeOut }
  from "/playground/network.js";
import { predict } from "/playground/service.js";
import { current, follow, models, state } from "/playground/state.js";
import { rowOf, strip } from "/playground/versions.js";

const INPUT_LAYERS = [1, 2, 3, 5]; // the single squared errors are left out
const HALF_DIGIT = 6e-5; // of the fourth decimal, and float32's rounding

let image = 6; // the chapter's [0, 1, 1, 0]
let fields = [];
const countDrawn = () => $("drawn").querySelectorAll(".parameter").length;

/** Judges digit by digit: returns whether it is right ("", "right", "so far", "wrong"), and why. */
function judge(text, wanted) {
  const typed = text.normalize("NFKC").replace(/\s/g, "").replace(/[−–]/, "-").replace(",", ".").replace(/^\+/, "").replace(/^(-?)\./, "$10.");
  const right = show(wanted).replace("−", "-");
  if (!typed) return ["", ""];
  if (/^-?\d+\.?\d*$/.test(typed) && Math.abs(Number(typed) - wanted) <= HALF_DIGIT) return ["right", "✓ right"];
  if (right.startsWith(typed)) return ["so far", "right so far"];
  if (typed.startsWith("-") !== right.startsWith("-")) return ["wrong", "✗ the sign is wrong"];
  const same = [...typed].findIndex((digit, place) => digit !== right[place]);
  return ["wrong", same > 0 ? `✗ ${typed.slice(0, same)} is right, then ${typed[same]} is wrong` : `✗ ${typed[0]} is wrong`];
}

/** A field that says while one types whether its number is right. */
function field(name, wanted) {
  const told = element("output", { class: "told" });
  const input = element("input", { size: 8, autocomplete: "off", spellcheck: "false", inputmode: "text" });
  input.addEventListener("input", () => {
    const [verdict, why] = judge(input.value, wanted());
    input.setAttribute("aria-invalid", verdict === "wrong");
    told.className = `told ${verdict}`;
    told.textContent = why;
  });
  const label = element("label", { class: "field" }, `${name} `, input, told);
  return { label, isRight: () => judge(input.value, wanted())[0] === "right" };
}

function drawByHand() {
  const { weights, explanations } = current();
  const explained = explanations[image];
  const values = valuesOf(explained);
  $("by-hand-image").textContent = `image ${image} = [${explained.pixels.join(", ")}]`;
  const steps = stepsOf(weights).filter(({ layer }) => INPUT_LAYERS.includes(layer));
  fields = steps.map((step) => {
    const { title } = writeOut(weights, explained, step);
    return { ...field(title, () => values[step.layer][step.index]), step };
  });
  $("by-hand").replaceChildren(...fields.map(({ label }) => label));
  $("hinted").textContent = "";
}

function giveHint() {
  const open = fields.find(({ isRight }) => !isRight());
  const { title, lines } = open ? writeOut(current().weights, current().explanations[image], open.step)
    : { title: "", lines: ["All are right."] };
  $("hinted").textContent = [title, ...lines].join("\n").trim();
}

/** Draws a network of a hidden size: a line per weight, a dot per bias. */
function drawSize() {
  const hidden = Number($("hidden").value);
  const layers = [4, hidden, 4];
  const at = (layer, index) => [40 + 140 * layer, ((index + 0.5) * 240) / layers[layer]];
  const [lines, dots] = [[], []];
  layers.forEach((size, layer) => {
    for (let index = 0; index < size; index += 1) {
      const [cx, cy] = at(layer, index);
      dots.push(svg("circle", { cx, cy, r: 9 }));
      if (layer === 0) continue;
      dots.push(svg("circle", { cx: cx + 16, cy, r: 4, class: "parameter" }));
      for (let from = 0; from < layers[layer - 1]; from += 1) {
        const [x1, y1] = at(layer - 1, from);
        lines.push(svg("line", { x1, y1, x2: cx, y2: cy, class: "parameter" }));
      }
    }
  });
  $("drawn").replaceChildren(svg("svg", { viewBox: "0 0 360 240", role: "img", class: "sizes",
    "aria-label": `4 inputs, ${hidden} hidden values, 4 outputs` }, ...lines, ...dots));
  $("hidden-size").textContent = hidden;
  $("parameters").replaceChildren(field(`Parameters with hidden size ${hidden}`, countDrawn).label);
  $("counted").textContent = "";
}

function showCount() {
  const hidden = Number($("hidden").value);
  const same = [...models.values()].filter(({ weights }) => hiddenSize(weights) === hidden);
  const served = same.map(({ version, weights }) => ` Version ${version} has this size, and ${parameters(weights)} parameters.`);
  $("counted").textContent = `4·${hidden} weights + ${hidden} biases + ${hidden}·4 weights + 4 biases = `
    + `${countDrawn()}.${served.join("")}`;
}

function drawLinear() {
  const { weights, explanations, version } = current();
  const compute = (withRelu) => explanations.map(({ pixels }) => forward(weights, pixels, withRelu));
  const served = explanations.map(({ prediction }) => prediction);
  const largest = Math.max(...compute(true).flat().map((value, place) => Math.abs(value - served.flat()[place])));
  const linear = compute(false);
  const rows = [rowOf(`With ReLU, ${version}`, served)];
  if ($("relu").checked) rows.push(rowOf("Without", linear));
  $("linear").replaceChildren(strip(rows));
  const changed = linear.filter((each, place) => each.some((value, index) => Math.abs(value - served[place][index]) > 1e-6));
  const difference = `With ReLU, this page's arithmetic differs from the service's by at most ${largest.toExponential(1)}.`;
  const what = changed.length ? `The mean squared error goes from ${show(rows[0].error)} to ${show(meanError(linear, explanations))}.`
    : `No sum of version ${version} is below 0 for any image, so ReLU changes nothing.`;
  $("changed").textContent = $("relu").checked ? `${changed.length} of 16 predictions change. ${what} ${difference}` : "";
  const best = rowOf("Best map", explanations.map(bestAffine));
  $("best").replaceChildren(strip([best]));
  $("bound").textContent = `The map below flips ${best.flips}: the flip itself, moved onto such a hyperplane.`;
  const hidden = hiddenSize(weights);
  $("rank").textContent = `Version ${version} has ${hidden} hidden values: rank ${Math.min(4, hidden)} at most.`;
}

async function compareAll() {
  const { version, explanations } = current();
  $("compared").textContent = "Sending …";
  try {
    const singles = await Promise.all(explanations.map((_, each) => predict(version, each)));
    const differences = singles.map(({ prediction }, row) =>
      Math.max(...prediction.map((value, index) => Math.abs(value - explanations[row].prediction[index]))));
    const equal = differences.filter((each) => each === 0).length;
    $("compared").textContent = `Version ${version}: ${equal} of 16 rows are equal to the last bit. `
      + `The largest difference is ${Math.max(...differences)}.`;
  } catch (error) {
    $("compared").textContent = error.message;
  }
}

/** A question with options to choose from; the verdict comes at once. */
function quickCheck(question, options, right) {
  const told = element("output", { class: "told" });
  const choices = options.map((option) => {
    const radio = element("input", { type: "radio", name: question });
    radio.addEventListener("change", () => {
      told.className = option === right ? "told right" : "told wrong";
      told.textContent = option === right ? "✓ right" : "✗ no, look at the tables above";
    });
    return element("label", {}, radio, ` ${option}`);
  });
  return element("fieldset", { class: "check" }, element("legend", {}, question), ...choices, told);
}

function drawChecks() {
  const { weights } = current();
  const [rows, columns] = [weights["layer1.weight"].length, weights["layer1.weight"][0].length];
  const outputs = weights["layer2.weight"].length;
  $("checks").replaceChildren(
    quickCheck(`In which shape does nn.Linear(${columns}, ${rows}) store its weight?`,
      [shape(columns, rows), shape(rows, columns), shape(rows * columns)], shape(rows, columns)),
    quickCheck(`Which shape has the prediction for a batch of ${shape(16, columns)}?`,
      [shape(16, rows), shape(outputs, 16), shape(16, outputs)], shape(16, outputs)),
  );
}

export function startExercises() {
  $("hint").addEventListener("click", giveHint);
  $("another").addEventListener("click", () => { image = (image + 5) % 16; drawByHand(); });
  $("hidden").addEventListener("input", drawSize);
  $("count").addEventListener("click", showCount);
  $("relu").addEventListener("change", drawLinear);
  $("compare").addEventListener("click", compareAll);
  $("most").replaceChildren(field("At most", () => rowOf("", current().explanations.map(bestAffine)).flips).label);
  drawSize();
  follow((changed) => {
    if (changed.has("version")) {
      drawByHand();
      drawLinear();
      drawChecks();
    }
    for (const id of ["linear", "best"]) {
      for (const [place, each] of $(id).querySelectorAll("button").entries()) {
        each.setAttribute("aria-pressed", place === state.image);
      }
    }
  });
}
