// The filters beside the results. They act at once; there is nothing to submit.

import { byId, h } from "./dom.js";
import { count, price } from "./format.js";
import { FILTERS } from "./state.js";

const SHOWN_CATEGORIES = 8;
const RATINGS = [["", "Any seller"], ["3", "3 and up"], ["4", "4 and up"], ["4.5", "4.5 and up"]];
const CLEARED = Object.fromEntries(FILTERS.map((name) => [name, ""]));

/** Show the filters of a state; `change(values)` is called with what the buyer picks. */
export function showFilters(state, words, change) {
  const panel = byId("filters");
  const focused = panel.contains(document.activeElement) ? document.activeElement.id : "";
  const wasOpen = panel.querySelector("details")?.open ?? matchMedia("(min-width: 56rem)").matches;
  const active = FILTERS.filter((name) => state[name]).length;
  panel.hidden = false;
  panel.replaceChildren(
    h("details", { open: wasOpen },
      h("summary", {}, "Filters", active ? h("span", { class: "badge" }, active) : null),
      h("form", { onsubmit: (event) => event.preventDefault() },
        categories(state, words.categories, change),
        brand(state, words.brands, change),
        prices(state, change),
        ratings(state, change),
        active ? h("button", { type: "button", class: "text", onclick: () => change(CLEARED) }, "Clear all filters") : null)));
  if (focused) byId(focused)?.focus();
}

function choice(name, value, checked, change, ...text) {
  const id = `${name}-${value || "any"}`;
  const box = h("input", { type: "radio", name, id, value, checked, onchange: () => change({ [name]: value }) });
  return h("label", { class: "choice", for: id }, box, ...text);
}

function categories(state, known, change) {
  const picked = (one) => one.name.toLowerCase() === state.category.toLowerCase();
  const listed = state.category && !known.some(picked) ? [{ name: state.category, lots: 0 }, ...known] : known;
  if (!listed.length) return null;
  const row = (one) => choice("category", one.name, picked(one), change,
    h("span", { dir: "auto" }, one.name), one.lots ? h("small", {}, count(one.lots)) : null);
  const rest = listed.slice(SHOWN_CATEGORIES);
  return h("fieldset", {}, h("legend", {}, "Category"),
    choice("category", "", !state.category, change, h("span", {}, "All categories")),
    listed.slice(0, SHOWN_CATEGORIES).map(row),
    rest.length ? h("details", { class: "more", open: rest.some(picked) }, h("summary", {}, `${rest.length} more`), rest.map(row)) : null);
}

function brand(state, known, change) {
  if (!known.length && !state.brand) return null;
  return h("div", { class: "group" }, h("label", { for: "brand" }, "Brand"),
    h("input", { id: "brand", type: "text", dir: "auto", list: "brands", placeholder: "Any brand", maxlength: 200, value: state.brand,
      onchange: (event) => change({ brand: event.target.value.trim() }) }),
    h("datalist", { id: "brands" }, known.map((one) => h("option", { value: one.name }))));
}

function prices(state, change) {
  const box = (name, words) => h("input", { id: name, type: "number", min: 0, step: "any", inputmode: "decimal", placeholder: words,
    "aria-label": words === "from" ? "Lowest price" : "Highest price", value: state[name],
    onchange: (event) => change(ordered({ ...state, [name]: event.target.value })) });
  return h("fieldset", {}, h("legend", {}, "Price"), h("div", { class: "range" }, box("min_price", "from"), h("span", {}, "–"), box("max_price", "to")));
}

/** Prices the right way round: who types them the wrong way means the same. */
function ordered({ min_price: min, max_price: max }) {
  return min && max && Number(min) > Number(max) ? { min_price: max, max_price: min } : { min_price: min, max_price: max };
}

function ratings(state, change) {
  return h("fieldset", {}, h("legend", {}, "Seller rating"), RATINGS.map(([value, words]) =>
    choice("min_seller_rating", value, state.min_seller_rating === value, change,
      h("span", {}, value ? h("span", { class: "star", "aria-hidden": "true" }, "★ ") : null, words))));
}

/** What is filtered by, as chips that take it away. */
export function activeFilters(state, currency, change) {
  const words = {
    category: state.category,
    brand: state.brand,
    min_price: `from ${price(Number(state.min_price), currency)}`,
    max_price: `up to ${price(Number(state.max_price), currency)}`,
    min_seller_rating: `sellers ${state.min_seller_rating}★ and up`,
  };
  const chips = FILTERS.filter((name) => state[name]).map((name) => h("li", {},
    h("button", { type: "button", class: "chip", onclick: () => change({ [name]: "" }) },
      h("span", { class: "hidden" }, "Without "), h("span", { dir: "auto" }, words[name]), h("span", { "aria-hidden": "true" }, " ×"))));
  return chips.length ? h("ul", { class: "chips", "aria-label": "Filters that are set" }, chips) : null;
}
