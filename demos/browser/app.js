// The page: the five phases of a call, and who is told about what.

import { Call } from "./call.js";
import { Captions } from "./captions.js";
import { Conversation } from "./conversation.js";
import { element } from "./dashboard/dom.js";
import { Level } from "./level.js";
import { openMicrophone, silence } from "./microphone.js";
import { Playout } from "./playout.js";
import { ask } from "./server.js";
import { Trouble, ending, serverTrouble, unreachable } from "./trouble.js";
import { Waterfall } from "./waterfall.js";

const $ = (id) => document.getElementById(id);

const PHASES = {
  idle: { talk: "Talk", status: "Ready when you are" },
  connecting: { talk: "Cancel", status: "Connecting…" },
  listening: { talk: "Hang up", status: "Listening" },
  speaking: { talk: "Hang up", status: "Speaking" },
  ended: { talk: "Talk again", status: "The call has ended" },
};

const conversation = new Conversation($("lines"), $("scroll"), $("said"));
const waterfall = new Waterfall($("waterfall"), $("readout"));

let phase = "idle";
let agent = { name: "Front desk", suggestions: [] };
let captions = new Captions();
let call = null;
let microphone = null; // the stream; null for those who type
let sound = null; // {context, you, agent, playout}: made at the first press, as browsers demand
let upSince = 0; // ms, when the call came up
let countdown = 0;

// ---- phases

function enter(next, status = PHASES[next].status) {
  phase = next;
  document.body.dataset.phase = next;
  $("talk-word").textContent = PHASES[next].talk;
  $("status").textContent = next === "speaking" ? `${agent.name} is speaking` : status;
  $("welcome").hidden = next !== "idle" || !conversation.empty;
  const up = next === "listening" || next === "speaking";
  $("mute").hidden = !up;
}

async function begin({ typing = false } = {}) {
  clearTrouble();
  enter("connecting", typing ? "Connecting…" : "Waiting for the microphone…");
  sound ??= makeSound();
  sound.context.resume();
  captions = new Captions();
  const mine = (call = new Call({ onEvent: receive, onVoice: hear, onWeak: weaken, onEnd: over }));
  let opened = null;
  try {
    if (!typing) opened = await openMicrophone();
  } catch (trouble) {
    if (call === mine) over("microphone", trouble);
    return;
  }
  if (call !== mine) return stop(opened); // cancelled while the browser asked
  enter("connecting");
  useMicrophone(opened);
  await mine.dial(opened ?? silence(sound.context));
}

function hear(stream) {
  // Chromium gives WebAudio no samples of a remote stream that no element plays.
  $("voice").srcObject = stream;
  $("voice")
    .play()
    .catch((error) => {
      if (error.name !== "NotAllowedError") return;
      showTrouble(new Trouble("The browser holds the sound back.", "", { retry: false }), {
        "Turn the sound on": () => $("voice").play().then(clearTrouble),
      });
    });
  sound.agent.listen(stream);
  sound.playout.listen(stream);
}

function weaken(weak) {
  if (phase !== "listening" && phase !== "speaking") return;
  enter("listening", weak ? "The connection is weak…" : undefined);
}

function over(reason, trouble = null) {
  const wasUp = phase === "listening" || phase === "speaking";
  if (!wasUp) $("text").value ||= call.unsent;
  call = null;
  useMicrophone(null);
  sound?.agent.listen(null);
  sound?.playout.listen(null);
  if (reason === "hang_up") $("voice").srcObject = null;
  showChips([]);
  enter(wasUp ? "ended" : "idle", wasUp ? ending(reason) : undefined);
  if (wasUp) {
    conversation.end(`${ending(reason)} · ${clock(performance.now() - upSince)}`);
    conversation.announce(ending(reason));
  } else {
    showChips(agent.suggestions);
  }
  if (trouble) showTrouble(trouble);
}

// ---- events of the server

function receive(event) {
  switch (event.type) {
    case "start":
      upSince = performance.now();
      enter("listening");
      conversation.announce("Connected");
      if (event.notice) conversation.note(event.notice);
      showChips(agent.suggestions);
      break;
    case "captions": {
      const line = captions.receive(event);
      conversation.caption(line, line.role === "user" ? "You" : agent.name);
      if (line.role === "user" && line.text) showChips([]);
      break;
    }
    case "tool":
      conversation.tool(event);
      break;
    case "turn":
      sound.playout.expect(event.turn);
      waterfall.add(event);
      summarise();
      break;
    case "choices":
      showChips(event.choices ?? []);
      break;
    case "error":
      conversation.note(event.message ?? event.code, "error");
      conversation.announce(event.message ?? event.code);
      break;
  }
}

function summarise() {
  const { median, count, budget } = waterfall;
  $("timing-hint").hidden = true;
  const kind = element("span", { class: "median" }, count > 1 ? "median " : "");
  $("timing-sum").replaceChildren(kind, `${Math.round(median)} ms`);
  $("timing-sum").classList.toggle("over", median > budget);
}

// ---- sound

function makeSound() {
  const context = new AudioContext();
  const playout = new Playout(context, (turn, late) => call?.played(turn, late));
  return { context, you: new Level(context), agent: new Level(context), playout };
}

function useMicrophone(stream) {
  if (microphone !== stream) stop(microphone);
  microphone = stream;
  sound?.you.listen(stream);
  showMute();
}

const stop = (stream) => stream?.getTracks().forEach((track) => track.stop());

async function toggleMicrophone() {
  if (microphone) {
    const [track] = microphone.getAudioTracks();
    track.enabled = !track.enabled;
    return showMute();
  }
  const mine = call;
  try {
    const opened = await openMicrophone();
    if (call !== mine || !mine) return stop(opened);
    clearTrouble();
    await mine.hearFrom(opened);
    useMicrophone(opened);
  } catch (trouble) {
    showTrouble(trouble, {});
  }
}

function showMute() {
  const on = microphone?.getAudioTracks()[0].enabled ?? false;
  $("mute").classList.toggle("off", !on);
  $("mute").setAttribute(
    "aria-label",
    on ? "Mute the microphone" : microphone ? "Unmute the microphone" : "Turn the microphone on",
  );
  $("mute").title = $("mute").getAttribute("aria-label");
}

function frame(now) {
  if (sound) {
    const you = sound.you.read(now);
    const voice = sound.agent.read(now);
    $("level-you").style.setProperty("--level", you.height);
    $("level-agent").style.setProperty("--level", voice.height);
    if (phase === "listening" && voice.speaking) enter("speaking");
    else if (phase === "speaking" && !voice.speaking) enter("listening");
  }
  requestAnimationFrame(frame);
}

const clock = (ms) =>
  `${Math.floor(ms / 60000)}:${String(Math.floor(ms / 1000) % 60).padStart(2, "0")}`;

// ---- words instead of speech

function say(text) {
  if (!call) begin({ typing: true });
  call.say(text);
}

function showChips(texts) {
  $("chips").replaceChildren(
    ...texts.map((text) => {
      const chip = element("button", { type: "button", class: "pill" }, text);
      chip.addEventListener("click", () => {
        showChips([]);
        say(text);
      });
      return chip;
    }),
  );
}

// ---- troubles

function showTrouble(trouble, actions = remedies(trouble)) {
  clearTrouble();
  $("trouble-title").textContent = trouble.title;
  $("trouble-advice").textContent = trouble.advice;
  $("trouble-actions").replaceChildren(
    ...Object.entries(actions).map(([label, act]) => {
      const button = element("button", { type: "button", class: "pill" }, label);
      button.addEventListener("click", act);
      return button;
    }),
  );
  $("trouble").hidden = false;
  if (trouble.retryAfter) countDown(trouble.retryAfter);
}

function remedies({ typing, retry }) {
  const actions = {};
  if (retry) actions["Try again"] = () => begin();
  if (typing) {
    actions["Go on by typing"] = () => {
      begin({ typing: true });
      $("text").focus();
    };
  }
  return actions;
}

// The server said when a line may be free; pressing earlier is allowed.
function countDown(seconds) {
  const button = $("trouble-actions").firstElementChild;
  const show = () => {
    button.textContent = seconds > 0 ? `Try again (${seconds} s)` : "Try again";
    if (seconds-- <= 0) clearInterval(countdown);
  };
  show();
  countdown = setInterval(show, 1000);
}

function clearTrouble() {
  clearInterval(countdown);
  $("trouble").hidden = true;
}

// ---- what this server is made of

async function loadAbout() {
  clearTrouble();
  try {
    const response = await ask("./v1/about");
    if (!response.ok) throw serverTrouble(response.status);
    showAbout(await response.json());
  } catch (error) {
    showTrouble(error instanceof Trouble ? error : unreachable(), { "Try again": loadAbout });
  }
}

function showAbout(about) {
  agent = { ...agent, ...about.agent };
  document.title = agent.name;
  $("agent").textContent = agent.name;
  $("version").textContent = about.version ? `sidetone ${about.version}` : "sidetone";
  if (about.ears?.about) {
    $("honest").textContent = about.ears.about;
    $("honest").hidden = false;
  }
  $("about-sum").textContent = about.ears?.name ?? "";
  $("parts").replaceChildren(
    ...part("Ears", about.ears),
    ...part("Mind", about.mind),
    ...part("Mouth", about.mouth),
  );
  if (phase === "idle") showChips(agent.suggestions);
}

function part(title, { name, about, better } = {}) {
  if (!name) return [];
  const body = element("dd", {}, element("b", {}, name));
  if (about) body.append(element("p", {}, about));
  if (better) {
    const [line, remark = ""] = better.split(/ {2,}/);
    const commands = line.split(/, then /); // each alone, so that it can be copied
    const how = commands.length > 1 ? "with these commands" : "with one command";
    body.append(
      element("p", { class: "better" }, `Better ${title.toLowerCase()}, ${how}:`),
      ...commands.map((command) => element("code", { tabindex: 0 }, command)),
      element("p", {}, remark),
    );
  }
  return [element("dt", {}, title), body];
}

// ---- wiring

$("talk").addEventListener("click", () => (call ? call.hangUp() : begin()));
$("mute").addEventListener("click", toggleMicrophone);
$("type").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (!text) return;
  $("text").value = "";
  say(text);
});
window.addEventListener("pagehide", () => call?.leave());

const wide = window.matchMedia("(min-width: 900px)");
const unfold = () => ["timing", "about"].forEach((id) => ($(id).open = wide.matches));
wide.addEventListener("change", unfold);
unfold();

enter("idle");
requestAnimationFrame(frame);
loadAbout();
