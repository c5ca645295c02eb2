// The tuner: what it is at, where each knob stands on its ladder, and every move with its reason.

import { element, sizeOf, svg } from "./dom.js";
import { figure, milliseconds } from "./stages.js";

const MOVES = 80; // shown
const MODES = { on: "on", observe: "watching only", off: "off" };

const KINDS = {
  try: { word: "try", sign: "M2 6h7M6 2.5 9.5 6 6 9.5" },
  keep: { word: "keep", sign: "M2 6.5 5 9.5 10 3" },
  roll_back: { word: "take back", sign: "M5 2.5 1.8 5.7 5 9M2 5.7h5a2.6 2.6 0 0 1 0 5" },
  restore: { word: "back to start", sign: "M1.5 6 6 2l4.5 4M3 5.5V10h6V5.5" },
  relieve: { word: "relieve", sign: "M6 1.5v7M2.8 5.8 6 9l3.2-3.2" },
  give_up: { word: "give up", sign: "M2.5 2.5l7 7M9.5 2.5l-7 7" },
};

/** Draws the tuner of a snapshot into `badge`, `state`, `ladders` and `log`. */
export class TunerView {
  #values = "";
  #newest = "";

  constructor({ badge, state, ladders, log, empty }) {
    Object.assign(this, { badge, state, ladders, log, empty });
    this.size = sizeOf(ladders);
    new ResizeObserver(() => this.#redraw()).observe(ladders);
  }

  show(tuner, now, budget) {
    const { mode = "off", state = "", values = {}, moves = [] } = tuner ?? {};
    this.badge.textContent = MODES[mode] ?? String(mode);
    this.badge.dataset.mode = mode in MODES ? mode : "off";
    this.state.textContent = mode === "off" ? "nothing is moved" : String(state);
    this.knobs = values;
    const shape = JSON.stringify(values);
    if (shape !== this.#values) {
      this.#values = shape;
      this.#redraw();
    }
    const newest = moves.map(({ at, kind }) => `${at} ${kind}`).join();
    if (newest !== this.#newest) {
      this.#newest = newest;
      const latest = moves.toSorted((a, b) => b.at - a.at).slice(0, MOVES);
      this.log.replaceChildren(...latest.map((move) => entry(move, budget)));
      this.empty.hidden = latest.length > 0;
      this.empty.textContent =
        mode === "off" ? 'Set tuner = "observe" or "on" to see moves.' : "No moves yet.";
    }
    for (const time of this.log.querySelectorAll("time"))
      time.textContent = ago(now - Number(time.dataset.at));
  }

  #redraw() {
    const room = this.size.width;
    if (!room || !this.knobs) return;
    const columns = Math.max(1, Math.floor(room / 260));
    const width = Math.floor((room - (columns - 1) * 24) / columns);
    this.ladders.style.setProperty("--columns", columns);
    this.ladders.replaceChildren(
      ...Object.entries(this.knobs).map(([name, knob]) => ladder(name, knob, width)),
    );
  }
}

function ladder(name, { value, start, values = [], pinned }, width) {
  const moved = value !== start;
  const head = element("div", { class: "name" }, element("span", {}, name));
  if (pinned) head.append(lock());
  head.append(element("b", {}, number(value)));
  if (moved) head.append(element("i", {}, `from ${number(start)}`));
  const rungs = values.length ? values : [value];
  const ends = [rungs[0], rungs.at(-1)].map(number);
  const [left, right] = ends.map((text) => 10 + text.length * 6.4);
  const x = (step) =>
    left + (rungs.length > 1 ? step / (rungs.length - 1) : 0.5) * (width - left - right);
  const [now, from] = [nearest(rungs, value), nearest(rungs, start)];
  const y = 9;
  const label = `${name}: ${number(value)}, started at ${number(start)}, between ${ends[0]} and ${ends[1]}`;
  return element(
    "div",
    { class: `knob${moved ? " moved" : ""}${pinned ? " pinned" : ""}`, "data-knob": name },
    head,
    svg(
      "svg",
      { width, height: 18, role: "img", "aria-label": label + (pinned ? ", pinned" : "") },
      svg("line", { class: "rail", x1: x(0), x2: x(rungs.length - 1), y1: y, y2: y }),
      ...rungs.map((_, step) =>
        svg("line", { class: "rung", x1: x(step), x2: x(step), y1: y - 3, y2: y + 3 }),
      ),
      svg("line", { class: "way", x1: x(from), x2: x(now), y1: y, y2: y }),
      svg("circle", { class: "start", cx: x(from), cy: y, r: 4.5 }),
      svg("circle", { class: "now", cx: x(now), cy: y, r: moved ? 5.5 : 3 }),
      svg("text", { class: "axis", x: 0, y: y + 4, "text-anchor": "start" }, ends[0]),
      svg("text", { class: "axis", x: width, y: y + 4, "text-anchor": "end" }, ends[1]),
    ),
  );
}

const lock = () =>
  svg(
    "svg",
    {
      class: "lock",
      viewBox: "0 0 12 12",
      width: 11,
      height: 11,
      role: "img",
      "aria-label": "pinned",
    },
    svg("title", {}, "pinned: the tuner leaves it alone"),
    svg("path", { d: "M3.5 5.5V4a2.5 2.5 0 0 1 5 0v1.5M2.5 5.5h7v5h-7z" }),
  );

function entry(move, budget) {
  const kind = KINDS[Object.hasOwn(KINDS, move.kind) ? move.kind : "try"];
  const sign = svg(
    "svg",
    { width: 12, height: 12, "aria-hidden": true },
    svg("path", { d: kind.sign }),
  );
  const what = element("div", { class: "what" }, element("b", {}, kind.word));
  if (move.knob) what.append(element("span", { class: "knob" }, move.knob));
  if (move.before !== move.after) {
    what.append(
      element("span", { class: "values" }, `${number(move.before)} → ${number(move.after)}`),
    );
  }
  if (!move.applied && move.kind !== "give_up") what.append(element("em", {}, "not applied"));
  what.append(element("time", { "data-at": Number(move.at) }));
  const item = element("li", {
    class: `move ${Object.hasOwn(KINDS, move.kind) ? move.kind : "try"}`,
  });
  item.append(
    element("span", { class: "sign" }, sign),
    what,
    element("p", {}, String(move.reason ?? "")),
  );
  const drawn = effect(move, budget?.total ?? 0);
  if (drawn) item.append(drawn);
  return item;
}

// p95 before and after, on a rail with the budget's line.
function effect({ p95_before: before, p95_after: after }, limit) {
  const known = [before, after].filter((p95) => typeof p95 === "number");
  if (!known.length) return null;
  const width = 150;
  const all = limit > 0 ? [...known, limit] : known;
  const [low, high] = [0.85 * Math.min(...all), 1.1 * Math.max(...all)]; // points, no bars: not from 0
  const x = (seconds) => 5 + ((seconds - low) / Math.max(high - low, 1e-6)) * (width - 10);
  const chart = svg("svg", { width, height: 14, "aria-hidden": true });
  chart.append(svg("line", { class: "rail", x1: 1, x2: width - 1, y1: 7, y2: 7 }));
  if (limit > 0)
    chart.append(svg("line", { class: "budget", x1: x(limit), x2: x(limit), y1: 0, y2: 14 }));
  const words = [];
  if (known.length === 2) {
    const better = after <= before;
    chart.append(
      svg("line", {
        class: `way ${better ? "better" : "worse"}`,
        x1: x(before),
        x2: x(after),
        y1: 7,
        y2: 7,
      }),
    );
    words.push(`p95 ${figure(before)} → ${milliseconds(after)}`);
  } else {
    words.push(`p95 ${milliseconds(known[0])}`);
  }
  if (typeof before === "number")
    chart.append(svg("circle", { class: "before", cx: x(before), cy: 7, r: 3.5 }));
  if (typeof after === "number")
    chart.append(svg("circle", { class: "after", cx: x(after), cy: 7, r: 4 }));
  return element("div", { class: "effect" }, chart, element("span", {}, words.join("")));
}

function nearest(values, wanted) {
  const far = values.map((value) => Math.abs(value - wanted));
  return far.indexOf(Math.min(...far));
}

const number = (value) =>
  typeof value === "number" ? String(Number(value.toPrecision(3))) : String(value ?? "–");

function ago(seconds) {
  if (!(seconds >= 1)) return "now";
  if (seconds < 90) return `${Math.round(seconds)} s ago`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min ago`;
  return `${Math.round(seconds / 3600)} h ago`;
}
