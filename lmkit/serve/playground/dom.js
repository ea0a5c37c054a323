// Small helpers that make and find elements.

import { speak } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";

/**
 * An element. In `given`: `word` (with `values`) is its text, `wordLabel`, `wordTitle` and
 * `wordPlaceholder` are attributes in the page's language, `onclick` and its like are listeners, what
 * is true stands alone, what is false, null or undefined is left out.
 */
export function h(tag, given = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (value === false || value === null || value === undefined) continue;
    if (name === "word") element.dataset.word = value;
    else if (name === "values") element.dataset.values = JSON.stringify(value);
    else if (name === "wordLabel") element.setAttribute("data-word-aria-label", value);
    else if (name === "wordTitle") element.setAttribute("data-word-title", value);
    else if (name === "wordPlaceholder") element.setAttribute("data-word-placeholder", value);
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  speak(element);
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** One of the page's icons; it says nothing to a screen reader. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

/** Give an element another word. */
export function reword(element, word, values) {
  element.dataset.word = word;
  if (values) element.dataset.values = JSON.stringify(values);
  else delete element.dataset.values;
  speak(element);
}

let made = 0;
/** An id that nothing else on the page has. */
export const newId = (start) => `${start}-${++made}`;

/** A text area that is as high as its text, from `rows` lines up to what the style allows. */
export function textArea(given = {}) {
  const area = h("textarea", { rows: 1, spellcheck: "false", ...given });
  const fit = () => {
    area.style.height = "auto";
    area.style.height = `${area.scrollHeight + area.offsetHeight - area.clientHeight}px`;
  };
  area.addEventListener("input", fit);
  new ResizeObserver(() => area.offsetWidth !== area.lastWidth && ((area.lastWidth = area.offsetWidth), fit())).observe(area);
  area.fit = fit;
  return area;
}

/** A button that copies what `text()` returns, and says so; `bare` is one that shows its icon only. */
export function copyButton(text, { bare = false } = {}) {
  const label = "copy";
  const word = h("span", { word: label, class: bare ? "offscreen" : null });
  const button = h("button", { type: "button", class: bare ? "quiet icon" : "quiet small", wordTitle: bare && label, onclick: copy }, icon("copy"), word);
  async function copy() {
    await toClipboard(text());
    reword(word, "copied");
    button.firstChild.replaceWith(icon("check"));
    setTimeout(() => {
      reword(word, label);
      button.firstChild.replaceWith(icon("copy"));
    }, 1600);
  }
  return button;
}

async function toClipboard(text) {
  if (navigator.clipboard) {
    try { return await navigator.clipboard.writeText(text); } catch { /* not allowed; the old way is tried */ }
  }
  const area = h("textarea", { class: "offscreen", value: text });
  document.body.append(area);
  area.select();
  document.execCommand("copy"); // what an address without https still has
  area.remove();
}
