// Small drawings for what happened in a turn, 12 px high, each with its words.

import { svg } from "./dom.js";

const SHAPES = {
  decided: [["path", { class: "solid", d: "M2 2h8l-4 5zM5.4 6h1.2v5H5.4z" }]],
  dropped: [
    ["circle", { class: "line dashed", cx: 6, cy: 6, r: 4.5 }],
    ["path", { class: "line", d: "M3.6 8.4 8.4 3.6" }],
  ],
  barge_in: [["path", { class: "solid stop", d: "M10.4 1.5v9H9v-9zM8.4 6 2 2v8z" }]],
  cut_in: [["path", { class: "line stop", d: "M1 6h2.2l1.8-4 2.4 8 1.6-4h2" }]],
  underrun: [["path", { class: "line stop", d: "M1.5 3v6M4 4.5v3M8 4.5v3M10.5 3v6" }]],
  missed: [
    ["path", { class: "line", d: "M3.6 4.2a2.4 2.4 0 1 1 3.6 2c-.8.5-1.2.9-1.2 1.8M6 10.2v.4" }],
  ],
  played: [["circle", { class: "line ring", cx: 6, cy: 6, r: 3.4 }]],
  failed: [["path", { class: "line stop", d: "M2.5 2.5l7 7M9.5 2.5l-7 7" }]],
};

/** What each symbol says. */
export const WORDS = {
  decided: "end of turn decided",
  played: "heard by the caller",
  dropped: "speculation dropped",
  barge_in: "caller barged in",
  cut_in: "we cut in",
  underrun: "sound ran dry",
  missed: "not understood",
  failed: "failed",
};

/** Draw a symbol about the point (x, y). */
export function symbol(name, x, y) {
  const shapes = SHAPES[name].map(([kind, attributes]) => svg(kind, attributes));
  return svg(
    "g",
    { class: `symbol ${name}`, transform: `translate(${x - 6} ${y - 6})` },
    ...shapes,
  );
}

/**
 * What happened in a turn: symbols with words, the gravest first, and `at`, in s on its axis,
 * where that is known.
 */
export function flags(record) {
  const {
    outcome,
    cut_in: cutIn,
    barge_in: barge,
    underruns,
    missed,
    speculations,
    marks,
  } = record;
  const found = [];
  const add = (name, count = 1, at = null) => {
    found.push({ name, words: count > 1 ? `${WORDS[name]} ${count} times` : WORDS[name], at });
  };
  if (outcome === "failed") add("failed");
  if (cutIn) add("cut_in", 1, barge?.heard);
  else if (barge) add("barge_in", 1, barge.heard);
  if (underruns > 0) add("underrun", underruns);
  if (missed) add("missed");
  if (speculations?.dropped > 0) add("dropped", speculations.dropped, marks?.dropped);
  return found;
}
