// The conversation on the page: captions, tools and notes, in the order in which they came.

import { element } from "./dashboard/dom.js";

/** Draws into `list` (an <ol>); `scroll` is what scrolls around it; `said` is read aloud. */
export class Conversation {
  #items = new Map();
  #list;
  #said;
  #following = true;

  constructor(list, scroll, said) {
    this.#list = list;
    this.#said = said;
    // Follow the talk, except while the reader has scrolled back. More may have been said by the
    // time a scroll event comes, so that being far from the end alone does not mean that.
    let before = 0;
    scroll.addEventListener("scroll", () => {
      const atEnd = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 60;
      this.#following = atEnd || (this.#following && scroll.scrollTop >= before);
      before = scroll.scrollTop;
    });
    const changes = new ResizeObserver(() => {
      if (this.#following && !this.empty) scroll.scrollTop = scroll.scrollHeight;
    });
    changes.observe(list);
    changes.observe(scroll);
  }

  /** Draw one line of captions, or draw it again. */
  caption(line, speaker) {
    let item = this.#items.get(line.key);
    if (!line.text && !line.unheard && line.understood) {
      item?.remove();
      this.#items.delete(line.key);
      return;
    }
    const wasFinal = item?.classList.contains("final");
    if (!item) {
      item = element("li", { class: `said ${line.role}` });
      this.#items.set(line.key, item);
      this.#list.append(item);
    }
    item.classList.toggle("final", line.final);
    item.replaceChildren(
      element("span", { class: "who" }, speaker),
      element("p", {}, line.text, ...remarks(line)),
    );
    if (line.final && !wasFinal && line.text) this.announce(`${speaker}: ${line.text}`);
  }

  /** Draw what a tool was asked and what it answered. */
  tool({ name, arguments: args, result, error }) {
    const failed = error !== undefined && error !== null;
    const outcome = failed ? (error.message ?? error) : result;
    this.#list.append(
      element(
        "li",
        { class: `tool${failed ? " failed" : ""}` },
        element(
          "details",
          {},
          element(
            "summary",
            {},
            element("b", {}, String(name).replaceAll("_", " ")),
            element("span", { class: "arguments" }, short(args)),
            element("span", { class: "outcome" }, failed ? "failed" : "done"),
          ),
          element("pre", {}, typeof outcome === "string" ? outcome : pretty(outcome)),
        ),
      ),
    );
  }

  /** Draw a remark of the page itself. */
  note(text, kind = "") {
    this.#list.append(element("li", { class: `note ${kind}` }, text));
  }

  /** Say something to those who cannot see the page. */
  announce(text) {
    this.#said.append(element("p", {}, text));
    while (this.#said.childElementCount > 20) this.#said.firstElementChild.remove();
  }

  /** End this call's lines with a remark; the next call's turns begin again at 0. */
  end(text) {
    for (const item of this.#items.values()) item.classList.add("final");
    this.#items.clear();
    this.note(text, "end");
  }

  get empty() {
    return !this.#list.childElementCount;
  }
}

function remarks({ text, unheard, interrupted, understood }) {
  const found = [];
  if (unheard) found.push(element("del", { title: "Not heard" }, unheard));
  if (interrupted) found.push(element("small", {}, "— interrupted"));
  if (!understood) found.push(element("small", {}, text ? "— not understood" : "Not understood"));
  return found.flatMap((remark) => [" ", remark]);
}

function short(args) {
  return Object.entries(args ?? {})
    .map(([key, value]) => `${key}: ${typeof value === "object" ? JSON.stringify(value) : value}`)
    .join(", ");
}

const pretty = (value) => JSON.stringify(value ?? null, null, 1).replace(/^[{[]\n|\n[}\]]$/g, "");
