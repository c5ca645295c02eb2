// How loud a stream is, many times a second.

const FLOOR = -60; // dB relative to full scale: an empty meter
const CEILING = -12; // dB: a full one
const SPEECH = -48; // dB
const HOLD = 350; // ms: pauses between words are still speech

/** Listens to one stream; silent until it is given one. */
export class Level {
  #analyser;
  #samples;
  #source = null;
  #shown = 0;
  #loud = -Infinity;

  constructor(context) {
    this.#analyser = context.createAnalyser();
    this.#analyser.fftSize = 1024;
    this.#samples = new Float32Array(this.#analyser.fftSize);
  }

  /** Listen to this stream instead; null for none. */
  listen(stream) {
    this.#source?.disconnect();
    this.#source = stream && this.#analyser.context.createMediaStreamSource(stream);
    this.#source?.connect(this.#analyser);
  }

  /** Measure now (ms). Returns {height: 0 to 1, speaking}. */
  read(now) {
    let level = -Infinity;
    if (this.#source) {
      this.#analyser.getFloatTimeDomainData(this.#samples);
      let energy = 0;
      for (const sample of this.#samples) energy += sample * sample;
      level = 10 * Math.log10(energy / this.#samples.length);
    }
    if (level > SPEECH) this.#loud = now;
    const height = Math.min(1, Math.max(0, (level - FLOOR) / (CEILING - FLOOR)));
    this.#shown = Math.max(height, this.#shown * 0.88); // falls slowly, as meters do
    return { height: this.#shown, speaking: now - this.#loud < HOLD };
  }
}
