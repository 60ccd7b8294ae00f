// How the page gets what it shows: server-sent events, read by fetch(), which can send a token; and the API.
// A stream that ends, or says nothing for a while, is opened again.

const SILENCE = 20000; // ms
const PAUSES = [1000, 2000, 3000, 5000]; // ms between two attempts

export class ApiError extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

let token = sessionStorage.getItem("token") ?? "";

export const hasToken = () => token !== "";

export function setToken(text) {
  token = text;
  text ? sessionStorage.setItem("token", text) : sessionStorage.removeItem("token");
}

async function request(path, options = {}) {
  const headers = { "X-FunkenShield": "page", ...options.headers, ...(token && { Authorization: `Bearer ${token}` }) };
  const response = await fetch(`api/${path}`, { ...options, headers, cache: "no-store", credentials: "omit" });
  if (response.ok) return response;
  const told = await response.json().catch(() => ({}));
  throw new ApiError(response.status, told.error ?? `${response.status} ${response.statusText}`);
}

export async function get(path, members = {}) {
  const query = new URLSearchParams(members).toString();
  return (await request(query ? `${path}?${query}` : path)).json();
}

export async function post(path, members = {}) {
  const headers = { "Content-Type": "application/json" };
  return (await request(path, { method: "POST", headers, body: JSON.stringify(members) })).json();
}

// Call on[event](data) for each event, and on.state(state, why) as the stream comes and goes: "live", "gone", "locked".
export async function follow(on) {
  for (let failed = 0; ; failed++) {
    const stopped = new AbortController();
    let timer = setTimeout(() => stopped.abort(), SILENCE);
    try {
      const response = await request("live", { signal: stopped.signal });
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let rest = ""; ; ) {
        const { value, done } = await reader.read();
        if (done) throw new Error("the daemon is ending, or was restarted");
        clearTimeout(timer);
        timer = setTimeout(() => stopped.abort(), SILENCE);
        const parts = (rest + value).split("\n\n");
        rest = parts.pop();
        for (const part of parts) dispatch(part, on);
        failed = 0;
      }
    } catch (error) {
      on.state(error.status === 401 || error.status === 403 ? "locked" : "gone", error);
    }
    clearTimeout(timer);
    await new Promise((done) => setTimeout(done, PAUSES[Math.min(failed, PAUSES.length - 1)]));
  }
}

function dispatch(text, on) {
  const fields = Object.fromEntries(text.split("\n").map((line) => line.split(/: (.*)/s, 2)));
  if (!fields.data) return;
  on.state("live");
  on[fields.event]?.(JSON.parse(fields.data));
}
