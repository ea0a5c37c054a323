"use strict";
// What must be known before anything is painted: dark or light, and the language.
{
  const kept = (name) => {
    try { return localStorage.getItem(name); } catch { return null; }
  };
  const root = document.documentElement;
  const theme = kept("lmkit.theme");
  if (theme === "light" || theme === "dark") root.dataset.theme = theme;
  const asked = kept("lmkit.language") || (navigator.languages || [navigator.language])
    .map((tag) => String(tag).slice(0, 2).toLowerCase())
    .find((tag) => tag === "ko" || tag === "en");
  root.lang = asked === "ko" ? "ko" : "en";
}
