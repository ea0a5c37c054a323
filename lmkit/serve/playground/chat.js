// The view of a task that converses: turns that can be edited and written again.

import { facts, textOf, trouble } from "./answer.js";
import { run } from "./api.js";
import { chatColumn } from "./code.js";
import { copyButton, h, icon, newId, reword, textArea } from "./dom.js";
import { formOf } from "./form.js";
import { inspector } from "./inspect.js";
import { optionsOf } from "./options.js";
import { runButton } from "./running.js";
import { isWord } from "./words.js";

const ROLES = { assistant: "assistant", user: "user", tool: "tool", ipython: "tool" };
const SENT = ["role", "content", "name", "reasoning_content", "tool_calls", "tool_call_id"]; // what a server takes of a turn
const NEAR = 60; // pixels from the end at which the reader is still at the end

/** The view: `element`, `restore(entry)`, `stop()` and `focus()`; `done(entry)` is told of each answer. */
export function chatView(task, done) {
  const column = chatColumn(task).name;
  const others = formOf({ ...task, columns: task.columns.filter(({ name }) => name !== column && name !== "tools") }, changed);
  const options = optionsOf(task, changed);
  const button = runButton(send, "send", icon("send"));
  let turns = []; // messages, each with its `answer` if it was written here; the system's not among them
  let conversation = newConversation();

  const system = textArea({ id: newId("system"), wordPlaceholder: "system-hint" });
  const systemSaid = h("span", { class: "muted one-line" });
  const draft = textArea({ id: newId("draft"), wordPlaceholder: "message", wordLabel: "message", "aria-keyshortcuts": "Control+Enter" });
  const log = h("div", { class: "log", role: "log", wordLabel: "chat-log", tabindex: "0" });
  const inspect = inspector(task, () => ({ record: record(asked()), query: options.query(), empty: asked().length === 0 }));
  const fresh = h("button", { type: "button", class: "quiet small", word: "chat-new", onclick: () => { clear(); draft.focus(); } });
  const element = h("div", { class: "chat" },
    h("section", { class: "card talk" },
      h("div", { class: "card-head" },
        h("details", { class: "system" }, h("summary", {}, h("label", { for: system.id, word: "system" }), systemSaid), system), fresh),
      log,
      h("div", { class: "composer" }, draft,
        h("div", { class: "actions" }, h("small", { class: "muted keys", word: "keys" }), button.element)),
      h("div", { class: "under" }, others.element.childElementCount > 0 && others.element, options.element)),
    inspect.element);

  system.addEventListener("input", changed);
  draft.addEventListener("input", changed);
  draft.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.isComposing || event.keyCode === 229) return; // a Hangul syllable is being made
    const plainly = !event.shiftKey && !event.altKey && matchMedia("(pointer: fine)").matches;
    if (event.ctrlKey || event.metaKey || plainly) {
      event.preventDefault();
      send();
    }
  });

  function changed() {
    const text = system.value.trim();
    if (text) {
      delete systemSaid.dataset.word;
      systemSaid.textContent = text;
    } else reword(systemSaid, "system-none");
    inspect?.changed();
  }

  const asMessages = (some) => some.map((turn) => Object.fromEntries(SENT.filter((name) => turn[name] != null).map((name) => [name, turn[name]])));
  function record(some) {
    const first = system.value.trim() ? [{ role: "system", content: system.value }] : [];
    return { ...others.record(), [column]: [...first, ...asMessages(some)] };
  }

  /** The turns that a click on Send would have the model answer; what it answered last where there is no draft. */
  function asked() {
    if (draft.value.trim()) return [...turns, { role: "user", content: draft.value }];
    const last = turns.findLastIndex(({ role }) => role !== "assistant");
    return turns.slice(0, last + 1);
  }

  function send() {
    if (button.busy || !draft.value.trim()) return;
    turns.push({ role: "user", content: draft.value });
    draft.value = "";
    draft.fit();
    answer();
  }

  async function answer() {
    if (!button.begin()) return;
    const mine = turns; // another conversation may take its place, and end this answer
    const about = { id: conversation, task: task.name, query: options.query() };
    const given = record(mine);
    const turn = { role: "assistant", content: "" };
    mine.push(turn);
    draw();
    const article = log.lastElementChild;
    const said = article.querySelector(".said");
    said.classList.add("writing");
    article.setAttribute("aria-busy", "true");
    inspect.changed();
    try {
      turn.answer = await run(task, given, about.query, {
        signal: button.signal,
        onText: (piece) => {
          turn.content += piece;
          keepingTheEnd(() => said.append(said.hasChildNodes() ? piece : piece.trimStart()));
        },
      });
      turn.content = textOf(turn.answer);
      if (turn.answer.stopped && !turn.content) mine.pop();
      else done({ ...about, record: { ...given, [column]: [...given[column], ...asMessages([turn])] }, answer: turn.answer });
      if (turns === mine) draw();
    } catch (error) {
      if (!turn.content) mine.pop();
      if (turns !== mine) return;
      draw();
      keepingTheEnd(() => log.append(trouble(error, () => (turns.at(-1)?.role === "assistant" ? again(turns.length - 1) : answer()))));
      if (error.param) options.mark(error.param, error.message);
    } finally {
      button.end();
      inspect.changed();
    }
  }

  /** Write an answer again; what followed it goes. */
  function again(place) {
    if (button.busy) return;
    turns = turns.slice(0, place);
    answer();
  }

  function draw() {
    keepingTheEnd(() => log.replaceChildren(...(turns.length ? turns.map(turnElement) : [h("p", { class: "empty", word: "chat-empty" })])));
    fresh.hidden = turns.length === 0;
  }

  function turnElement(turn, place) {
    const { role } = turn;
    const content = words(turn);
    const isModel = role === "assistant";
    const name = ROLES[role] ?? role;
    const act = (word, picture, click) =>
      h("button", { type: "button", class: "quiet icon", wordLabel: word, wordTitle: word, onclick: click }, icon(picture));
    return h("article", { class: `turn ${isModel ? "model" : "person"}` },
      h("p", isWord(name) ? { class: "who", word: name } : { class: "who" }, isWord(name) ? null : name),
      h("div", { class: "said" }, content),
      h("div", { class: "turn-foot" },
        turn.answer && facts(turn.answer, "text", { brief: true }),
        h("div", { class: "turn-actions" },
          isModel && act("again", "again", () => again(place)),
          act("edit", "edit", (event) => edit(place, event.currentTarget.closest("article"))),
          copyButton(() => content, { bare: true }))));
  }

  /** Put a turn's text into a field; an edited question is asked anew, an edited answer stands. */
  function edit(place, article) {
    if (button.busy) return;
    const turn = turns[place];
    const isModel = turn.role === "assistant";
    const area = textArea({ value: words(turn), wordLabel: "edit" });
    const save = () => {
      if (!area.value.trim()) return;
      turns[place] = { role: turn.role, content: area.value };
      if (isModel) {
        draw();
        changed();
        return;
      }
      turns = turns.slice(0, place + 1);
      answer();
    };
    const cancel = () => {
      draw();
      log.children[place]?.querySelector(".turn-actions button:nth-last-child(2)")?.focus();
    };
    area.addEventListener("keydown", (event) => {
      if (event.key === "Escape") { event.stopPropagation(); cancel(); }
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); event.stopPropagation(); save(); }
    });
    article.classList.add("editing");
    article.replaceChildren(article.firstChild, area, h("div", { class: "actions" },
      h("button", { type: "button", class: "small", word: "cancel", onclick: cancel }),
      h("button", { type: "button", class: "small primary", word: isModel ? "save" : "edit-send", onclick: save })));
    area.fit();
    area.focus();
  }

  /** Do something to the log, and stay at its end if the reader was there. */
  function keepingTheEnd(act) {
    const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < NEAR;
    act();
    if (atEnd) log.scrollTop = log.scrollHeight;
  }

  function clear() {
    button.stop();
    turns = [];
    conversation = newConversation();
    draw();
    changed();
  }

  function put(messages) {
    const [first, ...rest] = messages;
    const told = first?.role === "system";
    system.value = told ? words(first) : "";
    turns = told ? rest : messages.slice();
    draw();
  }

  function restore(entry) {
    button.stop();
    put(entry.record[column]);
    const last = turns.at(-1);
    if (last?.role === "assistant") last.answer = entry.answer;
    conversation = entry.id;
    options.set(entry.query);
    draw();
    changed();
  }

  const sample = chatColumn(task).sample;
  const last = Array.isArray(sample) ? sample.findLastIndex(({ role }) => role === "user") : -1;
  if (last >= 0) {
    put(sample.slice(0, last));
    draft.value = words(sample[last]);
    draft.fit();
  } else draw();
  changed();
  return { element, restore, stop: button.stop, focus: () => draft.focus() };
}

/** What a message says: a text, parts of one, or nothing but calls of tools. */
const words = ({ content }) => (Array.isArray(content) ? content.map(({ text }) => text ?? "").join("") : content ?? "");

const newConversation = () => crypto.getRandomValues(new Uint32Array(2)).join("-");
