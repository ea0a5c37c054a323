// The columns of a record, each as a field.

import { h, icon, newId, textArea } from "./dom.js";
import { say } from "./words.js";

/**
 * The fields of a task's prompt columns, with the task's sample in them.
 *
 * `record()` gives what is filled in, or throws an error whose `column` is the one that is wrong;
 * `set(record)` fills the fields.
 */
export function formOf(task, onchange) {
  const fields = new Map();
  const inOrder = [...task.columns.filter(({ required }) => required !== false), ...task.columns.filter(({ required }) => required === false)];
  const element = h("div", { class: "columns" }, ...inOrder.map(field));

  function field(column) {
    const id = newId("column");
    const noteId = newId("note");
    const kind = kindOf(column);
    const input = kind === "boolean"
      ? h("input", { id, type: "checkbox" })
      : kind === "number"
        ? h("input", { id, type: "number", step: "any", autocomplete: "off" })
        : textArea({ id, class: kind === "json" ? "code" : null });
    const note = h("small", { id: noteId, class: "field-error", role: "alert", hidden: true });
    input.setAttribute("aria-describedby", noteId);
    input.addEventListener("input", () => { clear(column.name); onchange(); });
    fields.set(column.name, { column, kind, input, note });
    const mask = task.kind === "fill" && kind === "text" && task.mask_token;
    return h("div", { class: "field" },
      h("div", { class: "label-line" },
        h("label", { for: id, lang: "en" }, column.name),
        kind === "json" && h("small", { class: "muted", word: "json-list" }),
        column.required === false && h("small", { class: "muted", word: "optional" }),
        mask && h("button", { type: "button", class: "quiet small push", word: "insert-mask", values: { mask }, onclick: () => insert(input, mask) })),
      input, note);
  }

  function insert(input, text) {
    input.focus();
    input.setRangeText(text, input.selectionStart, input.selectionEnd, "end");
    input.dispatchEvent(new Event("input"));
  }

  function record() {
    const filled = {};
    for (const [name, { column, kind, input }] of fields) {
      if (kind === "boolean") filled[name] = input.checked;
      else if (input.value !== "" || column.required !== false) filled[name] = read(name, kind, input.value);
    }
    return filled;
  }

  function read(name, kind, text) {
    if (kind === "number") {
      if (text === "") throw Object.assign(new Error(say("not-a-number")), { column: name });
      return Number(text);
    }
    if (kind !== "json") return text;
    try {
      return JSON.parse(text);
    } catch (error) {
      throw Object.assign(new Error(say("not-json", { why: error.message })), { column: name });
    }
  }

  function fill(given) {
    for (const [name, { kind, input }] of fields) {
      const value = given[name];
      if (kind === "boolean") input.checked = Boolean(value);
      else input.value = value === undefined || value === null ? ""
        : kind === "json" ? JSON.stringify(value, null, 2)
        : Array.isArray(value) ? value.join(" ") : String(value); // sentences, which the task joins so too
      clear(name);
      input.fit?.();
    }
  }

  function set(given) {
    fill(given);
    onchange();
  }

  function clear(name) {
    const { input, note } = fields.get(name);
    input.removeAttribute("aria-invalid");
    note.hidden = true;
  }

  /** Show an error at the column that it names; returns whether there is one. */
  function mark(name, message) {
    const found = fields.get(String(name).match(/^[^.[]*/)[0]); // of "messages[0].content", the column
    if (!found) return false;
    found.input.setAttribute("aria-invalid", "true");
    found.note.textContent = message;
    found.note.hidden = false;
    found.input.focus();
    return true;
  }

  const sample = Object.fromEntries(task.columns.map((column) => [column.name, column.sample]));
  fill(sample);
  const again = h("button", { type: "button", class: "quiet small", wordTitle: "sample-title", onclick: () => set(sample) },
    icon("again"), h("span", { word: "sample" }));
  const focus = () => fields.values().next().value?.input.focus();
  return { element, again, record, set, mark, focus };
}

function kindOf({ type, sample }) {
  if (type === "boolean" || typeof sample === "boolean") return "boolean";
  if (type === "number" || type === "integer" || typeof sample === "number") return "number";
  return type === "text" || typeof sample === "string" ? "text" : "json";
}
