// The image to click, what each version predicts for it, and all sixteen.

import { $, bits, button, element, paintPixel, show, tile } from "/playground/dom.js";
import { isFlipped, meanError } from "/playground/network.js";
import { change, current, explanation, follow, models, shownModels, state } from "/playground/state.js";

const predictionsOf = ({ explanations }) => explanations.map(({ prediction }) => prediction);

/** A row of predictions for `strip`, with how many of them are the target. */
export function rowOf(name, predictions) {
  const { explanations } = current();
  const marks = predictions.map((each, image) => isFlipped(each, explanations[image].target));
  const flips = marks.filter(Boolean).length;
  return { name, predictions, marks, flips, error: meanError(predictions, explanations) };
}

function labels(rows, again) {
  const told = rows.map(({ name, flips, error }) => element("span", { class: "told" },
    element("b", {}, name), ` flips ${flips} of 16`, element("small", {}, error < 5e-5 ? "error below 0.0001" : `error ${show(error)}`)));
  return element("div", { class: again ? "column again" : "column", "aria-hidden": again },
    element("span", {}, "Number"), element("span", {}, "Image"), element("span", {}, "Target"), ...told);
}

function column(image, rows) {
  const { pixels, target } = current().explanations[image];
  const told = rows.map(({ name, marks }) => `${name}: ${marks[image] ? "flipped" : "not flipped"}`);
  const parts = rows.map(({ predictions, marks }) => element("span", { class: marks[image] ? "flip" : "miss" },
    tile(predictions[image]), element("span", { class: "mark" }, marks[image] ? "✓" : "✗")));
  const made = button("", () => change({ image }), {
    class: "column",
    "aria-label": `Image ${image}, ${bits(image)}. ${told.join(". ")}`,
    "aria-pressed": image === state.image,
  });
  made.append(element("span", {}, String(image)), tile(pixels), tile(target), ...parts);
  return made;
}

/** All sixteen images with their targets, and predictions by row. */
export function strip(rows) {
  const columns = Array.from({ length: 16 }, (_, image) => column(image, rows));
  const all = [labels(rows, false), ...columns.slice(0, 8), labels(rows, true), ...columns.slice(8)];
  for (const each of all) each.style.gridRow = `span ${3 + rows.length}`;
  return element("div", { class: "strip" }, ...all);
}

function drawImage() {
  const { pixels, target } = explanation();
  $("number").textContent = state.image;
  pixels.forEach((pixel, place) => {
    const cell = $("pixels").children[place];
    cell.textContent = pixel;
    cell.setAttribute("aria-pressed", pixel === 1);
    cell.setAttribute("aria-label", `Pixel x${place}: ${pixel}`);
    paintPixel(cell, pixel);
  });
  $("target").replaceChildren(tile(target, true));
  $("predictions").replaceChildren(...shownModels().map(({ version, explanations, description }) => {
    const { prediction } = explanations[state.image];
    const is = isFlipped(prediction, target);
    const verdict = element("span", { class: is ? "right" : "wrong" }, is ? "✓ flipped" : "✗ not flipped");
    return element("figure", { "data-version": version }, element("b", {}, `Version ${version}`),
      tile(prediction, true), element("figcaption", {}, verdict, element("br"), `flips ${description.flips} of 16 images`));
  }));
  $("shown").textContent = `Image ${state.image} = ${bits(state.image)}`;
}

export function startVersions() {
  $("pixels").replaceChildren(...[8, 4, 2, 1].map((bit) => button("", () => change({ image: state.image ^ bit }))));
  $("choices").replaceChildren(...[...models.keys()].map((version) => {
    const radio = element("input", { type: "radio", name: "version", value: version });
    radio.addEventListener("change", () => change({ version }));
    return element("label", {}, radio, ` ${version}`);
  }));
  $("both").addEventListener("change", () => change({ both: $("both").checked }));
  follow((changed) => {
    for (const radio of $("choices").querySelectorAll("input")) radio.checked = radio.value === state.version;
    $("both").checked = state.both;
    drawImage();
    if (changed.has("both") || changed.has("version")) {
      const rows = shownModels().map((each) => rowOf(`Version ${each.version}`, predictionsOf(each)));
      $("versions").replaceChildren(strip(rows));
    }
    // Drawn anew, a column would lose the focus.
    for (const [image, each] of document.querySelectorAll("#versions button").entries()) {
      each.setAttribute("aria-pressed", image === state.image);
    }
  });
}
