// Records of turns and what can be drawn of them. Pure: numbers in, places out, all in seconds.

/** Records kept; as many as the server keeps. */
export const MOST = 500;

/** Stages that are an engine's work: only they can hide behind the wait for another. */
const WORK = new Set(["asr", "llm", "first_phrase", "tools", "tts"]);

/** Stages in which the caller's turn ends: nobody waits for what else goes on meanwhile. */
const ENDING = new Set(["framing", "jitter", "vad", "endpoint"]);

const SLIVER = 0.0005; // s of hidden work that nobody would see
const RUN_OFF = 1.7; // budgets that the axis shows at most
const LANES = 2; // of hidden work under a bar

/** The latest records, oldest first. */
export class Records {
  all = [];

  /** The number of the latest, from which the server goes on. */
  get since() {
    return this.all.at(-1)?.seq ?? 0;
  }

  /** Add what the server sent; returns whether anything was new. */
  add(records) {
    const since = this.since;
    const fresh = records.filter(({ seq }) => seq > since);
    if (fresh.length) this.all = [...this.all, ...fresh].slice(-MOST);
    return fresh.length > 0;
  }

  clear() {
    this.all = [];
  }

  /** Number of turns by call, the latest call first. */
  calls() {
    const counts = new Map();
    for (const { call } of this.all.toReversed()) counts.set(call, (counts.get(call) ?? 0) + 1);
    return counts;
  }

  /** The records of `call` ("" for all), only those over budget if asked; the newest first. */
  chosen(call, onlyOver) {
    const fits = (record) => (!call || record.call === call) && (!onlyOver || record.over);
    return this.all.filter(fits).toReversed();
  }
}

/**
 * Place one record. `path` has the segments of the critical path end to end, with what is not
 * attributed where it happened; `hidden` the work done beneath them, `lane` 0 or 1, without what
 * the path shows already.
 */
export function place(record) {
  const path = critical(record) ?? stacked(record);
  const spans = record.spans ?? [];
  const end = record.total ?? path.at(-1)?.to ?? Infinity;
  const pieces = spans
    .filter(([stage]) => WORK.has(stage))
    .flatMap(([stage, from, to]) => {
      const shown = path.filter((segment) => segment.stage === stage);
      const span = { from: Math.max(0, from), to: Math.min(to, end) };
      return without(span, shown).map((piece) => ({ stage, ...piece }));
    })
    .filter(({ from, to }) => to - from > SLIVER)
    .sort((a, b) => a.from - b.from);
  const free = Array(LANES).fill(-Infinity);
  const hidden = pieces.map((piece) => {
    const lane = Math.max(
      0,
      free.findIndex((until) => until <= piece.from + SLIVER),
    );
    free[lane] = Math.max(free[lane], piece.to);
    return { ...piece, lane };
  });
  return { path, hidden };
}

// The path as the tracer finds it: the end of the caller's turn, then each span from where the one
// before it ended. Null where the spans do not tell of every stage.
function critical({ stages, spans, total }) {
  if (!spans?.length || !(total > 0)) return null;
  const path = [];
  const sums = new Map();
  let covered = 0;
  const late = ([stage]) => !ENDING.has(stage);
  const ordered = spans.toSorted((a, b) => late(a) - late(b) || a[1] - b[1] || a[2] - b[2]);
  for (const [stage, begin, finish] of ordered) {
    const [from, to] = [Math.max(begin, covered), Math.min(finish, total)];
    if (to <= from) continue;
    if (from > covered) path.push({ stage: "unattributed", from: covered, to: from });
    path.push({ stage, from, to });
    sums.set(stage, (sums.get(stage) ?? 0) + to - from);
    covered = to;
  }
  if (covered < total) path.push({ stage: "unattributed", from: covered, to: total });
  const told = Object.entries(stages ?? {}).filter(([stage]) => stage !== "unattributed");
  return told.every(([stage, s]) => Math.abs((sums.get(stage) ?? 0) - s) < SLIVER) ? path : null;
}

function stacked({ stages }) {
  const path = [];
  let at = 0;
  for (const [stage, seconds] of Object.entries(stages ?? {})) {
    if (!(seconds > 0)) continue; // a negative remainder takes no room
    path.push({ stage, from: at, to: at + seconds });
    at += seconds;
  }
  return path;
}

function without(span, holes) {
  let pieces = [span];
  for (const hole of holes) {
    pieces = pieces.flatMap(({ from, to }) => [
      { from, to: Math.min(to, hole.from) },
      { from: Math.max(from, hole.to), to },
    ]);
    pieces = pieces.filter(({ from, to }) => to > from);
  }
  return pieces;
}

/**
 * One axis for these records: its end and about so many ticks. Budgets stay in sight; what is
 * far longer than they are runs off the end instead of making every other turn small.
 */
export function axis(records, budget, ticks) {
  const most = records.reduce((most, record) => Math.max(most, record.budget ?? 0), budget);
  const longest = records.reduce((most, { total }) => Math.max(most, total ?? 0), 0);
  return scale(Math.max(1.2 * most, Math.min(1.02 * longest, RUN_OFF * most)), ticks);
}

/** A scale from 0 to at least `longest` with at most `most` steps of a round size. */
export function scale(longest, most) {
  const size = 10 ** Math.floor(Math.log10(Math.max(longest, 1e-4) / most));
  const step = [1, 2, 2.5, 5, 10].map((times) => times * size).find((s) => longest / s <= most);
  const count = Math.ceil(longest / step - 1e-9);
  return { end: count * step, ticks: Array.from({ length: count + 1 }, (_, i) => i * step) };
}

/** The value of which `percent` % are not above: nearest rank; null of none. */
export function percentile(values, percent) {
  if (!values.length) return null;
  const ordered = Float64Array.from(values).sort();
  return ordered[Math.max(1, Math.ceil((ordered.length * percent) / 100)) - 1];
}

/** Counts of `values` in `bins` equal bins from 0 to `end`; the last takes what is beyond. */
export function histogram(values, end, bins) {
  const counts = Array(bins).fill(0);
  for (const value of values) {
    counts[Math.min(bins - 1, Math.max(0, Math.floor((value / end) * bins)))] += 1;
  }
  return counts;
}
