// The page's start; what is asked of the service at every change, and every second.

import { showSingle, startBatch } from "/playground/batch.js";
import { startConvention } from "/playground/convention.js";
import { $, count, table } from "/playground/dom.js";
import { startExercises } from "/playground/exercises.js";
import { startFiles } from "/playground/files.js";
import { startGraph } from "/playground/graph.js";
import { startRequest } from "/playground/request.js";
import { loadVersions, predict, status } from "/playground/service.js";
import { current, follow, models, readAddress, state } from "/playground/state.js";
import { startVersions } from "/playground/versions.js";

function fail(error) {
  const text = error ? error.message : "";
  $("fault").hidden = !error;
  if ($("fault").textContent !== text) $("fault").textContent = text; // which is read out, again and again
}

/** Asks for the single pass of the image, unless another one is chosen meanwhile. */
async function askSingle() {
  const { image, version } = state;
  const isStale = () => image !== state.image || version !== state.version;
  showSingle(null);
  $("response").textContent = "…";
  try {
    const { text, prediction } = await predict(version, image);
    if (isStale()) return;
    $("response").textContent = text;
    showSingle(prediction);
  } catch (error) {
    if (isStale()) return;
    $("response").textContent = error.message;
    showSingle(null, "not known");
  }
}

function showWorkers({ ready, workers }) {
  const rows = workers.map((each) => [String(each.worker),
    ...[each.requests, each.images, each.requests_per_batch].map(count),
    ...[each.p50_s, each.p99_s].map((seconds) => (1000 * seconds).toFixed(2))]);
  const head = ["Worker", "Requests / s", "Images / s", "Requests / batch", "p50, ms", "p99, ms"];
  $("workers").replaceChildren(table(head, rows));
  const { device_name: device, runtime } = current().description;
  $("served").textContent = `Version ${state.version} runs on ${device}, ${runtime}. `
    + `${ready ? "Ready" : "The service stops"}. The last second of each worker:`;
}

async function watch() {
  try {
    if (!document.hidden) {
      showWorkers(await status());
      if (!$("fault").hidden) askSingle(); // what failed meanwhile
      fail();
    }
  } catch (error) {
    fail(new Error(`${error.message} What is shown was computed before. Trying again every second.`));
  }
  setTimeout(watch, 1000);
}

async function start(versions) {
  for (const model of versions) models.set(model.version, model);
  state.version = models.keys().next().value;
  readAddress();
  addEventListener("hashchange", readAddress);
  for (const part of [startVersions, startGraph, startConvention, startBatch, startExercises, startRequest, startFiles]) part();
  follow((changed) => {
    if (changed.has("image") || changed.has("version")) askSingle();
  });
  document.body.dataset.started = "yes";
  watch();
}

function load() {
  loadVersions().then(start).catch((error) => {
    fail(error);
    if (!models.size) setTimeout(load, 1000); // the service may be full, or be started again
  });
}

load();
