// The network's arithmetic, as a student does it: in numbers, and written out.

import { show } from "/playground/dom.js";

/** Columns of the graph. Values of a layer are named by its letter and their place from 0. */
export const LAYERS = [
  { letter: "x", title: "pixels", one: "pixel", why: "The four pixels of the image are the input, row by row." },
  { letter: "s", title: "sums", one: "sum", why: "A sum adds up the pixels, each times its weight, and a bias." },
  { letter: "h", title: "ReLU", one: "ReLU", why: "ReLU keeps what is positive and makes the rest 0." },
  { letter: "y", title: "prediction", one: "output", why: "An output adds up the hidden values, weighted, and a bias." },
  { letter: "e", title: "squared errors", one: "squared error", why: "How far the output is from the target, squared." },
  { letter: "m", title: "mean", one: "mean squared error", why: "One number for the whole image. Training makes it smaller." },
];

export const hiddenSize = (weights) => weights["layer1.bias"].length;
/** How many values each layer has. */
export const sizes = (weights) => [4, hiddenSize(weights), hiddenSize(weights), 4, 4, 1];
export const parameters = (weights) => Object.values(weights).flat(2).length;

/** The steps by hand, in order: all pixels at once, then value by value. */
export const stepsOf = (weights) => sizes(weights).flatMap((size, layer) =>
  layer === 0 ? [{ layer, index: null }] : Array.from({ length: size }, (_, index) => ({ layer, index })));

/** The values of every layer, from what the service explains. */
export function valuesOf({ pixels, pre_activation: sums, hidden, prediction, target, squared_error: mean }) {
  const errors = prediction.map((each, index) => (each - target[index]) ** 2);
  return [pixels, sums, hidden, prediction, errors, [mean]];
}

/** Whether a prediction, compared with 0.5, is the target. */
export const isFlipped = (prediction, target) =>
  prediction.every((value, index) => (value >= 0.5) === (target[index] === 1));

export function meanError(predictions, explanations) {
  const errors = explanations.flatMap(({ target }, image) =>
    target.map((pixel, index) => (predictions[image][index] - pixel) ** 2));
  return errors.reduce((all, each) => all + each, 0) / errors.length;
}

const affine = (matrix, bias, values) => matrix.map((row, to) =>
  row.reduce((sum, weight, from) => sum + weight * values[from], bias[to]));

/** The prediction as this page computes it, with ReLU or without. */
export function forward(weights, pixels, withRelu) {
  const sums = affine(weights["layer1.weight"], weights["layer1.bias"], pixels);
  const hidden = withRelu ? sums.map((sum) => Math.max(0, sum)) : sums;
  return affine(weights["layer2.weight"], weights["layer2.bias"], hidden);
}

/** The flip, projected onto a hyperplane that misses one sign pattern only: an affine map of rank 3. */
export function bestAffine({ target }) {
  const excess = target.reduce((sum, pixel) => sum + pixel - 0.5, 0);
  return target.map((pixel) => pixel - (excess - 0.5) / 4);
}

/** Terms with their signs, as one writes a sum. */
const join = (terms) => terms.map(([value, text], place) => {
  const sign = value < 0 ? "−" : "+";
  return place ? `${sign} ${text}` : `${value < 0 ? "−" : ""}${text}`;
}).join(" ");

const enclosed = (value) => (value < 0 ? `(${show(value)})` : show(value));

function sumLines(name, letter, index, row, bias, values) {
  const symbols = row.map((_, from) => `w${index}${from}·${letter}${from}`);
  const factors = row.map((weight, from) => [weight, `${show(Math.abs(weight))}·${enclosed(values[from])}`]);
  const products = row.map((weight, from) => [weight * values[from], show(Math.abs(weight * values[from]))]);
  const last = [bias, show(Math.abs(bias))];
  return [
    `${name} = ${symbols.join(" + ")} + b${index}`,
    `= ${join([...factors, last])}`,
    `= ${join([...products, last])}`,
  ];
}

/** A step written out: its title, why it is done, its lines without the result, and the result. */
export function writeOut(weights, explained, { layer, index }) {
  const values = valuesOf(explained);
  const { letter, one, title, why } = LAYERS[layer];
  const name = layer === 5 ? "m" : `${letter}${index}`;
  const told = { title: `${one} ${name}`, why, result: show(values[layer][index ?? 0]) };
  if (layer === 0) {
    return { ...told, title, result: "", lines: [`x = [${explained.pixels.join(", ")}]`] };
  }
  if (layer === 1 || layer === 3) {
    const matrix = layer === 1 ? "layer1" : "layer2";
    const [row, bias] = [weights[`${matrix}.weight`][index], weights[`${matrix}.bias`][index]];
    return { ...told, lines: sumLines(name, LAYERS[layer - 1].letter, index, row, bias, values[layer - 1]) };
  }
  if (layer === 2) {
    return { ...told, lines: [`${name} = max(0, s${index})`, `= max(0, ${show(values[1][index])})`] };
  }
  if (layer === 4) {
    const [output, target] = [explained.prediction[index], explained.target[index]];
    const difference = `= (${show(output - target)})²`;
    return { ...told, lines: [`${name} = (y${index} − target ${target})²`, `= (${show(output)} − ${target})²`, difference] };
  }
  return { ...told, lines: ["m = (e0 + e1 + e2 + e3) / 4", `= (${values[4].map(show).join(" + ")}) / 4`] };
}
