// Elements, and how numbers and pixels are shown.

const SVG = "http://www.w3.org/2000/svg";
export const $ = (id) => document.getElementById(id);

function fill(made, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

export const element = (name, attributes = {}, ...children) =>
  fill(document.createElement(name), attributes, children);
export const svg = (name, attributes = {}, ...children) =>
  fill(document.createElementNS(SVG, name), attributes, children);

export function button(text, pressed, attributes = {}) {
  const made = element("button", { type: "button", ...attributes }, text);
  made.addEventListener("click", pressed);
  return made;
}

/** A table; each row begins with its name. */
export function table(head, rows) {
  const headings = head.map((text) => element("th", { scope: "col" }, text));
  const body = rows.map(([name, ...values]) => element("tr", {}, element("th", { scope: "row" }, name),
    ...values.map((value) => element("td", {}, value))));
  return element("table", {}, element("thead", {}, element("tr", {}, ...headings)), element("tbody", {}, ...body));
}

/** A number for people: at most four decimals, rounded as by hand, with a real minus and no −0. */
export function show(value) {
  const exact = Math.abs(Number(value.toFixed(6))); // 0.89625 is a little less in float32
  const rounded = Math.round(exact * 10_000) / 10_000;
  return value < 0 && rounded ? `−${rounded}` : String(rounded);
}

export const count = (value) => Math.round(value).toLocaleString("en");
export const shape = (...sizes) => `(${sizes.join(", ")}${sizes.length === 1 ? "," : ""})`;
export const bits = (image) => image.toString(2).padStart(4, "0");

/** Paints a cell as a picture shows its value: 0 black, 1 white, below 0 red. */
export function paintPixel(cell, value) {
  const share = Math.round(100 * Math.min(1, value < 0 ? 1.6 * Math.sqrt(-value) : value));
  cell.style.background = `color-mix(in srgb, ${value < 0 ? "#c22f1f" : "white"} ${share}%, black)`;
  cell.style.color = value < 0.46 ? "white" : "black";
}

/** Paints a cell by sign and size: blue is positive, red is negative. */
export function paintValue(cell, value, largest) {
  const sign = value < 0 ? "--minus" : "--plus";
  const share = Math.round((90 * Math.abs(value)) / largest);
  cell.style.background = `color-mix(in srgb, var(${sign}) ${share}%, var(--paper))`;
}

/** Four values as a 2×2 picture, with their numbers or without. */
export function tile(values, numbers) {
  return element("span", { class: "tile" }, ...values.map((value) => {
    const cell = element("span", {}, numbers ? show(value) : "");
    paintPixel(cell, value);
    return cell;
  }));
}
