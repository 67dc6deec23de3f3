// What the page asks of the service.

const MODEL = "diagonal_flip";
const OCTETS = "application/octet-stream";
const ALL_IMAGES = Uint8Array.of(0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef);

export const predictPath = (version) => `/predictions/${MODEL}/${version}`;

/** Asks; returns the response, or throws an Error with what is wrong. */
export async function ask(path, options = {}) {
  const response = await fetch(path, options).catch(() => {
    throw new Error("The service cannot be reached.");
  });
  if (!response.ok) {
    const problem = await response.json().catch(() => ({ detail: response.statusText }));
    throw new Error(`The service says: ${response.status}, ${problem.detail ?? problem.error}`);
  }
  return response;
}

const read = async (path, options) => (await ask(path, options)).json();
const post = (type, body, accept = type) =>
  ({ method: "POST", headers: { "Content-Type": type, Accept: accept }, body });

/** One version: what it says of itself, its weights, and every step for each of the 16 images. */
async function loadVersion(version) {
  const [description, weights, { explanations }] = await Promise.all([
    read(predictPath(version)),
    read(`/weights/${version}.json`),
    read(`/explanations/${MODEL}/${version}`, post(OCTETS, ALL_IMAGES, "application/json")),
  ]);
  return { version, description, weights, explanations };
}

/** All versions, the default first. */
export async function loadVersions() {
  const { versions } = await read(`/v2/models/${MODEL}`);
  return Promise.all(versions.map(loadVersion));
}

/** One image's prediction, and the text of the response. */
export async function predict(version, image) {
  const body = JSON.stringify({ images: [image] });
  const response = await ask(predictPath(version), post("application/json", body));
  const text = await response.text();
  return { text, prediction: JSON.parse(text).predictions[0] };
}

/** Predictions of packed images or of a file: how many images, and their float32 in rows of four. */
export async function predictBody(version, body, type = OCTETS) {
  const response = await ask(predictPath(version), post(type, body, OCTETS));
  const images = Number(response.headers.get("Flip-Images"));
  return { images, predictions: new Float32Array(await response.arrayBuffer()) };
}

/** The 16 images over and over, packed, as body and its media type; an odd last one is image 0. */
export function packed(images) {
  const body = new Uint8Array(Math.ceil(images / 2)).map((_, place) => ALL_IMAGES[place % 8]);
  if (images % 2) body[body.length - 1] = 0;
  return [body, images % 2 ? `${OCTETS}; padding=4` : OCTETS];
}

export const status = () => read("/status");
