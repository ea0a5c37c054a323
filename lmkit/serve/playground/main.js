// The page: its tasks, the one that is looked at, and what goes for all of them.

import * as api from "./api.js";
import { trouble } from "./answer.js";
import { chatView } from "./chat.js";
import { isChat } from "./code.js";
import { h, newId, reword } from "./dom.js";
import { historyIn } from "./history.js";
import { typedView } from "./typed.js";
import { language, setLanguage } from "./words.js";

const at = (id) => document.getElementById(id);
const main = at("main");
const root = document.documentElement;
const title = document.title; // the server's
const keep = (name, value) => { try { localStorage.setItem(name, value); } catch { /* not kept */ } };

let tasks = [];
const views = new Map(); // one a task, made when it is first looked at; its run goes on behind the others
const history = historyIn(at("history"), reopen);

at("language").addEventListener("click", () => {
  setLanguage(language() === "ko" ? "en" : "ko");
  keep("lmkit.language", language());
});
at("theme").addEventListener("click", () => {
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  keep("lmkit.theme", root.dataset.theme);
});
at("key").addEventListener("click", () => askForKey());
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") views.get(chosen()?.name)?.stop();
});
addEventListener("hashchange", look);
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address is the task's
  main.focus();
});

function spoken() {
  at("language").lang = language() === "ko" ? "en" : "ko";
  reword(at("language"), "language");
}

/** The task that the address names, or the first. */
function chosen() {
  let name = location.hash.replace(/^#\/?/, "");
  try { name = decodeURIComponent(name); } catch { /* as it is */ }
  return tasks.find((task) => task.name === name) ?? tasks[0];
}

const kindWord = (task) => `kind-${isChat(task) ? "chat" : task.kind}`;

function look() {
  const task = chosen();
  if (!task) return;
  for (const link of at("tasks").querySelectorAll("a")) {
    if (link.dataset.task === task.name) {
      link.setAttribute("aria-current", "page");
      const list = link.closest("ul"); // on a phone, a row that is moved under the finger
      list.scrollLeft = link.offsetLeft - list.offsetLeft - (list.clientWidth - link.offsetWidth) / 2;
    } else link.removeAttribute("aria-current");
  }
  if (!views.has(task.name)) {
    const done = (entry) => history.add({ id: newId(`run-${Date.now()}`), when: Date.now(), ...entry });
    views.set(task.name, (isChat(task) ? chatView : typedView)(task, done));
  }
  document.title = `${task.name} · ${title}`;
  main.replaceChildren(heading(task), views.get(task.name).element);
}

function heading(task) {
  const facts = [task.precision, task.family].filter(Boolean);
  return h("header", { class: "task-head" },
    h("div", {}, h("h1", { lang: "en" }, task.name), ...facts.map((fact) => h("span", { class: "pill", lang: "en" }, fact))),
    task.description && h("p", { class: "muted" }, task.description));
}

function reopen(entry) {
  if (!tasks.some(({ name }) => name === entry.task)) return;
  location.hash = `/${encodeURIComponent(entry.task)}`;
  look();
  views.get(entry.task).restore(entry);
  main.focus();
}

function drawTasks() {
  at("tasks").hidden = tasks.length < 2;
  at("tasks").replaceChildren(h("h2", { word: "tasks" }), h("ul", { role: "list" }, ...tasks.map((task) =>
    h("li", {}, h("a", { href: `#/${encodeURIComponent(task.name)}`, "data-task": task.name },
      h("b", { lang: "en" }, task.name), h("small", { word: kindWord(task) }))))));
}

function askForKey(wrong = false) {
  const id = newId("key");
  const field = h("input", { id, type: "password", autocomplete: "off", spellcheck: "false", value: api.key.get(), "aria-invalid": wrong || null });
  const form = h("form", {
    class: "card key-form",
    onsubmit: (event) => {
      event.preventDefault();
      const given = field.value.trim();
      if (/^[\x21-\x7e]+$/.test(given)) {
        api.key.set(given);
        begin();
      } else askForKey(true); // no header holds it, so no server has it
    },
  },
  h("h1", {}, h("label", { for: id, word: "key-title" })), h("p", { class: "muted", word: "key-why" }), field,
  wrong && h("p", { class: "field-error", role: "alert", word: "key-wrong" }),
  h("div", { class: "actions" },
    api.key.get() && h("button", { type: "button", word: "key-forget", onclick: () => { api.key.set(""); begin(); } }),
    h("button", { class: "primary", word: "key-use" })));
  main.replaceChildren(form);
  at("tasks").hidden = true;
  field.focus();
}

const state = (word, kind) => {
  reword(at("state"), word);
  at("state").className = `state ${kind}`;
};

async function begin() {
  state("connecting", "wait");
  try {
    tasks = await api.tasks();
  } catch (error) {
    if (error.status === 401) {
      state("key-title", "wait");
      at("key").hidden = true;
      askForKey(api.key.get() !== "");
      return;
    }
    state("away", "bad");
    main.replaceChildren(h("div", { class: "card notice" }, trouble(error, begin)));
    return;
  }
  state("ready", "good");
  at("key").hidden = api.key.get() === "";
  views.clear();
  drawTasks();
  if (tasks.length) look();
  else main.replaceChildren(h("p", { class: "card notice", word: "no-tasks" }));
}

document.addEventListener("reached", ({ detail }) => tasks.length && state(detail ? "ready" : "away", detail ? "good" : "bad"));
spoken();
document.addEventListener("spoken", spoken);
setLanguage(language());
begin();
