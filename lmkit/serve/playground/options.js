// How an answer is written: any field of the task's generation defaults, for one run.

import { h, newId, reword } from "./dom.js";
import { number, say } from "./words.js";

// The fields that people turn first, with what a number field needs to know of them.
const FIRST = {
  max_new_tokens: { min: 1, step: 1 },
  temperature: { min: 0, step: 0.1 },
  top_p: { min: 0, max: 1, step: 0.05 },
  top_k: { min: 0, step: 1, off: 0 },
  repetition_penalty: { min: 0, step: 0.05 },
  seed: { min: 0, step: 1, off: null },
  stop: {},
};
const NAMES = { stop: "stop_texts" }; // "stop" alone is what a button says
// What no hand types: ids, and a setting that changes no answer.
const LEFT_OUT = new Set(["forced_bos_token_id", "forced_eos_token_id", "suppress_tokens"]);

const unescaped = (text) => text.replaceAll("\\n", "\n").replaceAll("\\t", "\t");
const escaped = (text) => text.replaceAll("\n", "\\n").replaceAll("\t", "\\t");

/**
 * The fields of a task's options, closed at first.
 *
 * `query()` gives what was changed, as pairs for an address; `set(pairs)` puts such pairs in.
 */
export function optionsOf(task, onchange) {
  const defaults = task.generation ?? {};
  const fields = new Map();
  const first = Object.keys(FIRST).filter((name) => name in defaults);
  const rest = Object.keys(defaults).filter((name) => !(name in FIRST) && !LEFT_OUT.has(name));

  const said = h("span", { class: "muted" });
  const reset = h("button", { type: "button", class: "quiet small", word: "options-reset", hidden: true, onclick: () => set([]) });
  const more = rest.length > 0 && h("details", { class: "more" }, h("summary", { word: "options-more" }), grid(rest));
  const element = h("details", { class: "options" },
    h("summary", {}, h("span", { word: "options" }), said), grid(first), more, reset);

  function grid(names) {
    return h("div", { class: "grid" }, ...names.map(field));
  }

  function field(name) {
    const id = newId("option");
    const value = defaults[name];
    const input = inputFor(name, value, id);
    fields.set(name, input);
    input.addEventListener("input", changed);
    const word = NAMES[name] ?? name;
    const hint = name === "temperature" ? "temperature-hint" : name === "stop" ? "one-a-line" : null;
    const hintId = hint && newId("hint");
    if (hint) input.setAttribute("aria-describedby", hintId);
    return h("div", { class: name === "stop" ? "field wide" : "field" },
      h("label", { for: id, word, title: name }), input,
      hint && h("small", { id: hintId, class: "muted", word: hint }),
      h("small", { class: "field-error", hidden: true }));
  }

  function query() {
    const pairs = [];
    for (const [name, input] of fields) {
      if (input.value.trim() === "" && !(name === "stop" && input.value)) continue;
      if (Array.isArray(defaults[name])) {
        for (const line of input.value.split("\n").filter(Boolean)) pairs.push([name, unescaped(line)]);
      } else pairs.push([name, input.value.trim()]);
    }
    return pairs;
  }

  function set(pairs) {
    for (const [name, input] of fields) {
      const values = pairs.filter(([its]) => its === name).map(([, value]) => value);
      input.value = Array.isArray(defaults[name]) ? values.map(escaped).join("\n") : (values[0] ?? "");
    }
    changed();
  }

  function changed() {
    for (const [name, input] of fields) {
      input.toggleAttribute("data-changed", query().some(([its]) => its === name));
      unmark(input);
    }
    const pairs = query();
    reword(said, pairs.length ? "options-changed" : "options-as", { n: number(new Set(pairs.map(([name]) => name)).size) });
    reset.hidden = pairs.length === 0;
    onchange();
  }

  function unmark(input) {
    input.removeAttribute("aria-invalid");
    input.parentElement.lastElementChild.hidden = true;
  }

  /** Show an error at the field that it names, where it is one of these. */
  function mark(name, message) {
    const input = fields.get(name);
    if (!input) return;
    element.open = true;
    if (more && rest.includes(name)) more.open = true;
    input.setAttribute("aria-invalid", "true");
    const note = input.parentElement.lastElementChild;
    note.textContent = message;
    note.hidden = false;
    input.focus();
  }

  document.addEventListener("spoken", () => fields.forEach((input, name) => hinted(input, name, defaults[name])));
  reword(said, "options-as");
  return { element, query, set, mark };
}

function inputFor(name, value, id) {
  if (Array.isArray(value)) return hinted(h("textarea", { id, rows: 1, spellcheck: "false" }), name, value);
  if (typeof value === "boolean" || name === "early_stopping") {
    const choices = name === "early_stopping" ? ["true", "false", "never"] : ["true", "false"];
    return hinted(h("select", { id }, h("option", { value: "" }), ...choices.map((one) => h("option", { value: one }, one))), name, value);
  }
  const given = FIRST[name] ?? { step: Number.isInteger(value) && value !== 1 ? 1 : "any" };
  const { min, max, step } = given;
  return hinted(h("input", { id, type: "number", inputmode: "decimal", min, max, step: step === 1 || step === undefined ? step : "any", autocomplete: "off" }), name, value);
}

/** Show a field's default in it, greyed. */
function hinted(input, name, value) {
  const text = Array.isArray(value)
    ? value.map(escaped).join("\n") || say("none")
    : value === null ? say(name === "seed" ? "random" : "none")
    : FIRST[name]?.off === value ? `${value} (${say("off")})` : String(value);
  if (input.tagName === "SELECT") input.options[0].textContent = text;
  else input.placeholder = text;
  return input;
}
