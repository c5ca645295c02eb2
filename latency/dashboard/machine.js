// The machine: how many calls it has of how many it takes, and whether it keeps up.

import { element, sizeOf, svg } from "./dom.js";
import { figure, milliseconds, words } from "./stages.js";

const KEPT = 120; // looks remembered: two minutes
const TIGHT = 0.85; // share of a resource from which it is scarce
const CELLS = 100; // calls that get a cell each; beyond, a bar is filled

const RESOURCES = new Map([
  ["loop", "event loop"],
  ["processors", "processors"],
]);

/** Draws calls and load; remembers the last looks, which the server does not. */
export class MachineView {
  #late = [];
  #lost = [];
  #snapshot = null;

  constructor(boxes) {
    Object.assign(this, boxes);
    this.size = sizeOf(this.calls);
    this.sparkSize = sizeOf(this.loop);
  }

  show(snapshot) {
    this.#late = [...this.#late, snapshot.loop_late ?? 0].slice(-KEPT);
    this.#lost = [...this.#lost, snapshot.unattributed_p99 ?? null].slice(-KEPT);
    this.#snapshot = snapshot;
    this.draw();
  }

  /** Draw again, at the width there is now. */
  draw() {
    const { width } = this.size;
    if (!this.#snapshot || !width) return;
    const { calls, admission, budget } = this.#snapshot;
    const known = { ...admission, ...calls };
    const { active = 0, max = 0, predicted_p95: predicted = null } = known;
    const { more = null, saturated = false, utilisation = {}, resource } = known;
    const limit = budget?.total ?? 0;
    const full = saturated || (max > 0 && active >= max);
    this.callsNumbers.replaceChildren(
      element("b", { class: full ? "late" : "" }, String(active)),
      element("span", {}, max ? `of ${max} calls` : "calls"),
      element("span", { class: `of${full ? " late" : ""}` }, room(known)),
    );
    this.calls.replaceChildren(cells(active, max, more, width));
    this.prediction.replaceChildren(...prediction(predicted, limit, width));
    this.resources.replaceChildren(...busy(utilisation, resource, width));
    this.loop.replaceChildren(spark(this.#late, this.sparkSize.width, 0.01));
    this.loopNumber.textContent = milliseconds(this.#late.at(-1));
    this.remainder.replaceChildren(spark(this.#lost, this.sparkSize.width, 0.005));
    this.remainderNumber.textContent = milliseconds(this.#lost.at(-1));
  }
}

function room({ active = 0, max = 0, more = null, saturated, sheds_speculation: sheds }) {
  if (saturated) return "saturated: no more are taken";
  if (max > 0 && active >= max) return "all lines are taken";
  if (sheds) return "nearly full: no speculation";
  if (more !== null) return `room for ${Math.min(more, max ? max - active : more)} more`;
  return max ? `${Math.round((100 * active) / max)} % taken` : "";
}

// How busy each resource is; the one that will run out first stands out.
function busy(utilisation, first, width) {
  const columns = Math.max(1, Math.floor(width / 110));
  const long = Math.max(20, Math.floor((width - (columns - 1) * 14) / columns));
  return Object.entries(utilisation).map(([name, share]) => {
    const reach = Math.min(1, Math.max(0, Number(share) || 0));
    const tight = reach > TIGHT ? " beyond" : "";
    const chart = svg("svg", { width: long, height: 6, "aria-hidden": true });
    chart.append(
      svg("rect", { class: "track", width: long, height: 5, rx: 2.5 }),
      svg("rect", { class: `reach${tight}`, width: reach * long, height: 5, rx: 2.5 }),
    );
    const said = RESOURCES.get(name) ?? words(name);
    return element(
      "figure",
      { class: name === first ? "first" : "" },
      element("figcaption", {}, said, element("b", {}, `${Math.round(reach * 100)} %`)),
      chart,
    );
  });
}

// One cell a call: taken, the next one, free, and those for which there would be no room.
function cells(active, max, more, width) {
  const count = Math.max(max, active, 1);
  if (count > CELLS) {
    const taken = svg("rect", {
      class: "cell taken",
      width: (width * active) / count,
      height: 16,
      rx: 4,
    });
    return svg(
      "svg",
      { width, height: 16 },
      svg("rect", { class: "cell", width, height: 16, rx: 4 }),
      taken,
    );
  }
  const rows = count > 50 ? 3 : count > 20 ? 2 : 1;
  const columns = Math.ceil(count / rows);
  const step = Math.min(32, (width + 3) / columns);
  const side = step - 3;
  const tall = Math.min(side, rows > 1 ? 11 : 16);
  const chart = svg("svg", { width, height: rows * (tall + 3), "aria-hidden": true });
  for (let call = 0; call < count; call += 1) {
    const lost = more !== null && call >= active + more;
    const state = call < active ? " taken" : lost ? " lost" : call === active ? " next" : "";
    const [x, y] = [(call % columns) * step, Math.floor(call / columns) * (tall + 3)];
    chart.append(
      svg("rect", {
        class: `cell${state}`,
        x: x + 0.5,
        y: y + 0.5,
        width: side - 1,
        height: tall - 1,
        rx: 2.5,
      }),
    );
  }
  return chart;
}

// What p95 would be with one more call, against the budget.
function prediction(predicted, limit, width) {
  if (predicted == null)
    return [element("p", { class: "of" }, "p95 with one more call: not known yet")];
  const over = limit > 0 && predicted > limit;
  const end = Math.max(1.25 * limit, 1.05 * predicted, 0.001);
  const x = (seconds) => (seconds / end) * width;
  const chart = svg("svg", { width, height: 12, "aria-hidden": true });
  chart.append(
    svg("rect", { class: "track", y: 3, width, height: 6, rx: 3 }),
    svg("rect", {
      class: `reach${over ? " beyond" : ""}`,
      y: 3,
      width: Math.max(3, x(predicted)),
      height: 6,
      rx: 3,
    }),
  );
  if (limit > 0)
    for (const kind of ["halo", "budget"]) {
      chart.append(svg("line", { class: kind, x1: x(limit), x2: x(limit), y1: 0, y2: 12 }));
    }
  const words = `p95 with one more call: ${milliseconds(predicted)}`;
  return [element("p", { class: over ? "late" : "of" }, words), chart];
}

// The last looks as a line; `least` s is the least height of the drawing.
function spark(values, width, least) {
  const height = 30;
  const known = values.filter((value) => value !== null);
  const most = Math.max(least, ...known.map(Math.abs));
  const step = width / (KEPT - 1);
  const x = (index) => width - (values.length - 1 - index) * step;
  const y = (value) => height - 2 - (Math.max(0, value) / most) * (height - 6);
  const points = values.flatMap((value, index) =>
    value === null ? [] : [`${x(index).toFixed(1)},${y(value).toFixed(1)}`],
  );
  const chart = svg("svg", { width, height, "aria-hidden": true });
  chart.append(
    svg("line", { class: "floor", x1: 0, x2: width, y1: height - 1.5, y2: height - 1.5 }),
  );
  if (points.length > 1) {
    const first = points[0].split(",")[0];
    const last = points.at(-1).split(",")[0];
    chart.append(
      svg("polygon", {
        class: "under",
        points: `${first},${height - 2} ${points.join(" ")} ${last},${height - 2}`,
      }),
      svg("polyline", { class: "line", points: points.join(" ") }),
    );
  }
  chart.append(svg("text", { class: "axis", x: 0, y: 9 }, figure(most)));
  return chart;
}
