// Lots without a search: those like what the tab's buyer looked at, or popular and new ones.

import { Problem } from "./api.js";
import { buyerId } from "./buyer.js";
import { card, photo, skeletons } from "./cards.js";
import { h } from "./dom.js";

const SEEN = 6;
const OFFERED = 12;
const NO_HISTORY = "You have not opened a lot yet. These have the most bids, or were listed last.";
const NOT_NOW = "What you looked at cannot be reached right now. These have the most bids, or were listed last.";

/** What is offered: {seen, answer}, the lots that were looked at last and those that were found; null when none can be had. */
export async function fetchOffers(api) {
  try {
    const answer = await api.retrieve({ buyer_id: buyerId(), k: OFFERED });
    if (answer.source !== "history") return { seen: [], answer };
    const { acts } = await api.history(buyerId()).catch(nothing);
    const lots = new Map(acts.filter((act) => act.fields).map((act) => [act.item_id, { item_id: act.item_id, fields: act.fields }]));
    return { seen: [...lots.values()].slice(0, SEEN), answer };
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    return null;
  }
}

/** The lots found are worth showing without those that were looked at. */
function nothing(error) {
  if (!(error instanceof Problem)) throw error;
  return { acts: [] };
}

/** The place of the offers until they come. */
export const offersToCome = () => h("section", { class: "offers", id: "offers", "aria-busy": "true" }, skeletons(4));

/** The offers; options.on as a card's. */
export function offersView(api, { seen, answer }, { on, forget }) {
  const known = answer.source === "history";
  const because = known ? null : answer.degraded?.includes("buyer") ? NOT_NOW : NO_HISTORY;
  return h("section", { class: "offers", id: "offers", "aria-labelledby": "offers-title" },
    h("div", { class: "offers-head" },
      h("h2", { id: "offers-title", tabindex: "-1" }, known ? "Because of what you looked at" : "Popular and new lots"),
      known ? h("button", { type: "button", class: "chip", id: "forget", onclick: forget }, "Forget me") : null),
    because ? h("p", { class: "because-of" }, because) : null,
    seen.length ? h("ul", { class: "seen", "aria-label": "Lots that you looked at last" }, seen.map((lot) => seenLot(api, lot, on))) : null,
    h("ul", { class: "grid" }, answer.results.map((result) => card(api, result, { on, heading: "h3" }))));
}

function seenLot(api, lot, on) {
  const open = (event) => {
    if (event.metaKey || event.ctrlKey || event.shiftKey) return;
    event.preventDefault();
    on.open(lot);
  };
  return h("li", { data: { seen: lot.item_id } }, photo(api, lot.item_id, lot.fields),
    h("a", { href: on.address(lot), dir: "auto", onclick: open }, lot.fields.title ?? lot.item_id));
}
