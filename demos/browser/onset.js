// On the audio thread: says when sound begins after silence, to the sample.

const AUDIBLE = 0.01; // amplitude; the server counts from the same
const SILENCE = 0.2; // s that end a sound: shorter gaps are inside it

registerProcessor(
  "onset",
  class extends AudioWorkletProcessor {
    #quiet = SILENCE; // s since the last sound

    process([[samples]]) {
      if (!samples) return true; // nothing is connected
      for (let index = 0; index < samples.length; index += 1) {
        if (Math.abs(samples[index]) < AUDIBLE) {
          this.#quiet += 1 / sampleRate;
          continue;
        }
        if (this.#quiet >= SILENCE) this.port.postMessage(currentTime + index / sampleRate);
        this.#quiet = 0;
      }
      return true;
    }
  },
);
