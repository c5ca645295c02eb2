// Where the time of each turn went: one row a turn, one bar a stage, on an axis of milliseconds.

import { element, svg } from "./dashboard/dom.js";
import { colour, words } from "./dashboard/stages.js";

/** What an answer may take, in milliseconds, unless its `turn` event says otherwise. */
const BUDGET = 800;

const ROW = 26; // px
const BAR = 14;
const LABELS = 30; // px left of the axis, for the turn's number
const TOTALS = 58; // px right of it, for the turn's total
const AXIS = 22; // px below the rows
const MOST = 40; // rows kept

/**
 * Place the rows on an axis: pure, in ms. A turn is {turn, stages: [[name, ms]…], total, budget,
 * over}, where `over` is the stage at fault if it took too long.
 */
export function layout(turns) {
  const lengths = turns.map(({ stages, total, budget = BUDGET }) =>
    Math.max(total, sum(stages), 1.25 * budget),
  );
  const longest = Math.max(...lengths);
  const step = [200, 250, 500, 1000, 2000, 5000, 10000].find((ms) => longest / ms <= 5) ?? 20000;
  const end = Math.ceil(longest / step) * step;
  const ticks = Array.from({ length: end / step + 1 }, (_, i) => i * step);
  const rows = turns.map(({ turn, stages, total, budget = BUDGET, over = "" }) => {
    let at = 0;
    const bars = stages.map(([name, ms]) => {
      const bar = { name, ms, from: at, to: at + Math.max(0, ms) };
      at = bar.to;
      return bar;
    });
    return { turn, total, budget, over, bars };
  });
  return { end, ticks, rows };
}

/** Draws the turns into `box`, the numbers of one of them into `readout` (a <dl>). */
export class Waterfall {
  #turns = [];
  #chosen = null; // null follows the newest
  #box;
  #readout;

  constructor(box, readout) {
    this.#box = box;
    this.#readout = readout;
    new ResizeObserver(() => this.#draw()).observe(box);
  }

  /** Add one `turn` event: stages, total and budget in seconds, `over` the stage at fault. */
  add({ turn, stages, total, budget, over = "" }) {
    const ms = Object.entries(stages ?? {}).map(([name, seconds]) => [name, seconds * 1000]);
    const whole = total === undefined ? sum(ms) : total * 1000;
    const limit = budget > 0 ? budget * 1000 : BUDGET;
    this.#turns.push({ turn, stages: ms, total: whole, budget: limit, over });
    this.#turns = this.#turns.slice(-MOST);
    this.#chosen = null;
    this.#draw();
    this.#box.scrollTop = this.#box.scrollHeight;
  }

  /** Half of the answers came within this many ms; null before the first. */
  get median() {
    const totals = this.#turns.map(({ total }) => total).sort((a, b) => a - b);
    const middle = totals.length >> 1;
    if (totals.length % 2) return totals[middle];
    return totals.length ? (totals[middle - 1] + totals[middle]) / 2 : null;
  }

  get count() {
    return this.#turns.length;
  }

  /** What the newest answer was allowed, in ms. */
  get budget() {
    return this.#turns.at(-1)?.budget ?? BUDGET;
  }

  #draw() {
    const width = this.#box.clientWidth;
    if (!width || !this.#turns.length) return;
    const { end, ticks, rows } = layout(this.#turns);
    const height = rows.length * ROW + AXIS;
    const scale = (width - LABELS - TOTALS) / end;
    const x = (ms) => LABELS + ms * scale;
    const bottom = rows.length * ROW;
    const chart = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "list" });

    const { budget } = this;
    for (const tick of ticks) {
      chart.append(svg("line", { class: "tick", x1: x(tick), x2: x(tick), y1: 0, y2: bottom }));
      if (Math.abs(x(tick) - x(budget)) < 32) continue; // the budget's own number stands there
      chart.append(svg("text", { class: "axis", x: x(tick), y: bottom + 15 }, String(tick)));
    }
    chart.append(svg("text", { class: "axis unit", x: width, y: bottom + 15 }, "ms"));
    rows.forEach((row, index) => chart.append(this.#row(row, index, x, width)));
    const limits = rows.map((row, index) => {
      const at = { x1: x(row.budget), x2: x(row.budget), y1: index * ROW, y2: (index + 1) * ROW };
      return svg("line", at);
    });
    chart.append(
      svg(
        "g",
        { class: "budget" },
        svg("title", {}, `The budget: ${Math.round(budget)} ms`),
        ...limits,
        svg("text", { class: "axis", x: x(budget), y: bottom + 15 }, String(Math.round(budget))),
      ),
    );
    this.#box.replaceChildren(chart);
    this.#read();
  }

  #row({ turn, total, budget, over, bars }, index, x, width) {
    const numbers = bars.map(({ name, ms }) => `${words(name)} ${Math.round(ms)}`).join(", ");
    const blame = over ? `. Over the budget: ${words(over)}` : "";
    const top = index * ROW;
    const row = svg(
      "g",
      {
        class: "row",
        role: "listitem",
        tabindex: 0,
        "aria-label": `Turn ${turn}: ${Math.round(total)} ms. ${numbers}${blame}`,
      },
      svg("rect", { class: "hit", x: 0, y: top, width, height: ROW, rx: 5 }),
      svg("text", { class: "number", x: 6, y: top + 17 }, String(turn)),
      ...bars.map(({ name, from, to }) =>
        svg("rect", {
          class: `bar ${colour(name)}${name === over ? " fault" : ""}`,
          x: x(from),
          y: top + (ROW - BAR) / 2,
          width: Math.max(0, x(to) - x(from) - 1),
          height: BAR,
        }),
      ),
      svg(
        "text",
        { class: `total${over || total > budget ? " over" : ""}`, x: width - 6, y: top + 17 },
        String(Math.round(total)),
      ),
    );
    for (const event of ["pointerenter", "focus", "click"]) {
      row.addEventListener(event, () => {
        this.#chosen = index;
        this.#read();
      });
    }
    return row;
  }

  // The numbers of the chosen turn; they are the legend too.
  #read() {
    const chosen = Math.min(this.#chosen ?? Infinity, this.#turns.length - 1);
    const { turn, stages, total, budget, over } = this.#turns[chosen];
    this.#box.querySelectorAll(".row").forEach((row, index) => {
      row.classList.toggle("chosen", index === chosen);
    });
    this.#readout.hidden = false;
    this.#readout.replaceChildren(
      ...stages.flatMap(([name, ms]) => [
        element("dt", { class: colour(name), title: name }, words(name)),
        element("dd", name === over ? { class: "over" } : {}, milliseconds(ms)),
      ]),
      element("dt", { class: "sum" }, `Turn ${turn}`),
      element("dd", { class: "sum" }, `${Math.round(total)} ms`),
      element("dt", { class: "limit" }, "Budget"),
      element("dd", { class: "limit" }, `${Math.round(budget)} ms`),
    );
  }
}

const sum = (stages) => stages.reduce((total, [, ms]) => total + Math.max(0, ms), 0);

const milliseconds = (ms) => `${Math.abs(ms) < 9.95 ? ms.toFixed(1) : Math.round(ms)} ms`;
