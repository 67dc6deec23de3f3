// The page: what is clicked, asked and shown.

import { sendFile } from "/playground/files.js";
import { Graph } from "/playground/graph.js";
import { PREDICT, ask, explainAll, predict, show } from "/playground/service.js";

const $ = (id) => document.getElementById(id);
const bits = (number) => number.toString(2).padStart(4, "0");

let number = 11;
let explanations;
let graph;

function fail(error) {
  $("fault").hidden = !error;
  $("fault").textContent = error ? `The service says: ${error.message}` : "";
}

function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function fill(id, values, pixels) {
  $(id).replaceChildren(...values.map((value, index) =>
    element("div", pixels ? { "data-pixel": pixels[index] } : {}, show(value))));
}

function drawPixels() {
  $("pixels").replaceChildren(...[0, 1, 2, 3].map((place) => {
    const button = element("button", { type: "button", id: `pixel-${place}` });
    button.addEventListener("click", () => choose(number ^ (8 >> place)));
    return button;
  }));
  $("all").replaceChildren(...explanations.map(({ pixels }, image) => {
    const small = element("span", { class: "small" },
      ...pixels.map((pixel) => element("span", { "data-pixel": pixel })));
    const button = element("button", { type: "button", "aria-label": `Image ${image}, ${bits(image)}` }, small);
    button.addEventListener("click", () => choose(image));
    return button;
  }));
}

async function choose(image) {
  number = image;
  const { pixels, target, squared_error: error } = explanations[number];
  pixels.forEach((pixel, place) => {
    const button = $(`pixel-${place}`);
    button.dataset.pixel = pixel;
    button.textContent = pixel;
    button.setAttribute("aria-pressed", pixel === 1);
    button.setAttribute("aria-label", `Pixel ${place + 1}: ${pixel}`);
  });
  [...$("all").children].forEach((button, each) => button.setAttribute("aria-pressed", each === number));
  $("number").textContent = number;
  $("error").textContent = error.toFixed(5);
  fill("target", target, target);
  graph.show(explanations[number]);
  const url = location.origin + PREDICT;
  $("bits").textContent = `${bits(number)} 0000   one byte, 0x${(number << 4).toString(16).padStart(2, "0")}; the last four bits are padding`;
  $("curl").textContent = `curl ${url} -H 'Content-Type: application/json' -d '{"images": [${number}]}'`;
  $("python").textContent = `from diagonalflip import Client\n\nwith Client("${location.origin}") as client:\n    print(client.predict([${number}]))`;
  try {
    const { text, prediction } = await predict(image);
    if (image !== number) return; // another one was chosen meanwhile
    $("answer").textContent = text;
    fill("prediction", prediction);
    fail();
  } catch (error) {
    fail(error);
  }
}

async function send(file) {
  $("progress").hidden = false;
  $("sent").textContent = "";
  try {
    const { images, seconds, answers } = await sendFile(file, (done) => { $("progress").value = done; });
    const link = element("a", { href: URL.createObjectURL(answers), download: `${file.name}.f32` },
      "Download the predictions (float32, little-endian)");
    const rate = Math.round(images / seconds).toLocaleString("en");
    $("sent").replaceChildren(`${images.toLocaleString("en")} images, ${rate} images/s. `, link);
    fail();
  } catch (error) {
    fail(error);
  }
  $("progress").hidden = true;
}

async function follow() {
  try {
    if (!document.hidden) {
      const { ready, workers } = await (await ask("/status")).json();
      $("workers").replaceChildren(...workers.map((worker) => element("tr", {},
        element("td", {}, String(worker.worker)),
        ...[worker.requests, worker.images, worker.requests_per_batch].map((value) =>
          element("td", {}, Number(value.toFixed(1)).toLocaleString("en"))),
        ...[worker.p50_s, worker.p99_s].map((value) => element("td", {}, `${(1000 * value).toFixed(2)} ms`)))));
      $("served").dataset.ready = ready;
    }
  } catch (error) {
    fail(error);
  }
  setTimeout(follow, 1000);
}

async function start() {
  const weights = await (await ask("/weights.json")).json();
  explanations = await explainAll();
  graph = new Graph($("graph"), weights, (text) => { $("arithmetic").textContent = text; });
  const total = explanations.reduce((all, each) => all + each.squared_error, 0) / explanations.length;
  $("total").textContent = total.toFixed(5);
  const served = await (await ask(PREDICT)).json();
  $("flips").textContent = served.flips === 16
    ? `Version ${served.version} flips all of them.`
    : `Version ${served.version} is not trained to flip: it flips ${served.flips} of them.`;
  $("served").textContent = `Version ${served.version} runs on ${served.device_name}, ${served.runtime}. The last second of each worker:`;
  drawPixels();
  $("next").addEventListener("click", () => graph.choose(graph.step + 1));
  $("back").addEventListener("click", () => graph.choose(graph.step - 1));
  $("file").addEventListener("change", () => $("file").files[0] && send($("file").files[0]));
  $("drop").addEventListener("dragover", (event) => { event.preventDefault(); $("drop").classList.add("over"); });
  $("drop").addEventListener("dragleave", () => $("drop").classList.remove("over"));
  $("drop").addEventListener("drop", (event) => {
    event.preventDefault();
    $("drop").classList.remove("over");
    if (event.dataTransfer.files[0]) send(event.dataTransfer.files[0]);
  });
  await choose(number);
  document.body.dataset.started = "yes";
  follow();
}

start().catch(fail);
