// Where the caller's sound comes from: a microphone, or silence for those who type.

import { insecureTrouble, microphoneTrouble } from "./trouble.js";

/**
 * Open the microphone, with the browser's echo canceller: without it the agent would hear
 * itself in the loudspeaker and take that for an interruption.
 * Throws Trouble.
 */
export async function openMicrophone() {
  if (!navigator.mediaDevices?.getUserMedia) throw insecureTrouble(window.location);
  try {
    return await navigator.mediaDevices.getUserMedia({
      audio: {
        echoCancellation: true,
        noiseSuppression: true,
        autoGainControl: true,
        channelCount: 1,
      },
    });
  } catch (error) {
    throw microphoneTrouble(error);
  }
}

/** Make a stream with one silent track. */
export function silence(context) {
  return context.createMediaStreamDestination().stream;
}
