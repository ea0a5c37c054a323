// An answer as the page shows it: text, or bars, and how fast it came.

import { h } from "./dom.js";
import { duration, isWord, number, percent, say } from "./words.js";

/** Elements for a task's answer; text is shown by `liveText` while it comes. */
export function shown(task, answer) {
  if (task.kind === "label" && answer.probabilities) return labels(answer);
  if (task.kind === "fill") return fills(answer);
  const text = textOf(answer);
  return text ? h("div", { class: "said" }, text) : h("p", { class: "muted", word: "blank-answer" });
}

function bar(probability, best) {
  const element = h("span", { class: best ? "meter best" : "meter", "aria-hidden": "true" }, h("i"));
  element.firstChild.style.width = `${Math.max(100 * probability, 0.4)}%`;
  return element;
}

function labels(answer) {
  const sorted = Object.entries(answer.probabilities).sort((one, other) => other[1] - one[1]);
  return h("div", {},
    h("p", { class: "verdict" }, String(answer.value ?? sorted[0][0])),
    h("ol", { class: "bars", role: "list" }, ...sorted.map(([label, probability], place) =>
      h("li", {}, h("span", { class: "name" }, label), bar(probability, place === 0),
        h("span", { class: "n" }, percent(probability))))));
}

function fills(answer) {
  const found = answer.value ?? [];
  const gaps = Array.isArray(found[0]) ? found : [found];
  return h("div", { class: "gaps" }, ...gaps.map((ranked, place) =>
    h("div", {},
      gaps.length > 1 && h("h3", { word: "gap", values: { n: place + 1 } }),
      h("ol", { class: "bars fills", role: "list" }, ...ranked.map((fill, rank) =>
        h("li", {}, h("span", { class: "name" }, visible(fill.token_str)), bar(fill.score, rank === 0),
          h("span", { class: "n" }, percent(fill.score)),
          gaps.length === 1 && h("span", { class: "sequence muted" }, ...marked(fill))))))));
}

/** A token's text with its blanks to be seen. */
const visible = (text) => text.trim() || JSON.stringify(text);

/** The whole text with the fill marked, where it is found in it. */
function marked({ sequence, token_str }) {
  const word = token_str.replace(/^##/, "").trim();
  const parts = word ? sequence.split(word) : [];
  return parts.length === 2 ? [parts[0], h("mark", {}, word), parts[1]] : [sequence];
}

/** Facts of a run, as pairs of a number and a word; `brief` leaves out what a turn of many repeats. */
export function facts({ usage, clock, timing, finish_reason: reason, stopped }, kind, { brief = false } = {}) {
  const list = h("ul", { class: "facts", role: "list" });
  const add = (word, value) => list.append(h("li", {}, h("b", {}, value), h("span", { word })));
  if (kind === "text") {
    const tokens = usage?.completion_tokens;
    const writing = clock.whole - clock.first;
    const rate = timing?.tokens_per_second ?? (tokens > 1 && clock.first !== null && writing > 0 ? (tokens - 1) / writing : null);
    if (rate) add("speed", number(rate, rate < 20 ? 1 : 0));
    if (clock.first !== null) add("first", duration(clock.first));
  }
  if (!brief) add("whole", duration(clock.whole));
  if (usage) {
    if (kind === "text") add("written", say("written-tokens", { n: number(usage.completion_tokens) }));
    if (!brief) add("read", say("written-tokens", { n: number(usage.prompt_tokens) }));
  }
  const end = stopped ? "stopped" : reason;
  if (end && kind === "text") {
    const word = `end-${end}`;
    list.append(isWord(word) ? h("li", { class: `end ${end}`, word }) : h("li", { class: "end", word: "end-other", values: { reason: end } }));
  }
  return list;
}

/** A short line about an answer, for the session's list. */
export function gist(answer) {
  if (answer.probabilities && answer.value) return `${answer.value} · ${percent(answer.probabilities[answer.value] ?? 0)}`;
  if (Array.isArray(answer.value)) {
    return answer.value.flat().filter((_, place) => place < 3).map((fill) => visible(fill.token_str ?? "")).join(", ");
  }
  return textOf(answer).trim();
}

/** An answer's text as its task reads it: without blanks around it, where the task strips them. */
export const textOf = (answer) => (typeof answer.value === "string" ? answer.value : (answer.text ?? ""));

/** What is copied of an answer. */
export const plain = (answer) =>
  (answer.value && typeof answer.value !== "string" ? JSON.stringify(answer.value, null, 2) : textOf(answer));

/** An error, with what can be done about it. */
export function trouble(error, retry) {
  const lost = error.lost || (error.status === undefined && error instanceof TypeError);
  const element = h("div", { class: "trouble", role: "alert" }, h("p", {}, h("b", { word: error.status === 429 ? "error-busy" : "error" })),
    h("p", lost ? { word: error.text ? "error-lost" : "away-why" } : {}, lost ? null : error.message));
  if (retry) {
    const again = h("button", { type: "button", class: "small", word: "try-again", onclick: retry });
    element.append(again);
    if (error.wait) waitFor(again, error.wait);
  }
  return element;
}

function waitFor(button, seconds) {
  let left = Math.ceil(seconds);
  button.disabled = true;
  const tick = () => {
    if (left > 0) button.textContent = say("error-wait", { n: number(left--) });
    else {
      clearInterval(ticking);
      button.disabled = false;
      button.textContent = say("try-again");
    }
  };
  const ticking = setInterval(tick, 1000);
  tick();
}
