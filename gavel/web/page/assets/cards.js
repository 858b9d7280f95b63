// Lots as cards.

import { countdown } from "./countdown.js";
import { h, icon, written } from "./dom.js";
import { explanation } from "./explain.js";
import { bids, price } from "./format.js";

const SIDES = [256, 640]; // of a lot's photo, in pixels; a web host that has one size alone answers with that
const NO_PHOTO = "M4 5h16v14H4zM4 16l5-5 4 4 3-3 4 4M15.500 8.500h.01";

/** A photo of a lot by its number, or a drawing in its place. */
export function photo(api, itemId, fields, eager = false, number = 0) {
  const frame = h("div", { class: "photo" });
  const blank = () => frame.replaceChildren(h("div", { class: "no-photo" }, icon(NO_PHOTO), "No photo"));
  if (!api.photos || !fields.has_image) blank();
  else {
    const source = new URL(encodeURIComponent(itemId) + (number ? `?number=${number}` : ""), api.photos);
    const srcset = SIDES.map((side) => `${source}${number ? "&" : "?"}side=${side} ${side}w`).join(", ");
    frame.append(h("img", { src: source, srcset, sizes: "15rem", alt: "", loading: eager ? "eager" : "lazy", decoding: "async", onerror: blank }));
  }
  return frame;
}

/** What is bid for a lot now. */
export function priceTag(api, fields) {
  const known = price(fields.current_price, api.currency);
  return h("p", { class: known ? "price" : "price unknown" }, known || "Price not known");
}

/** One lot of an answer.
 *  on.open(result) shows the lot, on.similar(result) looks for lots like it. */
export function card(api, result, { on, explain, eager, note, heading = "h2" }) {
  const { fields } = result;
  const open = (event) => {
    if (event.metaKey || event.ctrlKey || event.shiftKey) return;
    event.preventDefault();
    on.open(result);
  };
  const origin = [fields.brand, fields.category].filter(Boolean).join(" · ");
  return h(
    "li",
    { class: "card", data: { itemId: result.item_id, rank: result.rank, queryId: result.query_id ?? "", proof: result.proof ?? "" } },
    photo(api, result.item_id, fields, eager),
    h(
      "div",
      { class: "facts" },
      note ?? null,
      h(heading, { class: "title" }, h("a", { class: "open", href: on.address(result), ...written(fields.title), onclick: open }, fields.title ?? result.item_id)),
      origin ? h("p", { class: "origin", ...written(origin) }, origin) : null,
      priceTag(api, fields),
      h("p", { class: "bidding" }, h("span", {}, bids(fields.bid_count ?? 0)), countdown(fields.ends_at)),
      api.can.similar && on.similar
        ? h("button", { type: "button", class: "more-like", onclick: () => on.similar(result) }, "More like this",
            h("span", { class: "hidden" }, `: ${fields.title ?? result.item_id}`))
        : null,
      explain ? explanation(result) : null,
    ),
  );
}

/** Grey cards for the moment until the answer comes. */
export function skeletons(how) {
  const bars = () => [h("div", { class: "photo" }), h("div", { class: "facts" }, h("i"), h("i"), h("i"))];
  return h("ul", { class: "grid loading", "aria-hidden": "true" }, Array.from({ length: how }, () => h("li", { class: "card" }, ...bars())));
}
