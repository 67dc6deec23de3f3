// What the page shows; its address says so, so that a step of a lesson can be linked.

import { stepsOf } from "/playground/network.js";

export const state = { image: 11, version: "", step: 1, both: true, edge: null };
export const models = new Map();
const followers = [];

export const current = () => models.get(state.version);
export const shownModels = () => [...models.values()].filter((each) => state.both || each === current());
export const explanation = () => current().explanations[state.image];

/** Calls `follower` now and after every change, with the names of what has changed. */
export function follow(follower) {
  followers.push(follower);
  follower(new Set(Object.keys(state)));
}

function wholeNumber(text, least, most, otherwise) {
  const value = /^\d+$/.test(text ?? "") ? Number(text) : otherwise;
  return Math.min(most, Math.max(least, value));
}

export function change(changes) {
  const before = { ...state };
  Object.assign(state, changes);
  const steps = stepsOf(current().weights);
  state.step = wholeNumber(String(state.step), 1, steps.length, 1);
  const { layer, index } = steps[state.step - 1];
  const moved = state.step !== before.step || state.version !== before.version || !state.edge;
  if (moved && !changes.edge) {
    // The first edge into the node, where the layer has weights.
    const kept = state.edge?.matrix ?? 1;
    const matrix = { 1: 1, 3: 2 }[layer] ?? kept;
    state.edge = { matrix, to: layer === 1 || layer === 3 ? index : 0, from: 0 }; // not a chosen one
  }
  const { image, version, step, both } = state;
  const told = new URLSearchParams({ image, version, step, ...(both ? {} : { both: "no" }) });
  try {
    if (location.hash !== `#${told}`) history.replaceState(null, "", `#${told}`);
  } catch { // Safari takes 100 in 10 seconds, as many as a key that is held down makes; the next will do
  }
  const changed = new Set(Object.keys(state).filter((name) => state[name] !== before[name]));
  for (const follower of followers) follower(changed);
}

/** Takes the state from the address; what it does not say, or says wrongly, is as it was. */
export function readAddress() {
  const told = new URLSearchParams(location.hash.slice(1));
  change({
    image: wholeNumber(told.get("image"), 0, 15, state.image),
    version: models.has(told.get("version")) ? told.get("version") : state.version,
    step: wholeNumber(told.get("step"), 1, Infinity, state.step),
    both: told.get("both") !== "no",
  });
}
