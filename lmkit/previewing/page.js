"use strict";
// Draws tokens where they come into sight, and answers search, filters, keys and choices.
(() => {
  const { rows, words, names, chunk, learned } = choices.data;
  const { say, speak } = choices;
  const find = (selector) => document.querySelector(selector);
  const each = (selector, act, within = document) => within.querySelectorAll(selector).forEach(act);
  const root = document.documentElement;
  const search = find("#search");
  const inspector = find("#inspector");
  const articles = [...document.querySelectorAll(".row")];
  const KINDS = { l: "learned", r: "read", c: "cut" };
  const UNSEEN = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Zl}\p{Zp}\u00a0\u034f\u115f\u1160\u202f\u3164\uffa0]/gu;

  // Tokens

  function element(tag, className, text = "") {
    const made = document.createElement(tag);
    made.className = className;
    made.textContent = text;
    return made;
  }

  function code(character) {
    return "U+" + character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
  }

  const name = (character) => names[character] || code(character);

  function write(into, text) {
    let plain = 0;
    for (const match of text.matchAll(UNSEEN)) {
      const character = match[0];
      into.append(text.slice(plain, match.index));
      const mark = element("i", "unseen", name(character));
      mark.title = code(character);
      into.append(mark);
      if (character === "\n") into.append(element("span", "newline", "\n"));
      plain = match.index + character.length;
    }
    into.append(text.slice(plain));
  }

  const tokensOf = (block) => {
    const row = rows[articles.indexOf(block.closest(".row"))];
    return row.tokens[Number(block.dataset.side)];
  };

  function draw(span) {
    const block = span.parentElement;
    const { ids, texts, kinds } = tokensOf(block);
    const start = [...block.children].indexOf(span) * chunk;
    const drawn = document.createDocumentFragment();
    for (let i = start; i < Math.min(start + chunk, ids.length); i++) {
      const kind = kinds[i].toLowerCase();
      const token = element("span", `t ${KINDS[kind]}`);
      if (kind !== kinds[i]) token.classList.add("control");
      if (!texts[i]) token.classList.add("part");
      write(token, texts[i]);
      token.dataset.i = i;
      token.dataset.id = ids[i];
      token.tabIndex = i ? -1 : 0;
      drawn.append(token);
      if (texts[i].includes("\n")) drawn.append(element("br", "line"));
    }
    span.replaceChildren(drawn);
    span.dataset.drawn = "";
    mark(span);
  }

  const sight = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      sight.unobserve(target);
      draw(target);
    }
  }, { rootMargin: "600px" });

  // Search and filters

  const texts = rows.map((row) => row.tokens.map((side) => side.texts.join("").toLowerCase()));
  const plain = (text) => text.toLowerCase().normalize("NFC");
  const searched = rows.map((row, i) => plain(row.where + "\n" + texts[i].join("\n")));
  let why = "";

  function matches(i) {
    const article = articles[i];
    if (why && !article.dataset.why.split(",").some((part) => part.trim() === why)) return false;
    const wanted = plain(search.value);
    if (!wanted) return true;
    if (searched[i].includes(wanted)) return true;
    return rows[i].tokens.some((side) => side.ids.includes(Number(wanted.trim() || NaN)));
  }

  function hits(block) {
    const wanted = search.value.toLowerCase();
    const hit = new Set();
    if (!wanted) return hit;
    const { ids, texts: pieces } = tokensOf(block);
    const id = Number(wanted.trim() || NaN);
    const spans = [];
    const text = pieces.join("").toLowerCase();
    for (let at = text.indexOf(wanted); at >= 0; at = text.indexOf(wanted, at + wanted.length)) {
      spans.push([at, at + wanted.length]);
    }
    let start = 0;
    let next = 0;
    ids.forEach((own, i) => {
      const end = start + pieces[i].toLowerCase().length;
      while (next < spans.length && spans[next][1] <= start) next++;
      if (own === id || (next < spans.length && start < end && spans[next][0] < end)) hit.add(i);
      start = end;
    });
    return hit;
  }

  function mark(chunkSpan) {
    const block = chunkSpan.parentElement;
    block.hits ||= hits(block);
    each(".t", (token) => token.classList.toggle("hit", block.hits.has(Number(token.dataset.i))), chunkSpan);
  }

  function count() {
    const n = articles.filter((article) => !article.hidden).length;
    find("#found").textContent = say("shown", { n, of: articles.length });
    find("#none-found").hidden = n > 0;
  }

  function choose() {
    articles.forEach((article, i) => { article.hidden = !matches(i); });
    each(".tokens", (block) => { delete block.hits; });
    each("[data-drawn]", mark);
    hide();
    count();
  }

  function filter(button) {
    why = button.dataset.why;
    each("#filters button", (other) => other.setAttribute("aria-pressed", other === button));
    choose();
  }

  function addFilters() {
    const reasons = articles.flatMap((article) => article.dataset.why.split(",").map((part) => part.trim()));
    for (const reason of new Set(reasons)) {
      const button = element("button", "");
      button.type = "button";
      button.dataset.why = reason;
      button.dataset.word = words.en["why-" + reason] ? "why-" + reason : reason;
      button.setAttribute("aria-pressed", "false");
      find("#filters").append(button);
    }
  }

  // A token's id

  const hide = () => { inspector.hidden = true; };

  function inspect(token) {
    const { ids, texts: pieces, kinds } = tokensOf(token.closest(".tokens"));
    const i = Number(token.dataset.i);
    const kind = kinds[i].toLowerCase();
    const kindNames = [say(kind === "l" ? learned : KINDS[kind])].concat(kind === kinds[i] ? [] : [say("control")]);
    const text = element("code", "");
    if (pieces[i]) write(text, pieces[i]);
    else text.textContent = say("token-part");
    const points = [...pieces[i]];
    inspector.replaceChildren(
      element("strong", "", say("token-id", { id: ids[i] })),
      element("span", "label", kindNames.join(" · ")),
      element("span", "label", say("token-place", { n: i + 1, of: ids.length })),
      text,
      element("small", "points", points.slice(0, 8).map(code).join(" ") + (points.length > 8 ? " …" : "")),
    );
    inspector.hidden = false;
    const box = token.getClientRects()[0];
    const { offsetWidth: width, offsetHeight: height } = inspector;
    const below = box.bottom + 8;
    inspector.style.left = `${Math.max(8, Math.min(box.left, root.clientWidth - width - 8))}px`;
    inspector.style.top = `${below + height < window.innerHeight ? below : Math.max(8, box.top - height - 8)}px`;
  }

  function step(token, by) {
    const block = token.closest(".tokens");
    const last = tokensOf(block).ids.length - 1;
    const i = Math.max(0, Math.min(last, Number(token.dataset.i) + by));
    const span = block.children[Math.floor(i / chunk)];
    if (!("drawn" in span.dataset)) draw(span);
    const next = span.querySelector(`[data-i="${i}"]`);
    token.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }

  const STEPS = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity };

  // Events

  document.addEventListener("pointerover", (event) => {
    const token = event.target.closest?.(".t[data-i]");
    if (token) inspect(token);
    else if (!document.activeElement.matches(".t")) hide();
  });
  document.addEventListener("focusin", (event) => {
    if (event.target.matches(".t[data-i]")) inspect(event.target);
    else hide();
  });
  document.addEventListener("focusout", hide);
  document.addEventListener("scroll", () => {
    if (document.activeElement.matches(".t")) inspect(document.activeElement);
    else hide();
  }, { passive: true });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const token = event.target.closest?.(".t[data-i]");
    if (event.key === "/" && event.target !== search) {
      event.preventDefault();
      search.focus();
      search.select();
    } else if (event.key === "Escape") {
      hide();
      search.value = "";
      choose();
    } else if (token && event.key in STEPS) {
      event.preventDefault();
      step(token, STEPS[event.key]);
    }
  });
  let waiting = 0;
  search.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(choose, 80);
  });
  find("#filters").addEventListener("click", (event) => {
    if (event.target.matches("button")) filter(event.target);
  });
  find("#show-ids").addEventListener("change", (event) => find(".rows").classList.toggle("ids", event.target.checked));
  find("#wrap-newlines").addEventListener("change", (event) => {
    find(".rows").classList.toggle("flat", !event.target.checked);
  });
  document.addEventListener("spoken", () => {
    count();
    hide();
  });
  document.addEventListener("click", (event) => {
    const link = event.target.closest('a[href^="#row-"]');
    if (!link || !find(link.hash).hidden) return;
    search.value = "";
    filter(find('#filters button[data-why=""]'));
  });

  each(".tools, .scripted", (part) => { part.hidden = false; });
  addFilters();
  speak();
  each(".chunk", (span) => sight.observe(span));
})();
