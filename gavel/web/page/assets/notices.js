// What the page says when there are no lots to show: nothing found, or something went wrong.

import { h } from "./dom.js";

// type of the problem -> what it means, and what the buyer can do about it
const REMEDIES = {
  invalid_query: ["This search cannot be run", "Change what is named here and search again."],
  invalid_photo: ["This photo cannot be searched by", "Take another one: a JPEG, PNG or WebP that opens elsewhere."],
  no_image_branch: ["These lots cannot be searched by photo", "The model behind this search knows words alone. Search by words."],
  unknown_item: ["This lot is no longer here", "Its auction may have ended. Search for lots like it by words."],
  index_unavailable: ["The lots cannot be reached right now", "The search is there, its index is not. Try again in a moment."],
  tower_unavailable: ["The search is being set up", "Its model is not loaded yet. Try again in a moment, or search by keyword."],
  too_many_requests: ["Too many requests came from your address", "Others may share it. Wait a moment and try again."],
  feedback_unavailable: ["What is kept of you cannot be reached right now", "Nothing was forgotten yet. Try again in a moment."],
  unreachable: ["The search does not answer", "It may be starting anew, or your connection is down. Check it and try again."],
  too_slow: ["The search takes too long", "It did not answer within 15 seconds. Try again, or with fewer words."],
};
const OTHERWISE = ["Something went wrong", "It is not your search's fault. Try again in a moment."];

/** A problem in words, with the way out. */
export function problemNotice(problem, again) {
  const [title, remedy] = REMEDIES[problem.type] ?? OTHERWISE;
  const wait = problem.retryAfter ? ` It asks for ${problem.retryAfter} seconds of patience.` : "";
  return h("section", { class: "notice problem", role: "alert" },
    h("h2", {}, title),
    problem.detail ? h("p", { class: "detail", dir: "auto" }, problem.detail) : null,
    h("p", {}, remedy + wait),
    h("button", { type: "button", class: "go", onclick: again }, "Try again"));
}

/** What a misspelt search was meant to be, as a link to it. */
export function meantNotice(meant, address, ask) {
  const follow = (event) => {
    if (event.metaKey || event.ctrlKey || event.shiftKey) return;
    event.preventDefault();
    ask();
  };
  return h("p", { class: "meant" }, "Did you mean ", h("a", { href: address, dir: "auto", onclick: follow }, meant), "?");
}

/** Nothing was found. `ways` are [words, action] that widen the search. */
export function emptyNotice(about, ways) {
  return h("section", { class: "notice" },
    h("h2", {}, "No lot matches ", h("q", { dir: "auto" }, about)),
    h("p", {}, "Auctions that have ended are never shown. You could look wider:"),
    h("ul", { class: "ways" }, ways.map(([words, action]) => h("li", {}, h("button", { type: "button", class: "chip", onclick: action }, words)))));
}
