// When the first sound of an answer comes out of the loudspeaker, for the server to know.

const EARLY = 500; // ms by which the sound may be ahead of its `turn` event
const PATIENCE = 10000; // ms after which that sound will not be this answer's

/** Listens to the agent's voice; calls `onPlayed(turn, late)`, s after the `turn` event. */
export class Playout {
  #context;
  #node = null;
  #source = null;
  #onset = -Infinity; // ms, when the latest sound began; -Infinity once it is somebody's
  #waiting = null; // {turn, since}: the answer whose sound is waited for

  constructor(context, onPlayed) {
    this.#context = context;
    this.onPlayed = onPlayed;
    this.#open();
  }

  async #open() {
    try {
      await this.#context.audioWorklet.addModule("./onset.js");
      this.#node = new AudioWorkletNode(this.#context, "onset", { numberOfOutputs: 0 });
    } catch {
      return; // an address without worklets: nobody is told
    }
    this.#node.port.onmessage = ({ data }) => this.#hear(this.#time(data));
    this.#source?.connect(this.#node);
  }

  /** Listen to this stream instead; null for none. */
  listen(stream) {
    this.#source?.disconnect();
    this.#source = stream && this.#context.createMediaStreamSource(stream);
    if (this.#node) this.#source?.connect(this.#node);
    this.#waiting = null;
  }

  /** An answer has left the server: its first sound is on the way, or just here. */
  expect(turn) {
    const now = performance.now();
    this.#waiting = { turn, since: now };
    if (now - this.#onset < EARLY) this.#hear(this.#onset);
  }

  #hear(at) {
    this.#onset = at;
    if (!this.#waiting) return;
    const { turn, since } = this.#waiting;
    this.#waiting = null;
    this.#onset = -Infinity;
    if (at - since < PATIENCE) this.onPlayed(turn, (at - since) / 1000);
  }

  // A time of the audio clock as the page's, in ms: when that sample is heard, not made.
  #time(sample) {
    const { contextTime, performanceTime } = this.#context.getOutputTimestamp();
    if (performanceTime > 0) return performanceTime + (sample - contextTime) * 1000;
    return performance.now() - (this.#context.currentTime - sample) * 1000;
  }
}
