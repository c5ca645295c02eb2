// Who said what so far. A pure core: events in, lines out.

/**
 * One caption a role and turn.
 * A line is {key, role, text, unheard, final, interrupted, understood}.
 */
export class Captions {
  #lines = new Map();

  /** Take one `captions` event and return the line as it is now; its text may be empty. */
  receive({ role, turn, text = "", final = false, interrupted = false, understood = true }) {
    const key = `${role}-${turn}`;
    const before = this.#lines.get(key);
    const line = { key, role, text: text.trim(), unheard: "", final, interrupted, understood };
    if (interrupted && before) line.unheard = rest(before, line.text);
    this.#lines.set(key, line);
    return line;
  }
}

// What had been shown of a line but was not heard of it.
function rest(before, heard) {
  const shown = before.unheard ? `${before.text} ${before.unheard}` : before.text;
  const start = heard.replace(/(…|\.\.\.|[-–—])$/, "");
  return shown.startsWith(start) ? shown.slice(start.length).trim() : "";
}
