// What the page asks its server for.

import { events } from "./events.js";

const KEPT = "lmkit.key";
const base = new URL("./", document.baseURI);

/** An answer that is an error, in OpenAI's shape. */
export class Refused extends Error {
  constructor(status, error, wait) {
    super(error.message || `HTTP ${status}`);
    this.status = status;
    this.param = error.param ?? null;
    this.code = error.code ?? null;
    this.wait = wait; // seconds, or null
  }
}

/** The key of this tab; it is kept until the tab is closed. */
export const key = {
  get: () => { try { return sessionStorage.getItem(KEPT) || ""; } catch { return ""; } },
  set: (value) => { try { value ? sessionStorage.setItem(KEPT, value) : sessionStorage.removeItem(KEPT); } catch { /* not kept */ } },
};

/** Where a route is: the page may lie below another server's path. */
export const address = (path, query = []) => {
  const url = new URL(path, base);
  for (const [name, value] of query) url.searchParams.append(name, value);
  return url;
};

async function ask(path, { body, query, signal } = {}) {
  const headers = key.get() ? { Authorization: `Bearer ${key.get()}` } : {};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const asked = fetch(address(path, query), {
    method: body === undefined ? "GET" : "POST",
    headers,
    body: body === undefined ? undefined : JSON.stringify(body),
    signal,
    cache: "no-store",
    credentials: "omit",
    redirect: "error",
  });
  const reached = (detail) => document.dispatchEvent(new CustomEvent("reached", { detail }));
  const response = await asked.catch((error) => {
    if (error.name !== "AbortError") reached(false);
    throw error;
  });
  reached(true);
  if (response.ok) return response;
  const said = await response.json().catch(() => ({}));
  const wait = Number.parseFloat(response.headers.get("Retry-After"));
  throw new Refused(response.status, said.error || {}, Number.isFinite(wait) ? wait : null);
}

/** The JSON that a route answers. */
export const call = async (path, options) => (await ask(path, options)).json();

/** The events of a route that streams, each read as JSON, up to its end. */
export async function* stream(path, options) {
  const response = await ask(path, options);
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const event = JSON.parse(data);
    if (event.error) throw new Refused(event.error.status ?? 500, event.error, null);
    yield event;
  }
}

const route = (task) => `v1/tasks/${encodeURIComponent(task.name)}`;

/** Every task of the server. */
export async function tasks() {
  return (await call("v1/tasks")).tasks;
}

/** The prompt of a record as the model sees it: its text, and its tokens. */
export const prompt = (task, record, signal) => call(`${route(task)}/prompt`, { body: record, signal });

/**
 * Run a record.
 *
 * `onText` gets each piece as it comes. Returns the answer with `clock`, the seconds that this page
 * saw pass: to the first piece, and to the end. A run that `signal` ends returns what came, with
 * `stopped`.
 */
export async function run(task, record, query, { signal, onText }) {
  const begun = performance.now();
  const clock = { first: null, whole: null };
  const seconds = () => (performance.now() - begun) / 1000;
  let text = "";
  let answer = null;
  try {
    if (task.kind === "text") {
      for await (const event of stream(route(task), { body: record, query: [...query, ["stream", "true"]], signal })) {
        if (event.usage) answer = event;
        else if (event.text) {
          clock.first ??= seconds();
          text += event.text;
          onText(event.text, text);
        }
      }
      if (answer === null) throw Object.assign(new Error("lost"), { lost: true, text });
    } else {
      answer = await call(route(task), { body: record, query, signal });
    }
  } catch (error) {
    if (error.name !== "AbortError" && !signal.aborted) throw Object.assign(error, { text });
    answer = { text, stopped: true };
  }
  clock.whole = seconds();
  return { ...answer, clock };
}
