// The page: what came from the server, what of it is asked for, and who draws it.

import { element, sizeOf, svg } from "./dom.js";
import { showDetails } from "./details.js";
import { Feed, address } from "./feed.js";
import { showStages, showTotal } from "./histograms.js";
import { MachineView } from "./machine.js";
import { MOST, Records } from "./records.js";
import { WORDS, symbol } from "./symbols.js";
import { TunerView } from "./tuner.js";
import { Turns, short } from "./turns.js";

const $ = (id) => document.getElementById(id);

const records = new Records();
const turns = new Turns($("turns"), $("ruler"), (record) => {
  showDetails($("details"), record, latest?.budget?.split, turns?.pinned);
});
const tuner = new TunerView({
  badge: $("mode"),
  state: $("state"),
  ladders: $("ladders"),
  log: $("log"),
  empty: $("log-empty"),
});
const machine = new MachineView({
  callsNumbers: $("calls-numbers"),
  calls: $("calls"),
  prediction: $("prediction"),
  resources: $("resources"),
  loop: $("loop"),
  loopNumber: $("loop-number"),
  remainder: $("remainder"),
  remainderNumber: $("remainder-number"),
});
const feed = new Feed({ since: () => records.since, onSnapshot: take, onTrouble: lose });

const totalSize = sizeOf($("total"));
const stagesSize = sizeOf($("stages"));

let latest = null; // the last snapshot
let paused = false;

// ---- what comes

function take(snapshot, fresh) {
  latest = snapshot;
  if (fresh) records.clear();
  const more = records.add(snapshot.records ?? []);
  $("trouble").hidden = true;
  $("board").hidden = false;
  enter("live");
  machine.show(snapshot);
  tuner.show(snapshot.tuner, snapshot.now, snapshot.budget);
  if (more || fresh) {
    showCalls();
    draw();
  }
}

function lose(message) {
  $("trouble-words").textContent = message;
  $("trouble-rest").hidden = !latest;
  $("trouble").hidden = false;
  enter("gone");
}

function enter(phase) {
  document.body.dataset.phase = phase;
  $("phase").textContent = { live: "live", gone: "no connection", paused: "paused" }[phase];
}

// ---- what is asked for

function draw() {
  if (!latest) return;
  const all = records.all.length > 0;
  $("welcome").hidden = all;
  for (const card of document.querySelectorAll(".some")) card.hidden = !all;
  if (!all) return;
  const call = $("call").value;
  const onlyOver = $("only-over").checked;
  const asked = records.chosen(call, false);
  const shown = onlyOver ? records.chosen(call, true) : asked;
  const budget = latest.budget ?? {};
  turns.show(shown, budget.total ?? 0);
  $("none").hidden = shown.length > 0;
  $("count").textContent = counted(shown.length, asked.filter(({ over }) => over).length, onlyOver);
  showTotal($("total"), totalSize, $("total-numbers"), asked, budget);
  showStages($("stages"), stagesSize, asked, budget.split);
}

function counted(shown, over, onlyOver) {
  if (onlyOver) return `${shown} over budget`;
  const last = shown >= MOST ? `the last ${shown}` : `${shown} turns`;
  return over ? `${last}, ${over} over budget` : last;
}

function showCalls() {
  const chosen = $("call").value;
  const counts = records.calls();
  if (chosen && !counts.has(chosen)) counts.set(chosen, 0);
  const options = [...counts].map(([call, count]) =>
    element("option", { value: call }, `${short(call)} (${count})`),
  );
  $("call").replaceChildren(element("option", { value: "" }, "all calls"), ...options);
  $("call").value = chosen;
}

function pause() {
  paused = !paused;
  $("pause").setAttribute("aria-pressed", paused);
  $("pause-word").textContent = paused ? "Go on" : "Pause";
  if (paused) {
    feed.stop();
    enter("paused");
  } else {
    feed.start();
  }
}

// ---- wiring

$("key").replaceChildren(
  ...["decided", "played", "dropped", "barge_in", "cut_in", "underrun", "missed"].map((name) => {
    const drawn = svg("svg", { width: 12, height: 12, "aria-hidden": true }, symbol(name, 6, 6));
    return element("li", {}, drawn, WORDS[name]);
  }),
);
for (const link of document.querySelectorAll("a.call-me")) link.href = address("../");
$("pause").addEventListener("click", pause);
for (const filter of [$("call"), $("only-over")]) {
  filter.addEventListener("change", () => {
    turns.rewind();
    draw();
  });
}
$("details").addEventListener("click", ({ target }) => target.closest(".pin") && turns.unpin());
document.addEventListener("visibilitychange", () => {
  if (paused) return;
  if (document.hidden) feed.stop();
  else feed.start();
});

// The last observer made is told last: the sizes that the drawings go by are known by then.
const observer = new ResizeObserver(() => {
  machine.draw();
  draw();
});
for (const id of ["board", "total", "stages", "loop"]) observer.observe($(id));

feed.start();
