// A file's images to predictions: packed files in chunks, others whole.

import { PREDICT, ask } from "/playground/service.js";

const CHUNK_BYTES = 1 << 19;
const TYPES = { png: "image/png", pbm: "image/x-portable-bitmap", txt: "text/plain", json: "application/json" };

/** Sends `file`; calls `progressed` with 0 to 1. Returns images, seconds, and answers as a Blob. */
export async function sendFile(file, progressed) {
  const type = TYPES[file.name.split(".").pop().toLowerCase()] ?? "application/octet-stream";
  const chunk = type === "application/octet-stream" ? CHUNK_BYTES : file.size;
  const headers = { "Content-Type": type, Accept: "application/octet-stream" };
  const answers = [];
  const started = performance.now();
  let images = 0;
  let start = 0;
  do {
    const body = file.slice(start, start + chunk);
    const response = await ask(PREDICT, { method: "POST", headers, body });
    images += Number(response.headers.get("Flip-Images"));
    answers.push(await response.arrayBuffer());
    start += chunk;
    progressed(Math.min(1, start / file.size));
  } while (start < file.size);
  return { images, seconds: (performance.now() - started) / 1000, answers: new Blob(answers) };
}
