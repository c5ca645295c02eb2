// The waterfalls: one row a turn, newest on top. Only the rows in sight exist, however many there are.

import { sizeOf, svg } from "./dom.js";
import { axis, place } from "./records.js";
import { colour, figure, milliseconds, words } from "./stages.js";
import { flags, symbol } from "./symbols.js";

const ROW = 40; // px
const BAR = 14; // px, from TOP
const TOP = 8;
const LANE = 6; // px of a lane of hidden work
const AXIS = 24; // px of the axis above the rows
const SPARE = 4; // rows drawn out of sight, on each side
const NARROW = 560; // px of width below which the margins shrink

/** Draws records into `box`, their axis into `ruler`; `onChoose(record)` when one is pointed at. */
export class Turns {
  #records = [];
  #rows = new Map(); // record → element, of the rows in sight
  #drawn = new Map(); // record → index it stands at
  #axis = { end: 1, ticks: [] };
  #budget = 0.8;
  #width = 0;
  #size;
  #top = 0; // px scrolled
  #pointed = null; // the record under the pointer
  #pinned = null;
  #room;

  constructor(box, ruler, onChoose) {
    Object.assign(this, { box, ruler, onChoose });
    this.#room = document.createElement("div");
    this.#room.className = "room";
    box.replaceChildren(this.#room);
    this.#size = sizeOf(box);
    box.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    box.addEventListener("pointerover", ({ target }) => this.#point(this.#under(target)));
    box.addEventListener("pointerleave", () => this.#point(null));
    box.addEventListener("click", ({ target }) => this.#pin(this.#under(target)));
    box.addEventListener("keydown", (event) => this.#press(event));
    new ResizeObserver(() => this.#resize()).observe(box);
  }

  /** Show these records, newest first. Whoever has scrolled down keeps what they look at. */
  show(records, budget) {
    const added = this.#records.length ? records.indexOf(this.#records[0]) : 0;
    this.#records = records;
    if (!records.includes(this.#pointed)) this.#pointed = null;
    this.#budget = budget;
    this.#scale();
    this.#room.style.height = `${records.length * ROW}px`;
    if (added > 0 && this.#top > ROW / 2) this.#scroll(this.#top + added * ROW);
    this.#rule();
    this.#sight();
    this.#tell();
  }

  /** Go back to the newest. */
  rewind() {
    this.#scroll(0);
  }

  /** The record that is pointed at or pinned, else the newest. */
  get chosen() {
    return this.#pointed ?? this.#kept ?? this.#records[0] ?? null;
  }

  /** Whether the chosen one is pinned. */
  get pinned() {
    return this.#kept !== null && this.chosen === this.#kept;
  }

  unpin() {
    this.#pinned = null;
    this.#tell();
  }

  // The pinned record, if it is shown; it may have come again with a new connection.
  get #kept() {
    const { seq, call } = this.#pinned ?? {};
    return this.#records.find((record) => record.seq === seq && record.call === call) ?? null;
  }

  #point(record) {
    if (record === this.#pointed) return;
    this.#pointed = record;
    this.#tell();
  }

  #pin(record) {
    if (!record) return;
    this.#pinned = record === this.#kept ? null : record;
    this.#pointed = null;
    this.#tell();
  }

  #under(target) {
    const row = target.closest?.("[data-seq]");
    return row ? (this.#records.find(({ seq }) => String(seq) === row.dataset.seq) ?? null) : null;
  }

  #press(event) {
    const step = { ArrowDown: 1, ArrowUp: -1, Home: -Infinity, End: Infinity }[event.key];
    if (event.key === "Escape" && this.#pinned !== null) this.unpin();
    if (step === undefined || !this.#records.length) return;
    event.preventDefault();
    const at = this.#records.indexOf(this.#kept);
    const last = this.#records.length - 1;
    const next = Math.min(last, Math.max(0, at < 0 ? (step > 0 ? 0 : last) : at + step));
    this.#pinned = this.#records[next];
    const [above, below] = [next * ROW, (next + 1) * ROW - this.#size.height];
    this.#scroll(Math.min(above, Math.max(below, this.#top)));
    this.#sight();
    this.#tell();
  }

  #tell() {
    const { chosen } = this;
    const kept = this.#kept;
    for (const [record, row] of this.#rows) {
      row.classList.toggle("chosen", record === chosen);
      row.classList.toggle("pinned", record === kept);
      row.setAttribute("aria-selected", record === kept);
    }
    const row = this.#rows.get(kept);
    if (row) this.box.setAttribute("aria-activedescendant", row.id);
    else this.box.removeAttribute("aria-activedescendant");
    this.onChoose(chosen);
  }

  #scrolled() {
    this.#top = this.box.scrollTop;
    this.#sight();
  }

  #scroll(top) {
    this.#top = Math.max(0, top);
    this.box.scrollTop = this.#top;
  }

  #resize() {
    if (this.#width === this.#size.width) return void this.#sight();
    this.#width = this.#size.width;
    this.#forget();
    this.#scale();
    this.#rule();
    this.#sight();
    this.#tell();
  }

  // Find the axis; what was drawn on another is drawn anew.
  #scale() {
    const next = axis(this.#records, this.#budget, this.#width < NARROW ? 5 : 8);
    const same = next.end === this.#axis.end && next.ticks.length === this.#axis.ticks.length;
    this.#axis = next;
    if (!same) this.#forget();
  }

  #forget() {
    this.#rows.clear();
    this.#drawn.clear();
    this.#room.replaceChildren();
  }

  // The margins left and right of the bars, in px.
  #margins() {
    return this.#width < NARROW
      ? { left: 66, right: 62, flags: 0 }
      : { left: 84, right: 78, flags: 52 };
  }

  #x(seconds) {
    const { left, right, flags } = this.#margins();
    const width = Math.max(40, this.#width - left - right - flags);
    return left + (Math.min(seconds, this.#axis.end * 1.002) / this.#axis.end) * width;
  }

  // Draw what came into sight, drop what left it.
  #sight() {
    if (!this.#width) return;
    const [top, end] = [this.#top, this.#top + this.#size.height];
    const first = Math.max(0, Math.floor(top / ROW) - SPARE);
    const last = Math.min(this.#records.length, Math.ceil(end / ROW) + SPARE);
    const wanted = this.#records.slice(first, last);
    const kept = new Set(wanted);
    for (const [record, row] of this.#rows) {
      if (kept.has(record)) continue;
      row.remove();
      this.#rows.delete(record);
      this.#drawn.delete(record);
    }
    for (const [offset, record] of wanted.entries()) {
      const index = first + offset;
      if (!this.#rows.has(record)) {
        const row = this.#draw(record);
        row.classList.toggle("chosen", record === this.chosen);
        row.classList.toggle("pinned", record === this.#kept);
        this.#rows.set(record, row);
        this.#room.append(row);
      }
      if (this.#drawn.get(record) === index) continue;
      this.#rows.get(record).style.transform = `translateY(${index * ROW}px)`;
      this.#drawn.set(record, index);
    }
  }

  #rule() {
    if (!this.#width) return;
    const chart = svg("svg", { width: this.#width, height: AXIS, "aria-hidden": true });
    const limit = this.#x(this.#budget);
    for (const tick of this.#axis.ticks) {
      const x = this.#x(tick);
      if (Math.abs(x - limit) < 34) continue; // the budget's own number stands there
      chart.append(svg("text", { class: "axis", x, y: 15 }, figure(tick)));
    }
    chart.append(
      svg("text", { class: "axis limit", x: limit, y: 15 }, figure(this.#budget)),
      svg("text", { class: "axis unit", x: this.#width - 8, y: 15 }, "ms"),
    );
    this.ruler.replaceChildren(chart);
  }

  #draw(record) {
    const { path, hidden } = place(record);
    const x = (seconds) => this.#x(seconds);
    const { left, right, flags: room } = this.#margins();
    const over = Boolean(record.over);
    const row = svg("svg", {
      class: `turn${over ? " over" : ""}`,
      id: `turn-${record.seq}`,
      "data-seq": record.seq,
      role: "option",
      width: this.#width,
      height: ROW,
      "aria-label": described(record),
    });
    row.append(
      svg("rect", { class: "hit", x: 2, y: 1, width: this.#width - 4, height: ROW - 2, rx: 7 }),
    );
    for (const tick of this.#axis.ticks) {
      row.append(svg("line", { class: "tick", x1: x(tick), x2: x(tick), y1: 0, y2: ROW }));
    }
    row.append(
      svg("text", { class: "call", x: left - 38, y: 19 }, short(record.call)),
      svg("text", { class: "number", x: left - 12, y: 19 }, String(record.turn)),
    );
    for (const { stage, from, to } of path) {
      const width = Math.max(0.6, x(to) - x(from) - 1);
      const attributes = { x: x(from), y: TOP, width, height: BAR };
      row.append(svg("rect", { class: `bar ${colour(stage)}`, ...attributes }));
    }
    for (const { stage, from, to, lane } of hidden) {
      row.append(
        svg("rect", {
          class: `work ${colour(stage)}`,
          x: x(from) + 0.5,
          y: TOP + BAR + 3.5 + lane * LANE,
          width: Math.max(1, x(to) - x(from) - 2),
          height: LANE - 1,
          rx: 1,
        }),
      );
    }
    const fault = path.find(({ stage }) => stage === record.over);
    if (fault) row.append(this.#fault(x(fault.from), x(fault.to)));
    row.append(...this.#marks(record));
    const limit = x(record.budget ?? this.#budget);
    row.append(svg("line", { class: "budget", x1: limit, x2: limit, y1: 0, y2: ROW }));
    if ((record.total ?? 0) > this.#axis.end) {
      const edge = x(this.#axis.end);
      row.append(
        svg("path", {
          class: "torn",
          d: `M${edge - 7} ${TOP - 2}l5 ${BAR / 2 + 2}l-5 ${BAR / 2 + 2}`,
        }),
      );
    }
    const edge = this.#width - right;
    if (room) {
      const beside = flags(record).filter(({ at }) => !this.#onAxis(at));
      for (const [index, flag] of beside.slice(0, 3).entries()) {
        const drawn = symbol(flag.name, edge - room + 10 + index * 16, 15);
        drawn.append(svg("title", {}, flag.words));
        row.append(drawn);
      }
    }
    const answered = record.total !== null && record.total !== undefined;
    const said = answered ? figure(record.total) : words(record.outcome ?? "");
    row.append(
      svg("text", { class: `total${answered ? "" : " none"}`, x: this.#width - 8, y: 19 }, said),
    );
    if (over) {
      row.append(svg("text", { class: "blame", x: this.#width - 8, y: 32 }, words(record.over)));
    }
    return row;
  }

  // A bracket beneath the stage at fault.
  #fault(from, to) {
    const right = Math.max(from + 5, to - 1);
    return svg("rect", {
      class: "fault",
      x: from - 1,
      y: TOP - 2,
      width: right - from + 2,
      height: BAR + 4,
      rx: 2.5,
    });
  }

  #onAxis(seconds) {
    return typeof seconds === "number" && seconds >= 0 && seconds <= 0.98 * this.#axis.end;
  }

  #marks(record) {
    const { marks } = record;
    const drawn = [];
    if (this.#onAxis(marks?.decided)) {
      const x = this.#x(marks.decided);
      drawn.push(
        svg("path", { class: "decided", d: `M${x - 4} 1h8l-4 5zM${x} 5v${TOP + BAR - 3}` }),
      );
    }
    const middle = TOP + BAR / 2;
    if (this.#onAxis(marks?.played)) drawn.push(symbol("played", this.#x(marks.played), middle));
    for (const { name, at } of flags(record)) {
      if (this.#onAxis(at)) drawn.push(symbol(name, this.#x(at), middle));
    }
    return drawn;
  }
}

/** The end of a call's name: enough to tell two apart. */
export const short = (call) => String(call ?? "").slice(-4);

function described(record) {
  const { turn, call, total, stages, over } = record;
  const parts = Object.entries(stages ?? {}).map(([name, s]) => `${words(name)} ${figure(s)}`);
  const blame = over ? `, over budget: ${words(over)}` : "";
  return `Turn ${turn} of call ${call}: ${milliseconds(total)}${blame}. ${parts.join(", ")}`;
}
