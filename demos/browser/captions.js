// Who said what so far. A pure core: events in, lines out.

/**
 * One caption a role and turn, in the order in which they began.
 * A line is {key, role, text, unheard, final, interrupted}.
 */
export class Captions {
  #lines = new Map();

  /** Take one `captions` event and return the line as it is now; its text may be empty. */
  receive({ role, turn, text = "", final = false, interrupted = false }) {
    const key = `${role}-${turn}`;
    const before = this.#lines.get(key);
    const line = { key, role, text: text.trim(), unheard: "", final, interrupted };
    if (interrupted && before) line.unheard = rest(before, line.text);
    this.#lines.set(key, line);
    return line;
  }

  get lines() {
    return [...this.#lines.values()].filter((line) => line.text || line.unheard);
  }
}

// What had been shown of a line but was not heard of it.
function rest(before, heard) {
  const shown = before.unheard ? `${before.text} ${before.unheard}` : before.text;
  const start = heard.replace(/(…|\.\.\.|[-–—])$/, "");
  return shown.startsWith(start) ? shown.slice(start.length).trim() : "";
}
