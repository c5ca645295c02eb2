// One turn as numbers: its stages, which are the legend too, and what else is known of it.

import { element, svg } from "./dom.js";
import { colour, milliseconds, share, words } from "./stages.js";
import { flags, symbol } from "./symbols.js";

/** Show `record` in `box`; null shows nothing. `split` has each stage's share of the budget. */
export function showDetails(box, record, split, pinned) {
  if (!record) return box.replaceChildren();
  const name = element("h3", {}, `Turn ${record.turn}`);
  const call = element("span", { class: "call", title: String(record.call) }, String(record.call));
  const pin = element("span", { class: "pin" }, pinned ? "pinned: press again to follow" : "");
  box.replaceChildren(
    element("div", { class: "whose" }, name, call, pin),
    stages(record, split),
    element("dl", { class: "facts" }, ...facts(record).flatMap(fact)),
    happened(record),
  );
}

function stages(record, split) {
  const rows = Object.entries(record.stages ?? {}).map(([stage, seconds]) => {
    const limit = share(split, stage);
    const late = limit > 0 && seconds > limit;
    return element(
      "tr",
      { class: `${stage === record.over ? "blamed" : ""}` },
      element("th", { scope: "row", class: colour(stage) }, words(stage)),
      element("td", { class: late ? "late" : "" }, milliseconds(seconds)),
      element("td", { class: "share" }, limit > 0 ? `of ${milliseconds(limit)}` : ""),
    );
  });
  const over = record.total > record.budget;
  const sum = element(
    "tr",
    { class: "sum" },
    element("th", { scope: "row" }, "total"),
    element("td", { class: over ? "late" : "" }, milliseconds(record.total)),
    element("td", { class: "share" }, record.budget ? `of ${milliseconds(record.budget)}` : ""),
  );
  return element("table", { class: "stages" }, element("tbody", {}, ...rows, sum));
}

function facts(record) {
  const { llm, asr, tts, speculations: guessed, barge_in: barge, marks } = record;
  const found = [];
  const add = (name, value) => value && found.push([name, value]);
  add("when", record.wall && new Date(record.wall * 1000).toLocaleTimeString());
  add("by", record.transport);
  add("outcome", record.outcome && words(record.outcome));
  add("first token", llm && milliseconds(llm.ttft));
  add(
    "tokens",
    llm &&
      `${llm.tokens}${given(llm.tokens_per_second, (rate) => `, ${Math.round(rate)} a second`)}`,
  );
  add(
    "between tokens",
    given(llm?.itl_p50, (gap) => `${milliseconds(gap)}, p95 ${milliseconds(llm.itl_p95)}`),
  );
  add(
    "hearing at",
    given(asr?.rtf, (rtf) => `${rtf.toFixed(2)} × real time`),
  );
  add(
    "voice at",
    given(tts?.rtf, (rtf) => `${rtf.toFixed(2)} × real time`),
  );
  add(
    "speculation",
    guessed?.begun > 0 &&
      `${guessed.begun} begun, ${guessed.kept} kept, ${guessed.dropped} dropped`,
  );
  add(
    "engines",
    given(
      record.worked,
      (all) => `${milliseconds(all)}, ${milliseconds(record.wasted ?? 0)} in vain`,
    ),
  );
  add(
    "heard by caller",
    given(marks?.played, (at) => `after ${milliseconds(at)}`),
  );
  add(
    "barge-in",
    given(
      barge?.heard,
      (at) =>
        `after ${milliseconds(at)}${given(barge.stopped, (end) => `, quiet ${milliseconds(end - at)} later`)}`,
    ),
  );
  add("loop late", given(record.loop_late, milliseconds));
  return found;
}

const given = (value, say) => (value === null || value === undefined ? "" : say(value));

const fact = ([name, value]) => [element("dt", {}, name), element("dd", {}, String(value))];

function happened(record) {
  const items = flags(record).map(({ name, words }) =>
    element(
      "li",
      {},
      svg("svg", { width: 12, height: 12, "aria-hidden": true }, symbol(name, 6, 6)),
      words,
    ),
  );
  return element("ul", { class: "happened" }, ...items);
}
