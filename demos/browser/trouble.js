// What can go wrong, in words for the person in front of the page.

/**
 * A trouble with a title and what to do about it.
 * `retryAfter` is in seconds, 0 if waiting does not help; `typing` says that a call
 * without a microphone would still work.
 */
export class Trouble extends Error {
  constructor(title, advice, { retryAfter = 0, typing = false, retry = true } = {}) {
    super(`${title} ${advice}`);
    Object.assign(this, { title, advice, retryAfter, typing, retry });
  }
}

/** Explain why the microphone could not be opened; `error` is what getUserMedia threw. */
export function microphoneTrouble(error) {
  switch (error?.name) {
    case "NotAllowedError":
    case "SecurityError":
      return new Trouble(
        "The microphone is not allowed.",
        "Allow it with the icon in the address bar and press Talk again, or go on by typing.",
        { typing: true },
      );
    case "NotFoundError":
    case "OverconstrainedError":
      return new Trouble(
        "No microphone was found.",
        "Plug one in and press Talk again, or go on by typing.",
        { typing: true },
      );
    case "NotReadableError":
    case "AbortError":
      return new Trouble(
        "The microphone is in use.",
        "Close the program that holds it and press Talk again, or go on by typing.",
        { typing: true },
      );
    default:
      return new Trouble(
        "The microphone did not open.",
        `The browser said: ${error?.message || error}. You can go on by typing.`,
        { typing: true },
      );
  }
}

/** Explain that this page was opened from an address to which no browser gives a microphone. */
export function insecureTrouble(location) {
  return new Trouble(
    "The browser keeps the microphone from this address.",
    `It gives it to https:// pages and to localhost only, and this is ${location.origin}. ` +
      "Open the page over https, or go on by typing.",
    { typing: true, retry: false },
  );
}

/** Explain an answer to the offer that was not an answer; `error` is its JSON `error`, if any. */
export function serverTrouble(status, retryAfter, error) {
  if (status === 503) {
    const loading = error?.code === "not_ready";
    return new Trouble(
      loading ? "The server is still loading." : "All lines are busy.",
      error?.message ?? "Please try again in a moment.",
      { retryAfter: retryAfter > 0 ? Math.ceil(retryAfter) : 5 },
    );
  }
  if (status === 401) {
    return new Trouble("This server asks for a key.", "Open the page as /?key=KEY.", {
      retry: false,
    });
  }
  return new Trouble(
    "The server did not take the call.",
    error?.message ? `It said: ${error.message}` : `It answered with status ${status}.`,
  );
}

export const unreachable = () =>
  new Trouble("The server cannot be reached.", "Check that it is running, then try again.");

export const noWebRtc = () =>
  new Trouble("This browser cannot make calls.", "It has no WebRTC, or it is switched off.", {
    retry: false,
  });

export const noPath = () =>
  new Trouble(
    "No sound gets through to the server.",
    "The call was accepted, but a firewall or VPN between here and there drops its UDP packets.",
  );

/** Say why a call ended; `reason` is the one of the event `end`. */
export function ending(reason) {
  const known = {
    hang_up: "You hung up",
    goodbye: "The agent said goodbye",
    transfer: "You were handed to a person",
    lost: "The connection was lost",
    silence: "Nobody spoke for a while",
    shutdown: "The server is closing down",
    error: "Something failed on the server",
  };
  return known[reason] ?? `The call ended (${reason || "no reason given"})`;
}
