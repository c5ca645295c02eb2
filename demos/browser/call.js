// One call: media by WebRTC, events by its data channel. Knows nothing of the page.

import { ask } from "./server.js";
import { Trouble, noPath, noWebRtc, serverTrouble, unreachable } from "./trouble.js";

const GATHERING = 1000; // ms; the server takes no candidates after the offer
const ANSWER = 15000; // ms
const CONNECTING = 15000; // ms from the answer to the open data channel
const LAST_WORDS = 600; // ms for the sound in the jitter buffer, and for `hang_up` to get there

/**
 * One call from dialling to the end. Callbacks:
 * `onEvent(event)` for every event of the server, `onVoice(stream)` once the agent's sound is
 * there, `onWeak(weak)` when packets stop and when they come again, `onEnd(reason, trouble)`
 * exactly once, trouble or not.
 */
export class Call {
  #peer;
  #events;
  #sender;
  #address = null;
  #waiting = []; // messages written before the channel was open
  #abort = new AbortController();
  #timer;
  #over = false;

  constructor({ onEvent, onVoice, onWeak, onEnd }) {
    Object.assign(this, { onEvent, onVoice, onWeak, onEnd });
  }

   /** Dial with the caller's stream. */
  async dial(stream) {
    try {
      if (!globalThis.RTCPeerConnection) throw noWebRtc();
      await this.#dial(stream);
    } catch (error) {
      const known = error instanceof Trouble;
      this.#end("failed", {
        trouble: known ? error : new Trouble("The call failed.", String(error)),
      });
    }
  }

  async #dial(stream) {
    const peer = (this.#peer = new RTCPeerConnection());
    const events = (this.#events = peer.createDataChannel("events", { ordered: true }));
    this.#sender = peer.addTrack(stream.getAudioTracks()[0], stream);
    peer.ontrack = ({ track, streams }) => this.onVoice(streams[0] ?? new MediaStream([track]));
    peer.onconnectionstatechange = () => {
      if (peer.connectionState === "disconnected") this.onWeak(true);
      if (peer.connectionState === "connected") this.onWeak(false);
      if (peer.connectionState === "failed") {
        this.#end("lost", { trouble: events.readyState === "connecting" ? noPath() : null });
      }
    };
    const opened = new Promise((resolve) => events.addEventListener("open", resolve));
    events.onmessage = ({ data }) => this.#receive(data);
    events.onclose = () => this.#end("lost", { told: true });

    await peer.setLocalDescription();
    await gathered(peer);
    const answer = await this.#offer(peer.localDescription.sdp);
    if (this.#over) return;
    await peer.setRemoteDescription({ type: "answer", sdp: answer });
    this.#timer = setTimeout(() => this.#end("lost", { trouble: noPath() }), CONNECTING);
    await opened;
    clearTimeout(this.#timer);
    for (const message of this.#waiting.splice(0)) events.send(message);
  }

  async #offer(sdp) {
    const signal = AbortSignal.any([this.#abort.signal, AbortSignal.timeout(ANSWER)]);
    let response;
    let body;
    try {
      response = await ask("./v1/webrtc", {
        method: "POST",
        headers: { "Content-Type": "application/sdp" },
        body: sdp,
        signal,
      });
      body = await response.text();
    } catch {
      throw unreachable();
    }
    if (!response.ok) {
      throw serverTrouble(
        response.status,
        Number(response.headers.get("Retry-After")),
        parsed(body)?.error,
      );
    }
    const address = response.headers.get("Location");
    this.#address = address && new URL(address, response.url);
    if (this.#over) this.#forget();
    return body;
  }

  #receive(data) {
    if (this.#over) return;
    const event = parsed(data);
    if (!event?.type) return;
    this.onEvent(event);
    if (event.type === "end") this.#end(event.reason, { told: true, linger: LAST_WORDS });
  }

  /** Send typed words as the caller's turn; before the call is up they wait. */
  say(text) {
    this.#send({ type: "text", text });
  }

  /** Tell that the first sound of a turn's answer was played, `late` s after its event. */
  played(turn, late) {
    if (this.#events?.readyState === "open") this.#send({ type: "played", turn, late });
  }

  /** Typed words that were not sent, because the call never came up. */
  get unsent() {
    return this.#waiting.map((message) => JSON.parse(message).text).join(" ");
  }

  /** Replace what the caller sounds like: a microphone, or silence. */
  async hearFrom(stream) {
    await this.#sender?.replaceTrack(stream.getAudioTracks()[0]);
  }

  /** End the call from this side. */
  hangUp() {
    const open = this.#events?.readyState === "open";
    if (open) this.#send({ type: "hang_up" });
    this.#end("hang_up", { told: open, linger: LAST_WORDS });
  }

  /** End the call because the page goes away: there is no time for the data channel. */
  leave() {
    this.#end("hang_up");
  }

  #send(message) {
    const line = JSON.stringify(message);
    if (this.#events?.readyState === "open") this.#events.send(line);
    else this.#waiting.push(line);
  }

  // A server that does not know of the end yet (`told`) hears of it over HTTP.
  #end(reason, { trouble = null, told = false, linger = 0 } = {}) {
    if (this.#over) return;
    this.#over = true;
    clearTimeout(this.#timer);
    this.#abort.abort();
    if (!told) this.#forget();
    setTimeout(() => this.#peer?.close(), linger);
    this.onEnd(reason, trouble);
  }

  #forget() {
    if (this.#address) ask(this.#address, { method: "DELETE", keepalive: true }).catch(() => {});
  }
}

function gathered(peer) {
  return new Promise((resolve) => {
    if (peer.iceGatheringState === "complete") return resolve();
    const timer = setTimeout(resolve, GATHERING);
    peer.addEventListener("icegatheringstatechange", () => {
      if (peer.iceGatheringState !== "complete") return;
      clearTimeout(timer);
      resolve();
    });
  });
}

function parsed(json) {
  try {
    return JSON.parse(json);
  } catch {
    return null;
  }
}
