// Asking the server over HTTP, with the key where it demands one.

const key = new URLSearchParams(location.search).get("key"); // the page's own ?key=KEY

/** Like fetch, for addresses of the server that this page came from. */
export function ask(address, { headers, ...options } = {}) {
  const authorization = key ? { Authorization: `Bearer ${key}` } : {};
  return fetch(address, { ...options, headers: { ...headers, ...authorization } });
}
