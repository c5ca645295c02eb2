// Distributions: each stage against its share of the budget, and the whole against the budget.

import { element, svg } from "./dom.js";
import { histogram, percentile, scale } from "./records.js";
import { STAGES, colour, figure, milliseconds, share, words } from "./stages.js";

const LEAST = 0.004; // s of the shortest axis: less is nothing that anybody hears

/** Draw `values` against `limit` (0 for none): bars, ticks of p50 and p95, the limit's line. */
export function drawHistogram({ values, limit, width, height, bins, shade }) {
  const [middle, most] = [percentile(values, 50), percentile(values, 95)];
  const longest = Math.max(LEAST, 1.25 * limit, Math.min(1.1 * percentile(values, 99), 3 * most));
  const { end, ticks } = scale(longest, width > 360 ? 8 : 4);
  const floor = height - 26;
  const x = (seconds) => 1 + (Math.min(seconds, end) / end) * (width - 2);
  const counts = histogram(values, end, bins);
  const tallest = Math.max(...counts);
  const step = (width - 2) / bins;
  const chart = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img" });
  chart.setAttribute(
    "aria-label",
    `${values.length} turns: p50 ${milliseconds(middle)}, p95 ${milliseconds(most)}`,
  );
  for (const [index, count] of counts.entries()) {
    if (!count) continue;
    const tall = Math.max(2, (count / tallest) * (floor - 14)); // a single turn stays in sight
    const beyond = limit > 0 && (index + 0.5) * (end / bins) > limit;
    chart.append(
      svg("rect", {
        class: `count ${shade}${beyond ? " beyond" : ""}`,
        x: 1 + index * step + 0.5,
        y: floor - tall,
        width: Math.max(1, step - 1),
        height: tall,
      }),
    );
  }
  chart.append(svg("line", { class: "floor", x1: 0, x2: width, y1: floor + 0.5, y2: floor + 0.5 }));
  for (const tick of ticks) {
    const anchor = tick === 0 ? "start" : x(tick) > width - 12 ? "end" : "middle";
    const at = { class: "axis", x: x(tick), y: height - 2, "text-anchor": anchor };
    chart.append(svg("text", at, figure(tick)));
  }
  chart.append(marker("p50", x(middle), floor), marker("p95", x(most), floor));
  if (limit > 0) {
    const left = x(limit) > width - 46;
    const beside = {
      class: "limit",
      x: x(limit) + (left ? -4 : 4),
      y: 9,
      "text-anchor": left ? "end" : "start",
    };
    chart.append(
      svg("line", { class: "halo", x1: x(limit), x2: x(limit), y1: 0, y2: floor }),
      svg("line", { class: "budget", x1: x(limit), x2: x(limit), y1: 0, y2: floor }),
      svg("text", beside, figure(limit)),
    );
  }
  return chart;
}

function marker(name, x, floor) {
  return svg("path", { class: `marker ${name}`, d: `M${x} ${floor + 2}l4.5 7h-9z` });
}

/** Draw one small histogram a stage into `box`, of a given size; those that never took time are left out. */
export function showStages(box, { width }, records, split) {
  if (!width) return;
  const answered = records.filter(({ total }) => total !== null && total !== undefined);
  const names = new Set([
    ...STAGES.keys(),
    ...answered.flatMap(({ stages }) => Object.keys(stages ?? {})),
  ]);
  const columns = Math.max(2, Math.floor(width / 220));
  const room = Math.floor((width - (columns - 1) * 20) / columns);
  const figures = [];
  for (const name of names) {
    const values = answered
      .filter(({ stages }) => stages && Object.hasOwn(stages, name))
      .map(({ stages }) => stages[name]);
    if (!values.some((seconds) => Math.abs(seconds) >= 0.00005)) continue;
    figures.push(stageFigure(name, values, share(split, name), room));
  }
  box.style.setProperty("--columns", columns);
  box.replaceChildren(...figures);
}

function stageFigure(name, values, limit, width) {
  const most = percentile(values, 95);
  const late = limit > 0 && most > limit;
  const numbers = element(
    "span",
    { class: "p95" },
    element("span", { class: "kind" }, "p95 "),
    figure(most),
  );
  if (limit > 0) numbers.append(element("span", { class: "of" }, ` of ${figure(limit)}`));
  return element(
    "figure",
    { class: `stage${late ? " late" : ""}`, "data-stage": name },
    element("figcaption", {}, element("b", { class: colour(name) }, words(name)), numbers),
    drawHistogram({ values, limit, width, height: 74, bins: 36, shade: colour(name) }),
  );
}

/** Draw the whole response time into `box`, of a given size, its numbers into `numbers`. */
export function showTotal(box, { width, height }, numbers, records, budget) {
  const values = records
    .map(({ total }) => total)
    .filter((total) => total !== null && total !== undefined);
  if (!width || !values.length) {
    numbers.replaceChildren();
    return box.replaceChildren();
  }
  const { total: limit = 0, percentile: percent = 95 } = budget ?? {};
  const reached = percentile(values, percent);
  const late = limit > 0 && reached > limit;
  const beyond = values.filter((total) => total > limit).length / values.length;
  numbers.replaceChildren(
    element("b", { class: late ? "late" : "" }, figure(reached)),
    element("span", {}, `ms at p${percent}`),
    element(
      "span",
      { class: "of" },
      `p50 ${figure(percentile(values, 50))} · ${plural(values.length, "turn")} · ${Math.round(beyond * 100)} % over`,
    ),
  );
  box.replaceChildren(drawHistogram({ values, limit, width, height, bins: 64, shade: "whole" }));
}

const plural = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;
