// Asks the server for what is new, once a second, and comes back when it was away.

const EVERY = 1000; // ms
const PATIENCE = 8000; // ms for an answer
const LATER = [1000, 2000, 3000, 5000]; // ms between tries, when there is no answer

const key = new URLSearchParams(location.search).get("key"); // the page's own ?key=KEY

/** Return an address of this server for a link, with the key where the page has one. */
export const address = (path) => (key ? `${path}?key=${encodeURIComponent(key)}` : path);

/**
 * The server's snapshots. Callbacks: `onSnapshot(snapshot, fresh)`, where `fresh` says that it
 * has everything and what was known before may be of another server; `onTrouble(message)` each
 * time there is none. `since()` tells the number of the latest record known.
 */
export class Feed {
  #timer = 0;
  #running = false;
  #tries = 0;
  #fresh = true;
  #now = -Infinity; // the server's clock, which stops when it does

  constructor({ since, onSnapshot, onTrouble }) {
    Object.assign(this, { since, onSnapshot, onTrouble });
  }

  /** Ask now, and from now on. */
  start() {
    if (this.#running) return;
    this.#running = true;
    this.#ask();
  }

  /** Ask no more; what is missed meanwhile comes with the next start. */
  stop() {
    this.#running = false;
    clearTimeout(this.#timer);
  }

  async #ask() {
    const began = performance.now();
    let wait;
    try {
      const snapshot = await load(this.#fresh ? 0 : this.since());
      if (!this.#running) return;
      if (!this.#fresh && snapshot.now < this.#now) {
        this.#fresh = true; // another server has taken its place
        wait = 0;
      } else {
        this.onSnapshot(snapshot, this.#fresh);
        this.#fresh = false;
        wait = Math.max(EVERY / 4, began + EVERY - performance.now());
      }
      this.#now = snapshot.now;
      this.#tries = 0;
    } catch (error) {
      if (!this.#running) return;
      this.#fresh = true;
      this.onTrouble(error instanceof Refused ? error.message : GONE);
      wait = LATER[Math.min(this.#tries++, LATER.length - 1)];
    }
    this.#timer = setTimeout(() => this.#ask(), wait);
  }
}

const GONE = "The server is gone. Waiting for it to come back…";

class Refused extends Error {}

async function load(since) {
  const response = await fetch(`../v1/dashboard?since=${since}`, {
    headers: key ? { Authorization: `Bearer ${key}` } : {},
    signal: AbortSignal.timeout(PATIENCE),
    cache: "no-store",
  });
  if (response.ok) return response.json();
  if (response.status === 401) {
    throw new Refused("This server asks for a key: open the page as /dashboard?key=KEY.");
  }
  const body = await response.json().catch(() => null);
  throw new Refused(String(body?.error?.message ?? `The server answered ${response.status}.`));
}
