// One run at a time: a button that starts it, and becomes the one that stops it.

import { h, icon, reword } from "./dom.js";

const isMac = /Mac|iPhone|iPad/.test(navigator.platform);

/** `begin()` says whether a run may start; `signal` ends it; `stop()` is what Esc and the button do. */
export function runButton(start, word, picture, { label = null } = {}) {
  let running = null;
  const text = h("span", { word });
  const keys = h("kbd", { "aria-hidden": "true" }, isMac ? "⌘ ↵" : "Ctrl ↵");
  const element = h("button", {
    type: "button", class: "primary", wordLabel: label, "aria-keyshortcuts": "Control+Enter",
    onclick: () => (running ? stop() : start()),
  }, picture, text, keys);

  function begin() {
    if (running) return false;
    running = new AbortController();
    element.classList.add("running");
    element.replaceChild(icon("stop"), element.firstChild);
    reword(text, "stop");
    keys.textContent = "Esc";
    return true;
  }
  function end() {
    running = null;
    element.classList.remove("running");
    element.replaceChild(picture, element.firstChild);
    reword(text, word);
    keys.textContent = isMac ? "⌘ ↵" : "Ctrl ↵";
  }
  function stop() {
    running?.abort();
  }
  return { element, begin, end, stop, get signal() { return running.signal; }, get busy() { return running !== null; } };
}
