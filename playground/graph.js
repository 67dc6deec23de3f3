// The network as a graph: nodes in the order in which one computes by hand.

import { show } from "/playground/service.js";

const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT, RADIUS] = [760, 340, 26];

function make(name, attributes, parent, text = "") {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.textContent = text;
  parent.append(element);
  return element;
}

/** A sum as one writes it: bias + weight · value … */
function sum(bias, weights, values) {
  const terms = weights.map((weight, index) => {
    const sign = weight < 0 ? "−" : "+";
    return `${sign} ${show(Math.abs(weight))}·${show(values[index])}`;
  });
  return [show(bias), ...terms].join(" ");
}

export class Graph {
  /** Draws below `place`; `chosen` is called with the arithmetic of the chosen node. */
  constructor(place, weights, chosen) {
    this.weights = weights;
    this.tell = chosen;
    const hidden = weights["layer1.bias"].length;
    this.layers = [
      { title: "pixels", key: "pixels", size: 4 },
      { title: "sums", key: "pre_activation", size: hidden },
      { title: "ReLU", key: "hidden", size: hidden },
      { title: "prediction", key: "prediction", size: 4 },
    ];
    const svg = make("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "group" }, place);
    svg.setAttribute("aria-label", "The network's nodes and weights");
    this.edges = [];
    this.nodes = [];
    this.drawEdges(svg);
    this.layers.forEach((layer, column) => {
      make("text", { x: this.x(column), y: 16 }, svg, layer.title);
      for (let index = 0; index < layer.size; index += 1) this.drawNode(svg, column, index);
    });
    this.step = this.nodes.length - 1;
  }

  x(column) {
    return 60 + (column * (WIDTH - 120)) / 3;
  }

  y(column, index) {
    return 30 + ((index + 0.5) * (HEIGHT - 40)) / this.layers[column].size;
  }

  drawEdges(svg) {
    for (const [column, name] of [[1, "layer1.weight"], [3, "layer2.weight"]]) {
      this.weights[name].forEach((row, to) => {
        row.forEach((weight, from) => this.drawEdge(svg, column, to, from, weight));
      });
    }
    this.weights["layer1.bias"].forEach((_, index) => this.drawEdge(svg, 2, index, index, 1));
  }

  drawEdge(svg, column, to, from, weight) {
    const [x1, y1] = [this.x(column - 1) + RADIUS, this.y(column - 1, from)];
    const [x2, y2] = [this.x(column) - RADIUS, this.y(column, to)];
    const line = make("line", { x1, y1, x2, y2, "stroke-width": 1 + 8 * Math.abs(weight) }, svg);
    if (column === 2) line.setAttribute("stroke-width", 1);
    line.classList.toggle("minus", weight < 0);
    make("title", {}, line, column === 2 ? "ReLU" : `weight ${show(weight)}`);
    const place = { x: x1 + (x2 - x1) * 0.4, y: y1 + (y2 - y1) * 0.4 - 3, class: "weight" };
    const label = make("text", place, svg, column === 2 ? "" : show(weight));
    this.edges.push({ column, to, parts: [line, label] });
  }

  drawNode(svg, column, index) {
    const group = make("g", { role: "button", tabindex: 0 }, svg);
    const [cx, cy] = [this.x(column), this.y(column, index)];
    make("circle", { cx, cy, r: RADIUS }, group);
    const text = make("text", { x: cx, y: cy + 5, class: "value" }, group);
    const place = this.nodes.length;
    group.addEventListener("click", () => this.choose(place));
    group.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      this.choose(place);
    });
    this.nodes.push({ column, index, group, text });
  }

  /** Shows the steps of an image, as far as they have been gone. */
  show(explanation) {
    this.explanation = explanation;
    this.choose(this.step);
  }

  /** Chooses the node `place`, counted round; those behind it are not computed yet. */
  choose(place) {
    this.step = (place + this.nodes.length) % this.nodes.length;
    this.nodes.forEach(({ column, index, group, text }, each) => {
      const layer = this.layers[column];
      const value = show(this.explanation[layer.key][index]);
      text.textContent = value;
      const known = each <= this.step;
      group.classList.toggle("unknown", !known);
      group.classList.toggle("chosen", each === this.step);
      const told = known ? value : "not computed yet";
      group.setAttribute("aria-label", `${layer.title} ${index + 1}: ${told}`);
    });
    const { column, index } = this.nodes[this.step];
    for (const { column: to, to: row, parts } of this.edges) {
      for (const part of parts) part.classList.toggle("used", to === column && row === index);
    }
    this.tell(this.arithmetic(column, index));
  }

  arithmetic(column, index) {
    const { pixels, pre_activation: sums, hidden, prediction } = this.explanation;
    const name = `${this.layers[column].title} ${index + 1}`;
    if (column === 0) return `${name} = ${pixels[index]}, as you chose`;
    if (column === 2) return `${name} = max(0, ${show(sums[index])}) = ${show(hidden[index])}`;
    const layer = column === 1 ? "layer1" : "layer2";
    const [bias, row] = [this.weights[`${layer}.bias`][index], this.weights[`${layer}.weight`][index]];
    const result = column === 1 ? sums[index] : prediction[index];
    return `${name} = ${sum(bias, row, column === 1 ? pixels : hidden)} = ${show(result)}`;
  }
}
