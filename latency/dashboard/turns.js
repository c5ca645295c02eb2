// The waterfalls: one row a turn, newest on top. Only the rows in sight exist, however many there are.

import { svg } from "./dom.js";
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
  #rows = new Map(); // seq → element, of the rows in sight
  #drawn = new Map(); // seq → index it stands at
  #axis = { end: 1, ticks: [] };
  #budget = 0.8;
  #width = 0;
  #pointed = null; // seq under the pointer
  #pinned = null;
  #room;

  constructor(box, ruler, onChoose) {
    Object.assign(this, { box, ruler, onChoose });
    this.#room = document.createElement("div");
    this.#room.className = "room";
    box.replaceChildren(this.#room);
    box.addEventListener("scroll", () => this.#sight(), { passive: true });
    box.addEventListener("pointerover", ({ target }) => this.#point(seqOf(target)));
    box.addEventListener("pointerleave", () => this.#point(null));
    box.addEventListener("click", ({ target }) => this.#pin(seqOf(target)));
    box.addEventListener("keydown", (event) => this.#press(event));
    new ResizeObserver(() => this.#resize()).observe(box);
  }

  /** Show these records, newest first. Whoever has scrolled down keeps what they look at. */
  show(records, budget) {
    const top = this.#records[0]?.seq;
    const added = top === undefined ? 0 : records.findIndex(({ seq }) => seq === top);
    this.#records = records;
    this.#budget = budget;
    const next = axis(records, budget);
    const same = next.end === this.#axis.end && next.ticks.length === this.#axis.ticks.length;
    this.#axis = next;
    if (!same) this.#forget();
    this.#room.style.height = `${records.length * ROW}px`;
    if (added > 0 && this.box.scrollTop > ROW / 2) this.box.scrollTop += added * ROW;
    this.#rule();
    this.#sight();
    this.#tell();
  }

  /** The record that is pointed at or pinned, else the newest. */
  get chosen() {
    const find = (wanted) => wanted && this.#records.find(({ seq }) => seq === wanted);
    return find(this.#pointed) ?? find(this.#pinned) ?? this.#records[0] ?? null;
  }

  /** Whether the chosen one is pinned. */
  get pinned() {
    return this.#pinned !== null && this.chosen?.seq === this.#pinned;
  }

  unpin() {
    this.#pin(this.#pinned);
  }

  #point(seq) {
    if (seq === this.#pointed) return;
    this.#pointed = seq;
    this.#tell();
  }

  #pin(seq) {
    if (seq === null) return;
    this.#pinned = this.#pinned === seq ? null : seq;
    this.#pointed = null;
    this.#tell();
  }

  #press(event) {
    const step = { ArrowDown: 1, ArrowUp: -1, Home: -Infinity, End: Infinity }[event.key];
    if (event.key === "Escape" && this.#pinned !== null) this.unpin();
    if (step === undefined || !this.#records.length) return;
    event.preventDefault();
    const at = this.#records.findIndex(({ seq }) => seq === this.#pinned);
    const last = this.#records.length - 1;
    const next = Math.min(last, Math.max(0, at < 0 ? (step > 0 ? 0 : last) : at + step));
    this.#pinned = this.#records[next].seq;
    const [above, below] = [next * ROW, (next + 1) * ROW - this.box.clientHeight];
    this.box.scrollTop = Math.min(above, Math.max(below, this.box.scrollTop));
    this.#sight();
    this.#tell();
  }

  #tell() {
    const chosen = this.chosen?.seq;
    for (const [seq, row] of this.#rows) {
      row.classList.toggle("chosen", seq === chosen);
      row.classList.toggle("pinned", seq === this.#pinned);
      row.setAttribute("aria-selected", seq === this.#pinned);
    }
    const row = this.#rows.get(this.#pinned);
    if (row) this.box.setAttribute("aria-activedescendant", row.id);
    else this.box.removeAttribute("aria-activedescendant");
    this.onChoose(this.chosen);
  }

  #resize() {
    if (this.#width === this.box.clientWidth) return void this.#sight();
    this.#width = this.box.clientWidth;
    this.#forget();
    this.#rule();
    this.#sight();
    this.#tell();
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
    const { scrollTop, clientHeight } = this.box;
    const first = Math.max(0, Math.floor(scrollTop / ROW) - SPARE);
    const last = Math.min(
      this.#records.length,
      Math.ceil((scrollTop + clientHeight) / ROW) + SPARE,
    );
    const wanted = this.#records.slice(first, last);
    const seqs = new Set(wanted.map(({ seq }) => seq));
    for (const [seq, row] of this.#rows) {
      if (seqs.has(seq)) continue;
      row.remove();
      this.#rows.delete(seq);
      this.#drawn.delete(seq);
    }
    const added = [];
    wanted.forEach((record, offset) => {
      const index = first + offset;
      let row = this.#rows.get(record.seq);
      if (!row) {
        row = this.#draw(record);
        this.#rows.set(record.seq, row);
        added.push(row);
      }
      if (this.#drawn.get(record.seq) !== index) {
        row.style.transform = `translateY(${index * ROW}px)`;
        this.#drawn.set(record.seq, index);
      }
    });
    if (added.length) {
      this.#room.append(...added);
      const chosen = this.chosen?.seq;
      this.#rows.get(chosen)?.classList.add("chosen");
      this.#rows.get(this.#pinned)?.classList.add("pinned");
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

const seqOf = (target) => Number(target.closest?.("[data-seq]")?.dataset.seq) || null;

/** The end of a call's name: enough to tell two apart. */
export const short = (call) => String(call ?? "").slice(-4);

function described(record) {
  const { turn, call, total, stages, over } = record;
  const parts = Object.entries(stages ?? {}).map(([name, s]) => `${words(name)} ${figure(s)}`);
  const blame = over ? `, over budget: ${words(over)}` : "";
  return `Turn ${turn} of call ${call}: ${milliseconds(total)}${blame}. ${parts.join(", ")}`;
}
