// Below or beside a run: the prompt as the model sees it, and the same call in code.

import * as api from "./api.js";
import { LANGUAGES, needsKey } from "./code.js";
import { copyButton, h, newId, reword } from "./dom.js";
import { number, say } from "./words.js";

const PAUSE = 350; // milliseconds without a key pressed before the prompt is asked for again

/** The panel; `given()` returns `{record, query}` of what is filled in, with `empty` if that is nothing, or throws. */
export function inspector(task, given) {
  const prompt = promptView(task, given);
  const code = codeView(task, given);
  const views = { prompt, code };
  const tabs = tablist(["prompt", "code"], show, "panel");
  const panel = h("div", { class: "tab-body", role: "tabpanel", id: tabs.panel, tabindex: "0" });
  const element = h("section", { class: "card inspect" }, tabs.element, panel);
  let current = "prompt";

  function show(name) {
    current = name;
    panel.setAttribute("aria-labelledby", tabs.ids[name]);
    panel.replaceChildren(views[name].element);
    views[name].update();
  }
  show(current);
  return { element, changed: () => views[current].later() };
}

/** Tabs as ARIA has them: one stop of the tab key, and the arrows go between them. */
function tablist(names, show, stem) {
  const panel = newId(stem);
  const ids = Object.fromEntries(names.map((name) => [name, newId("tab")]));
  const buttons = names.map((name, place) =>
    h("button", { type: "button", role: "tab", id: ids[name], word: name, "aria-controls": panel, onclick: () => choose(place), onkeydown: move }));
  function choose(place) {
    buttons.forEach((button, its) => {
      button.setAttribute("aria-selected", String(its === place));
      button.tabIndex = its === place ? 0 : -1;
    });
    show(names[place]);
  }
  function move(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const place = (buttons.indexOf(event.target) + step + buttons.length) % buttons.length;
    buttons[place].focus();
    choose(place);
  }
  buttons.forEach((button, place) => {
    button.setAttribute("aria-selected", String(place === 0));
    button.tabIndex = place === 0 ? 0 : -1;
  });
  return { element: h("div", { class: "tabs", role: "tablist" }, ...buttons), panel, ids };
}

function promptView(task, given) {
  const count = h("span", { class: "count" });
  const ids = h("input", { type: "checkbox" });
  const tokens = h("div", { class: "tokens", lang: "" });
  const note = h("p", { class: "muted", word: "prompt-wait", hidden: true });
  const legend = h("ul", { class: "legend", role: "list" });
  const element = h("div", {},
    h("div", { class: "tab-head" }, h("p", { class: "muted", word: "prompt-note" }),
      h("div", { class: "push" }, count, h("label", { class: "switch" }, ids, h("span", { word: "prompt-ids" })))),
    tokens, note, legend);
  ids.addEventListener("change", () => tokens.classList.toggle("ids", ids.checked));
  let waiting = 0;
  let asked = null;

  async function update() {
    clearTimeout(waiting);
    asked?.abort();
    const mine = (asked = new AbortController());
    try {
      const { record, empty } = given();
      if (empty) {
        drawNone();
        return;
      }
      const said = await api.prompt(task, record, mine.signal);
      if (mine.signal.aborted) return;
      draw(said);
    } catch (error) {
      if (mine.signal.aborted) return;
      drawNone(error.status && error.status !== 401 ? error.message : "");
    }
  }

  function drawNone(why = "") {
    tokens.replaceChildren();
    legend.replaceChildren();
    delete count.dataset.word;
    count.textContent = "";
    note.hidden = false;
    if (why) {
      delete note.dataset.word;
      note.textContent = why;
    } else reword(note, "prompt-wait");
  }

  function draw(said) {
    note.hidden = true;
    const kinds = said.tokens.map(kindOf);
    tokens.replaceChildren(...said.tokens.flatMap((token, place) => spelled(token, kinds[place])));
    const most = task.context_length;
    reword(count, most ? "prompt-tokens-of" : "prompt-tokens", { n: number(said.tokens.length), most: most && number(most) });
    legend.replaceChildren(...["own", "frame", "control"].filter((kind) => kinds.includes(kind)).map((kind) =>
      h("li", {}, h("span", { class: `swatch ${kind}` }), h("span", { word: `means-${kind}` }))));
  }

  const later = () => {
    clearTimeout(waiting);
    waiting = setTimeout(update, PAUSE);
  };
  return { element, update, later };
}

const kindOf = (token) => (token.control ? "control" : token.trusted ? "frame" : "own");

/** A token as a box; line breaks are shown, and break the line behind their token. */
function spelled(token, kind) {
  const part = token.text === ""; // of a character that several tokens spell, the last one has it
  const box = h("span", { class: `t ${kind}${part ? " part" : ""}`, title: `id ${token.id}${part ? `: ${say("means-part")}` : ""}`, "data-id": token.id },
    token.text.replaceAll("\n", "↵").replaceAll("\t", "⇥"));
  return token.text.endsWith("\n") ? [box, "\n"] : [box];
}

function codeView(task, given) {
  const names = Object.keys(LANGUAGES).filter((name) => LANGUAGES[name].fits(task));
  const written = h("code");
  const note = h("small", { class: "muted", word: "code-key" });
  let current = names[0];
  const buttons = names.map((name) =>
    h("button", { type: "button", class: "small", word: name, "aria-pressed": String(name === current), onclick: () => choose(name) }));
  const element = h("div", {},
    h("div", { class: "tab-head" }, h("div", { class: "segmented", role: "group" }, ...buttons), copyButton(() => written.textContent)),
    h("pre", { tabindex: "0" }, written), note);

  function choose(name) {
    current = name;
    buttons.forEach((button, place) => button.setAttribute("aria-pressed", String(names[place] === name)));
    update();
  }
  function update() {
    note.hidden = !needsKey();
    try {
      const { record, query } = given();
      written.textContent = LANGUAGES[current].write(task, record, query);
    } catch (error) {
      written.textContent = error.message;
    }
  }
  return { element, update, later: update };
}
