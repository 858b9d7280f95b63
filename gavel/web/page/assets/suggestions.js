// Suggestions under the search box: a combobox with a list, as the ARIA Authoring Practices describe it.

import { byId, h } from "./dom.js";

const MOST = 8;
const MOST_OF_A_KIND = 3; // categories, or brands

/** The words to suggest from: of the index, and of every answer that this page has seen. */
export class Words {
  constructor() {
    this.categories = [];
    this.brands = [];
    this.phrases = new Set();
  }

  async load(url) {
    const told = url ? await fetch(url).then((answer) => (answer.ok ? answer.json() : {})).catch(() => ({})) : {};
    this.categories = told.categories ?? [];
    this.brands = told.brands ?? [];
    for (const phrase of told.phrases ?? []) this.phrases.add(phrase);
  }

  learn(results) {
    for (const { fields } of results) {
      if (fields.title) this.phrases.add(fields.title.toLowerCase());
      for (const [name, known] of [[fields.category, this.categories], [fields.brand, this.brands]])
        if (name && !known.some((one) => one.name === name)) known.push({ name, lots: 0 });
    }
  }

  /** What begins with the typed text, categories and brands before phrases. */
  matching(typed) {
    const wanted = typed.trim().toLowerCase().replace(/\s+/g, " ");
    if (!wanted) return [];
    const starts = (text) => text.toLowerCase().startsWith(wanted);
    const named = (list, kind) => list.filter((one) => starts(one.name)).slice(0, MOST_OF_A_KIND).map((one) => ({ text: one.name, kind }));
    const found = [...named(this.categories, "category"), ...named(this.brands, "brand")];
    const taken = new Set([wanted, ...found.map((one) => one.text.toLowerCase())]);
    for (const phrase of this.phrases) {
      if (found.length >= MOST) break;
      if (starts(phrase) && !taken.has(phrase)) found.push({ text: phrase, kind: "" });
    }
    return found;
  }
}

/** Wire the search box; `choose(text)` is called with the suggestion that was taken. */
export function suggest(words, choose) {
  const [input, list] = [byId("q"), byId("suggestions")];
  let [shown, active] = [[], -1];

  function close() {
    [shown, active] = [[], -1];
    list.hidden = true;
    input.setAttribute("aria-expanded", "false");
    input.removeAttribute("aria-activedescendant");
  }

  function mark(index) {
    active = index;
    [...list.children].forEach((option, at) => option.setAttribute("aria-selected", String(at === index)));
    if (index < 0) input.removeAttribute("aria-activedescendant");
    else input.setAttribute("aria-activedescendant", list.children[index].id);
    list.children[index]?.scrollIntoView({ block: "nearest" });
  }

  function take(index) {
    const { text } = shown[index];
    input.value = text;
    close();
    choose(text);
  }

  function open() {
    shown = words.matching(input.value);
    if (!shown.length) return close();
    list.replaceChildren(...shown.map((one, at) => h(
      "li",
      { id: `suggestion-${at}`, role: "option", "aria-selected": "false", onmousedown: (event) => event.preventDefault(), onclick: () => take(at) },
      h("span", { dir: "auto" }, one.text),
      one.kind ? h("small", {}, one.kind) : null,
    )));
    list.hidden = false;
    input.setAttribute("aria-expanded", "true");
    mark(-1);
  }

  const keys = {
    ArrowDown: () => (shown.length ? mark((active + 1) % shown.length) : open()),
    ArrowUp: () => shown.length && mark((active <= 0 ? shown.length : active) - 1),
    Escape: close,
  };
  input.addEventListener("input", open);
  input.addEventListener("blur", close);
  input.addEventListener("keydown", (event) => {
    if (event.isComposing) return;
    if (event.key === "Enter" && active >= 0) take(active);
    else if (event.key === "Escape" && list.hidden) return;
    else if (keys[event.key]) keys[event.key]();
    else return;
    event.preventDefault();
  });
  return close;
}
