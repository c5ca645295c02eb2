// The stages of a turn: their order, their words, their colours.

/** The stages in the order a turn goes through them, with their words. */
export const STAGES = new Map([
  ["framing", "framing"],
  ["jitter", "jitter buffer"],
  ["vad", "detecting"],
  ["endpoint", "end of turn"],
  ["asr", "hearing"],
  ["llm", "thinking"],
  ["first_phrase", "first phrase"],
  ["tools", "tools"],
  ["tts", "voice"],
  ["send", "sending"],
  ["silence", "lead-in"],
  ["unattributed", "not attributed"],
]);

/** Say a stage, or anything else that has a name in the code, in words. */
export const words = (name) => STAGES.get(name) ?? String(name).replaceAll("_", " ");

/** Return the class that gives a stage its colour. */
export const colour = (name) => (STAGES.has(name) ? `stage-${name}` : "stage-other");

/** Write seconds as the page does: milliseconds, from 10 s on seconds. */
export function milliseconds(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (Math.abs(seconds) >= 10) return `${seconds.toFixed(1)} s`;
  return `${figure(seconds)} ms`;
}

/** Write seconds as a bare number of milliseconds. */
export function figure(seconds) {
  const ms = seconds * 1000;
  const digits = Math.abs(ms) < 9.95 ? 1 : 0;
  return String(Number(ms.toFixed(digits)) || 0); // never "-0"
}

/** A stage's share of the budget in `split`, in seconds; 0 if it has none. */
export const share = (split, name) =>
  split && Object.hasOwn(split, name) && split[name] > 0 ? split[name] : 0;
