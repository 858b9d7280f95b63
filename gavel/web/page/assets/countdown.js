// One clock for every countdown on the page.

import { timeLeft } from "./format.js";
import { h } from "./dom.js";

/** The time to the end of a lot, kept up to date while it is on the page. */
export function countdown(endsAt) {
  if (typeof endsAt !== "number") return h("span", { class: "left" }, "No end date");
  const element = h("time", { class: "left", datetime: new Date(endsAt).toISOString(), data: { endsAt } });
  element.title = `Ends ${new Date(endsAt).toLocaleString()}`;
  show(element);
  return element;
}

function show(element) {
  const { text, state } = timeLeft(Number(element.dataset.endsAt));
  if (element.textContent !== text) element.textContent = text;
  element.dataset.state = state;
  element.closest(".card")?.classList.toggle("ended", state === "ended");
}

setInterval(() => document.querySelectorAll("[data-ends-at]").forEach(show), 1000);
