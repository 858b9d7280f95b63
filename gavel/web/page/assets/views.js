// What stands in the middle of the page: the start, an answer, or two answers side by side.

import { card, photo } from "./cards.js";
import { h } from "./dom.js";
import { explainPanel, timingBar } from "./explain.js";
import { count } from "./format.js";
import { MODES, MOST_AT_ONCE, more } from "./state.js";

const TILES = 12;
const EAGER = 8; // photos that are on the first screen
export const MODE_WORDS = { hybrid: "Hybrid", semantic: "Semantic", keyword: "Keyword" };
const MODE_HINTS = { hybrid: "meaning and words together", semantic: "by meaning and look, not by words", keyword: "by the words of the lot alone" };

/** The start page: words to try, categories to walk into, and lots offered before them, if these are the buyer's own, or after. */
export function startView(api, words, go, { offers, first }) {
  const tiles = words.categories.slice(0, TILES).map((one) => h("li", {},
    h("button", { type: "button", class: "tile", onclick: () => go({ q: one.name, category: one.name }) },
      photo(api, one.photo_of ?? "", { has_image: Boolean(one.photo_of) }, true),
      h("span", { class: "tile-name", dir: "auto" }, one.name), one.lots ? h("small", {}, `${count(one.lots)} lots`) : null)));
  const tries = [...words.phrases].filter((phrase) => phrase.includes(" ")).slice(0, 6);
  return h("div", { class: "start" },
    h("h1", {}, "Find the lots worth a bid"),
    h("p", { class: "lead" }, "Search by what it is, how it looks or what it is for. Lots listed tonight are found, too."),
    tries.length ? h("ul", { class: "chips", "aria-label": "Searches to try" }, tries.map((phrase) => h("li", {},
      h("button", { type: "button", class: "chip", dir: "auto", onclick: () => go({ q: phrase }) }, phrase)))) : null,
    first ? offers : null,
    tiles.length ? h("h2", {}, "Browse by category") : null,
    tiles.length ? h("ul", { class: "tiles" }, tiles) : null,
    first ? null : offers);
}

/** The line above an answer: how many, how quick, and the switches. */
export function toolbar(state, { api, heading, tools, change }) {
  const mode = h("fieldset", { class: "switch", "aria-label": "How to search" }, MODES.map((one) => h("label", { title: MODE_HINTS[one] },
    h("input", { type: "radio", name: "mode", id: `mode-${one}`, value: one, checked: state.mode === one,
      onchange: () => change({ mode: one, compare: state.compare === one ? "" : state.compare }) }),
    h("span", {}, MODE_WORDS[one]))));
  const others = MODES.filter((one) => one !== state.mode);
  const compare = h("label", { class: "pick" }, h("span", {}, "Compare with"),
    h("select", { id: "compare", onchange: (event) => change({ compare: event.target.value }) },
      h("option", { value: "" }, "nothing"),
      others.map((one) => h("option", { value: one, selected: state.compare === one }, MODE_WORDS[one]))));
  const explain = h("button", { type: "button", id: "explain", class: "toggle", "aria-pressed": String(state.explain),
    onclick: () => change({ explain: !state.explain }) }, "Explain");
  const varied = api.can.diversity ? h("button", { type: "button", id: "varied", class: "toggle", "aria-pressed": String(state.varied),
    title: "fewer lots that are like each other", onclick: () => change({ varied: !state.varied }) }, "Varied") : null;
  return h("div", { class: "toolbar" }, h("div", { class: "found" }, heading),
    tools ? h("div", { class: "tools" }, mode, compare, varied, explain) : h("div", { class: "tools" }, explain));
}

/** Lots as a grid. */
export function grid(api, answer, options) {
  return h("ul", { class: "grid" }, answer.results.map((result, at) => card(api, result, { ...options, eager: at < EAGER })));
}

/** An answer: panel, chips, lots, and the way to more of them. */
export function answerView(api, state, answer, { chips, options, change }) {
  const paged = "next_offset" in answer && state.q;
  const ends = paged ? !answer.next_offset : answer.results.length < state.k || state.k >= MOST_AT_ONCE;
  return [
    state.explain ? explainPanel(answer) : h("div", { class: "quick" }, timingBar(answer)),
    answer.degraded?.length ? h("p", { class: "degraded", role: "note" }, `Answered without: ${answer.degraded.join(", ")}. The order may be poorer than usual.`) : null,
    chips,
    grid(api, answer, { ...options, explain: state.explain }),
    ends ? null : h("button", { type: "button", class: "go more-lots", onclick: () => change({ k: more(state.k) }) }, "Show more lots"),
  ].filter(Boolean);
}

/** Two answers to one search; each lot says where the other has it. */
export function compareView(api, state, answers, { chips, options }) {
  const [one, two] = answers;
  const column = (answer, other, mode) => h("section", { class: "column", "aria-label": MODE_WORDS[mode] },
    h("h2", {}, MODE_WORDS[mode]),
    timingBar(answer),
    h("ol", { class: "list" }, answer.results.map((result) => card(api, result, { ...options, on: { ...options.on, similar: null },
      heading: "h3", explain: state.explain, note: h("p", { class: "placed" }, h("b", {}, `#${result.rank}`), " ", moved(result, other)) }))));
  const shared = one.results.filter((result) => two.results.some((other) => other.item_id === result.item_id)).length;
  return [
    h("p", { class: "shared" }, `${shared} of ${Math.max(one.results.length, two.results.length)} lots are in both lists.`),
    chips,
    h("div", { class: "columns" }, column(one, two, state.mode), column(two, one, state.compare)),
  ].filter(Boolean);
}

function moved(result, other) {
  const there = other.results.find((one) => one.item_id === result.item_id);
  if (!there) return h("span", { class: "only" }, "only here");
  return h("span", {}, there.rank === result.rank ? "same place in both" : `#${there.rank} in the other`);
}
