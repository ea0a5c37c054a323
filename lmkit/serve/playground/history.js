// What was run in this tab. It is kept until the tab is closed, and never sent anywhere.

import { gist } from "./answer.js";
import { h } from "./dom.js";
import { language } from "./words.js";

const KEPT = "lmkit.history";
const MOST = 50;

function load() {
  try { return JSON.parse(sessionStorage.getItem(KEPT)) ?? []; } catch { return []; }
}

/** The session's list in `section`; `open(entry)` shows an old run again. */
export function historyIn(section, open) {
  let entries = load();
  const list = h("ol", { role: "list" });
  const clear = h("button", { type: "button", class: "quiet small", word: "history-clear", onclick: () => { entries = []; changed(); } });
  section.append(h("div", { class: "side-head" }, h("h2", { id: "history-title", word: "history" }), clear), list);

  function changed() {
    while (entries.length) {
      try {
        sessionStorage.setItem(KEPT, JSON.stringify(entries));
        break;
      } catch {
        entries.pop(); // there is no room: the oldest goes
      }
    }
    if (!entries.length) try { sessionStorage.removeItem(KEPT); } catch { /* nothing was kept */ }
    draw();
  }

  function draw() {
    section.hidden = entries.length === 0;
    list.replaceChildren(...entries.map((entry) =>
      h("li", {}, h("button", { type: "button", class: "entry", onclick: () => open(entry) },
        h("span", { class: "entry-head" }, h("b", {}, entry.task), h("time", {}, clockTime(entry.when))),
        h("span", { class: "entry-asked" }, asked(entry.record)),
        h("span", { class: "entry-said" }, gist(entry.answer))))));
  }

  document.addEventListener("spoken", draw);
  draw();
  return {
    add(entry) {
      entries = [entry, ...entries.filter(({ id }) => id !== entry.id)].slice(0, MOST);
      changed();
    },
  };
}

const clockTime = (when) => new Intl.DateTimeFormat(language(), { timeStyle: "short" }).format(when);

/** The beginning of what was asked. */
function asked(record) {
  const value = Object.values(record).find((one) => one && one.length) ?? "";
  const text = Array.isArray(value) ? (value.findLast((turn) => turn.role === "user")?.content ?? "") : String(value);
  return text.slice(0, 160);
}
