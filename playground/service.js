// What the page asks of the service.

const MODEL = "diagonal_flip";
export const PREDICT = `/predictions/${MODEL}`;

/** Asks; returns the response, or throws an Error with what the service says is wrong. */
export async function ask(path, options = {}) {
  const response = await fetch(path, options);
  if (!response.ok) {
    const problem = await response.json().catch(() => ({ detail: response.statusText }));
    throw new Error(`${response.status}: ${problem.detail}`);
  }
  return response;
}

/** Every step of the network for each of the 16 images, by number. */
export async function explainAll() {
  const body = Uint8Array.from([0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef]);
  const headers = { "Content-Type": "application/octet-stream" };
  const response = await ask(`/explanations/${MODEL}`, { method: "POST", headers, body });
  return (await response.json()).explanations;
}

/** One image's prediction: the answer's text, and what it says. */
export async function predict(number) {
  const body = JSON.stringify({ images: [number] });
  const headers = { "Content-Type": "application/json" };
  const response = await ask(PREDICT, { method: "POST", headers, body });
  const text = await response.text();
  return { text, prediction: JSON.parse(text).predictions[0], headers: response.headers };
}

/** A number for people. */
export const show = (value) => String(Number(value.toFixed(4))).replace("-", "−");
