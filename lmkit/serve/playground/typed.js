// The view of a task whose record is columns: fields on one side, the answer on the other.

import { facts, plain, shown, trouble } from "./answer.js";
import { run } from "./api.js";
import { copyButton, h, icon } from "./dom.js";
import { formOf } from "./form.js";
import { inspector } from "./inspect.js";
import { optionsOf } from "./options.js";
import { runButton } from "./running.js";

const EMPTY = { text: "answer-empty", label: "answer-empty-label", fill: "answer-empty-fill" };

/** The view: `element`, `restore(entry)`, `stop()` and `focus()`; `done(entry)` is told of each run. */
export function typedView(task, done) {
  const form = formOf(task, () => inspect?.changed());
  const options = task.kind === "text" ? optionsOf(task, () => inspect?.changed()) : null;
  const query = () => options?.query() ?? [];
  const inspect = inspector(task, () => ({ record: form.record(), query: query() }));
  const button = runButton(start, "run", icon("run"));
  let last = null;
  let running = null; // the element of the run whose answer is to be shown

  const body = h("div", { class: "answer-body", "aria-live": "polite" }, h("p", { class: "empty", word: EMPTY[task.kind] }));
  const foot = h("div", { class: "answer-foot", hidden: true });
  const element = h("div", { class: "typed" },
    h("section", { class: "card input" },
      h("div", { class: "card-head" }, h("h2", { word: "input" }), form.again),
      form.element, options?.element, h("div", { class: "actions" }, button.element)),
    h("section", { class: "card answer" }, h("div", { class: "card-head" }, h("h2", { word: "answer" }), copyButton(() => (last ? plain(last) : ""))), body, foot),
    inspect.element);
  const copy = element.querySelector(".answer .card-head button");
  copy.hidden = true;
  element.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      start();
    }
  });

  async function start() {
    let record;
    try {
      record = form.record();
    } catch (error) {
      form.mark(error.column, error.message);
      return;
    }
    if (!button.begin()) return;
    const asked = query();
    const writing = (running = h("div", { class: "said writing" }));
    foot.hidden = true;
    copy.hidden = true;
    body.setAttribute("aria-busy", "true");
    body.replaceChildren(task.kind === "text" ? h("p", { class: "muted", word: "thinking" }) : h("p", { class: "muted", word: "writing" }));
    try {
      const answer = await run(task, record, asked, {
        signal: button.signal,
        onText: (piece) => {
          if (!writing.isConnected) body.replaceChildren(writing);
          writing.append(writing.hasChildNodes() ? piece : piece.trimStart());
        },
      });
      if (running === writing) draw(answer);
      done({ task: task.name, record, query: asked, answer });
    } catch (error) {
      if (running !== writing) return;
      const kept = error.text ? [h("div", { class: "said" }, error.text)] : [];
      body.replaceChildren(...kept, trouble(error, start));
      if (error.param && !form.mark(error.param, error.message)) options?.mark(error.param, error.message);
    } finally {
      body.removeAttribute("aria-busy");
      button.end();
    }
  }

  function draw(answer) {
    last = answer;
    body.replaceChildren(shown(task, answer));
    foot.replaceChildren(facts(answer, task.kind));
    foot.hidden = false;
    copy.hidden = false;
  }

  function restore(entry) {
    button.stop();
    running = null;
    form.set(entry.record);
    options?.set(entry.query);
    draw(entry.answer);
  }

  return { element, restore, stop: button.stop, focus: form.focus };
}
