// Files of images: what each one is, one after another to the service, predictions back.

import { $, count, element, show } from "/playground/dom.js";
import { predictBody } from "/playground/service.js";
import { state } from "/playground/state.js";

const CHUNK_BYTES = 1 << 19;
const PREVIEW = 4;
const MOST_CSV_IMAGES = 131_072; // more are too much text for a page
const KINDS = {
  bin: { type: "application/octet-stream", begins: /^(?!\xff\xd8\xff|\x89PNG|GIF8|%PDF|PK\x03\x04|\x1f\x8b|\x93NUMPY)/ },
  txt: { type: "text/plain", begins: /^(\xef\xbb\xbf)?[0-9a-fA-F\s]+$/ },
  json: { type: "application/json", begins: /^(\xef\xbb\xbf)?\s*\{/ },
  png: { type: "image/png", begins: /^\x89PNG\r\n\x1a\n/ },
  pbm: { type: "image/x-portable-bitmap", begins: /^P[14]\s/ },
};

let queue = Promise.resolve();

/** The media type of a file, by its suffix and its first bytes; throws an Error if it is not of images. */
async function typeOf(file) {
  const suffix = /\.([^.]*)$/.exec(file.name)?.[1].toLowerCase();
  const accepted = `Send ${Object.keys(KINDS).map((each) => `.${each}`).join(", ")}.`;
  if (!Object.hasOwn(KINDS, suffix ?? "")) throw new Error(`Rejected: it is none of the known types. ${accepted}`);
  if (!file.size) throw new Error("Rejected: the file is empty.");
  const first = String.fromCharCode(...new Uint8Array(await file.slice(0, 16).arrayBuffer()));
  if (!KINDS[suffix].begins.test(first)) throw new Error(`Rejected: the content is not what .${suffix} says. ${accepted}`);
  return KINDS[suffix].type;
}

/** Sends `file`, packed images in chunks, others whole; calls `progressed` with 0 to 1. */
async function sendFile(file, version, progressed) {
  const type = await typeOf(file);
  const chunk = type === KINDS.bin.type ? CHUNK_BYTES : file.size;
  const parts = [];
  const started = performance.now();
  let images = 0;
  for (let start = 0; start < file.size; start += chunk) {
    const part = await predictBody(version, file.slice(start, start + chunk), type);
    images += part.images;
    parts.push(part.predictions);
    progressed(Math.min(1, (start + chunk) / file.size));
  }
  return { images, seconds: Math.max(1, performance.now() - started) / 1000, parts };
}

const shortened = new Map(); // the same few numbers, again and again: there are 16 images

/** A float32 with as few digits as still are that one: 0.1, not 0.10000000149011612. */
function shortest(value) {
  if (!shortened.has(value)) {
    const digits = [6, 7, 8, 9].find((each) => Math.fround(value.toPrecision(each)) === value);
    shortened.set(value, Number(value.toPrecision(digits)));
  }
  return shortened.get(value);
}

function results(file, version, { images, seconds, parts }) {
  const first = Array.from({ length: Math.min(images, PREVIEW) }, (_, row) =>
    `[${[...parts[0].slice(4 * row, 4 * row + 4)].map(show).join(", ")}]`);
  const link = (blob, suffix, text) =>
    element("a", { href: URL.createObjectURL(blob), download: `${file.name}.${suffix}` }, text);
  const lines = (part) => Array.from({ length: part.length / 4 }, (_, row) => `${Array.from(part.subarray(4 * row, 4 * row + 4), shortest)}\n`);
  const csv = images > MOST_CSV_IMAGES ? [] : [link(new Blob(parts.flatMap(lines)), "csv", "CSV"), " or "];
  return [
    `: ${count(images)} ${images === 1 ? "image" : "images"}, version ${version}, ${count(images / seconds)} images/s. `,
    element("span", { class: "code" }, first.join("\n") + (images > PREVIEW ? "\n…" : "")),
    "Download all predictions as ", ...csv, link(new Blob(parts), "f32", "float32, little-endian"), ".",
  ];
}

async function send(file, version, line) {
  const bar = element("progress", { max: 1, value: 0, "aria-label": `Progress of ${file.name}` });
  line.append(bar);
  try {
    const result = await sendFile(file, version, (done) => { bar.value = done; });
    line.append(...results(file, version, result));
  } catch (error) {
    line.append(element("span", { class: "wrong" }, ` ${error.message}`));
  }
  bar.remove();
}

function take(files) {
  const { version } = state;
  for (const file of files) {
    const line = element("li", {}, element("b", {}, file.name));
    $("sent").append(line);
    queue = queue.then(() => send(file, version, line));
  }
}

const isForField = (event) => event.target.tagName === "INPUT" && !event.dataTransfer.types.includes("Files");

export function startFiles() {
  $("file").addEventListener("change", () => {
    take($("file").files);
    $("file").value = ""; // so that the same file can be chosen again
  });
  // Anywhere, for a browser opens what is dropped beside the box; but text may go into a field.
  document.addEventListener("dragover", (event) => {
    if (isForField(event)) return;
    event.preventDefault();
    $("drop").classList.add("over");
  });
  document.addEventListener("dragleave", () => $("drop").classList.remove("over"));
  document.addEventListener("drop", (event) => {
    if (isForField(event)) return;
    event.preventDefault();
    $("drop").classList.remove("over");
    take(event.dataTransfer.files);
  });
}
