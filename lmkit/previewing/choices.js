"use strict";
// A reader's choices on any of lmkit's pages: the language of its words, and dark or light.
const choices = (() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  let language = (navigator.language || "en").toLowerCase().startsWith("ko") ? "ko" : "en";

  const say = (word, values = {}) =>
    (data.words[language][word] || word).replace(/\{(\w+)\}/g, (_, name) => values[name]);

  function speak() {
    root.lang = language;
    for (const element of document.querySelectorAll("[data-word]")) {
      const values = element.dataset.values ? JSON.parse(element.dataset.values) : {};
      element.textContent = say(element.dataset.word, values);
    }
    for (const name of ["placeholder", "aria-label", "title"]) {
      for (const element of document.querySelectorAll(`[data-word-${name}]`)) {
        element.setAttribute(name, say(element.getAttribute(`data-word-${name}`)));
      }
    }
    document.dispatchEvent(new Event("spoken"));
  }

  document.getElementById("language").addEventListener("click", () => {
    language = language === "ko" ? "en" : "ko";
    speak();
  });
  document.getElementById("theme").addEventListener("click", () => {
    const dark = getComputedStyle(root).colorScheme === "light dark"
      ? matchMedia("(prefers-color-scheme: dark)").matches
      : root.dataset.theme === "dark";
    root.dataset.theme = dark ? "light" : "dark";
  });
  document.querySelector(".choices").hidden = false;
  speak();
  return { data, say, speak };
})();
