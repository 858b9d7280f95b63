// One lot, large.

import { photo, priceTag } from "./cards.js";
import { countdown } from "./countdown.js";
import { byId, h, written } from "./dom.js";
import { explanation } from "./explain.js";
import { bids, label } from "./format.js";

const NAMES = { listed_at: "Listed", item_id: "Lot" };
const TOLD = ["item_id", "title", "description", "description_cut", "image", "has_image", "current_price", "bid_count", "ends_at", "updated_at", "attributes_cut", "more_images"];

/** Show a lot over the page; `close()` is called when the buyer leaves it. */
export function openLot(api, result, { close, similar }) {
  const { fields } = result;
  const dialog = byId("lot");
  const leave = () => dialog.close();
  dialog.replaceChildren(
    h("button", { type: "button", class: "quiet leave", onclick: leave, "aria-label": "Close" }, "×"),
    h("div", { class: "lot" },
      photos(api, result),
      h("div", { class: "facts" },
        h("h2", { id: "lot-title" }, h("span", written(fields.title), fields.title ?? result.item_id)),
        priceTag(api, fields),
        h("p", { class: "bidding" }, h("span", {}, bids(fields.bid_count ?? 0)), countdown(fields.ends_at)),
        fields.description ? description(api, result) : null,
        h("dl", { class: "details" }, details(result)),
        attributes(api, result),
        api.can.similar ? h("button", { type: "button", class: "go", onclick: () => { leave(); similar(result); } }, "More like this") : null,
        h("details", { class: "because" }, h("summary", {}, "Why is it here?"), explanation(result)))));
  dialog.onclose = close;
  dialog.onclick = (event) => event.target === dialog && leave();
  if (!dialog.open) dialog.showModal();
}

/** The photos of a lot: the first one large, and the others, of which a click shows one large. One that is missing is left out. */
function photos(api, { item_id: itemId, fields }) {
  const frame = h("div", { class: "photos" }, photo(api, itemId, fields, true));
  const more = fields.has_image && api.photos ? (fields.more_images ?? []) : [];
  if (!more.length) return frame;
  const strip = h("ul", { class: "strip" }, [fields.image, ...more].map((_, number) => {
    const small = photo(api, itemId, fields, false, number);
    const show = () => frame.firstChild.replaceWith(photo(api, itemId, fields, true, number));
    const entry = h("li", {}, h("button", { type: "button", class: "quiet", "aria-label": `Photo ${number + 1}`, onclick: show }, small));
    small.querySelector("img").onerror = () => entry.remove();
    return entry;
  }));
  frame.append(strip);
  return frame;
}

/** What the seller wrote; of a long text a list has the beginning, and the rest is asked for. */
function description(api, { item_id: itemId, fields }) {
  const text = h("p", { class: "description", ...written(fields.description) }, fields.description + (fields.description_cut ? " …" : ""));
  if (fields.description_cut && api.can.item) {
    api.item(itemId).then((whole) => { text.textContent = whole.fields.description; }, () => {}); // the beginning stays
  }
  return text;
}

/** The attributes of a lot; of many a list has the first, and the rest is asked for. */
function attributes(api, { item_id: itemId, fields }) {
  const list = h("dl", { class: "details attributes" });
  const show = (values) => list.replaceChildren(...Object.entries(values ?? {}).flatMap(([name, value]) => [
    h("dt", { dir: "auto" }, label(name)), h("dd", { dir: "auto" }, [value].flat().join(", "))]));
  show(fields.attributes);
  if (fields.attributes_cut && api.can.item) api.item(itemId).then((whole) => show(whole.fields.attributes), () => {}); // the first stay
  return fields.attributes || fields.attributes_cut ? list : null;
}

function details({ item_id: itemId, fields }) {
  const rows = Object.entries(fields).filter(([name, value]) => !TOLD.includes(name) && value !== "" && value !== null && typeof value !== "object");
  const shown = (name, value) => (name === "listed_at" ? new Date(value).toLocaleDateString(undefined, { dateStyle: "medium" })
    : name === "seller_rating" ? `★ ${value}` : String(value));
  return [...rows, ["item_id", itemId]].flatMap(([name, value]) => [h("dt", {}, NAMES[name] ?? label(name)), h("dd", { dir: "auto" }, shown(name, value))]);
}
