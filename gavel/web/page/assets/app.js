// The page: its state is its address, and every change of it is shown by show().

import { Api, Problem } from "./api.js";
import { buyerId, forgetBuyer, hasOpened } from "./buyer.js";
import { skeletons } from "./cards.js";
import { byId, h } from "./dom.js";
import { Feedback } from "./feedback.js";
import { activeFilters, showFilters } from "./filters.js";
import { openLot } from "./lot_dialog.js";
import { emptyNotice, meantNotice, problemNotice } from "./notices.js";
import { fetchOffers, offersToCome, offersView } from "./offers.js";
import { Photo, showPhoto, takePhotos } from "./photo_search.js";
import { FILTERS, MOST_AT_ONCE, addressOf, filtersOf, readState } from "./state.js";
import { Words, suggest } from "./suggestions.js";
import { answerView, compareView, startView, toolbar } from "./views.js";

const VARIETY = 0.4; // how much lots differ under "Varied", 0 to 1
const view = byId("view");
const box = byId("q");
const words = new Words();
let api;
let feedback = null;
let state = readState();
let asking = null; // aborts what is still on its way for an older state
let answered = { key: "", search: "", answers: [] };
let offered = []; // lots that the start page shows
let presented = ""; // the address, less its lot, of what stands on the page
let dropped = null; // the photo that is searched by
const photos = new Map(); // id -> photo of this visit: the history of the page names them, its addresses cannot

/** Go to another state, as a new step of the history; a new query starts from its first lots. `photo` is kept unless it is given. */
function go({ photo = dropped, ...changes }) {
  const isNewSearch = "q" in changes || "similar" in changes;
  const fresh = isNewSearch ? { similar: "", k: readState("").k, lot: "", ...(changes.keep ? {} : Object.fromEntries(FILTERS.map((f) => [f, ""]))) } : {};
  dropped = photo;
  state = { ...state, ...fresh, ...changes };
  delete state.keep;
  remember();
  show();
}

/** A new step of the history, with the photo that belongs to it. */
function remember() {
  history.pushState(dropped && { photo: dropped.id }, "", addressOf(state));
}

const change = (changes) => go({ lot: "", ...changes });
const options = {
  address: (result) => addressOf({ ...state, lot: result.item_id }),
  open: (result) => {
    feedback?.opened(result);
    go({ lot: result.item_id });
  },
  similar: (result) => {
    titles.set(result.item_id, result.fields.title);
    go({ similar: result.item_id, q: "", compare: "", photo: null });
  },
};
const titles = new Map(); // item_id -> title of the lots whose likes were asked for

async function show() {
  asking?.abort();
  asking = new AbortController();
  const { signal } = asking;
  if (box.value.trim() !== state.q) box.value = state.q;
  document.title = state.q ? `${state.q} · Gavel` : "Gavel";
  showPhoto(dropped);
  const about = state.q || state.similar;
  document.body.classList.toggle("at-start", !about && !dropped);
  byId("filters").hidden = !about && !dropped;
  if (!about && !dropped) return start();
  offered = [];
  showFilters(state, words, (values) => change({ ...values, k: readState("").k }));
  if (answered.key !== keyOf(state)) {
    feedback?.forget();
    view.setAttribute("aria-busy", "true");
    const [key, search] = [keyOf(state), keyOf({ ...state, k: 0 })];
    const known = search === answered.search ? answered.answers : []; // the same list, with fewer of its lots
    if (!known.length) view.replaceChildren(toolbar(state, { api, heading: h("p", {}, "Searching…"), tools: !state.similar && !dropped, change }), skeletons(8));
    try {
      const answers = await Promise.all(questions(signal, known));
      if (signal.aborted) return;
      answered = { key, search, answers };
      for (const answer of answers) words.learn(answer.results);
    } catch (error) {
      if (signal.aborted) return;
      if (!(error instanceof Problem)) throw error;
      answered = { key: "", search: "", answers: [] };
      return failed(error);
    } finally {
      if (!signal.aborted) view.removeAttribute("aria-busy");
    }
    showFilters(state, words, (values) => change({ ...values, k: readState("").k }));
    present();
    feedbackOn();
  } else if (presented !== shownAs()) present();
  lotOfAddress();
}

/** What an answer depends on: everything but the lot that lies open over it, and what is shown of it. */
function keyOf(of) {
  return addressOf({ ...of, lot: "", explain: api.can.explain && of.explain }) + (dropped ? `#${dropped.id}` : "");
}

/** What stands on the page once it is shown. */
const shownAs = () => `${addressOf({ ...state, lot: "" })}#${dropped?.id ?? ""}`;

/** What is asked for a state. A search goes on from its known answers; likes and photos have no pages, and are asked whole. */
function questions(signal, known) {
  const explain = api.can.explain && state.explain ? { explain: true } : {};
  const whole = { k: Math.min(state.k, MOST_AT_ONCE), ...filtersOf(state) };
  if (dropped) return [api.searchByPhoto(dropped.blob, { ...whole, ...explain, ...(state.q ? { text: state.q } : {}) }, signal)];
  if (state.similar) return [api.similar(state.similar, whole, signal)];
  const options = { ...explain, ...(api.can.diversity && state.varied ? { diversity: VARIETY } : {}) };
  const params = { q: state.q, ...filtersOf(state), ...options, ...(api.can.buyers ? { buyer_id: buyerId() } : {}) };
  return [state.mode, state.compare].filter(Boolean).map((mode, at) => api.searchFor(state.k, { ...params, mode }, signal, known[at]));
}

function present() {
  const [answer] = answered.answers;
  const chips = activeFilters(state, api.currency, change);
  const found = answer.results.length;
  const full = found >= Math.min(state.k, MOST_AT_ONCE);
  const heading = h("h1", {}, full ? `Best ${found} lots ` : `${found} ${found === 1 ? "lot" : "lots"} `, ...subject());
  const cardOptions = { on: options };
  const tools = !state.similar && !dropped;
  const meant = answer.did_you_mean;
  const ask = meant ? meantNotice(meant, addressOf({ ...state, q: meant, lot: "" }), () => go({ q: meant, keep: true })) : null;
  const parts = !found && !answered.answers[1]?.results.length
    ? [chips, emptyNotice(state.q || (dropped ? "your photo" : "this"), waysOut())].filter(Boolean)
    : answered.answers.length > 1
      ? compareView(api, state, answered.answers, { chips, options: cardOptions })
      : answerView(api, state, answer, { chips, options: cardOptions, change });
  const focused = view.contains(document.activeElement) ? document.activeElement.id : "";
  view.replaceChildren(...[toolbar(state, { api, heading, tools, change }), ask, ...parts].filter(Boolean));
  if (focused) byId(focused)?.focus();
  presented = shownAs();
  byId("status").textContent = `${found} lots found`;
}

function subject() {
  if (dropped) return ["like your photo", ...(state.q ? [" and ", h("q", { dir: "auto" }, state.q)] : [])];
  if (state.similar) return ["like ", h("q", { dir: "auto" }, titles.get(state.similar) ?? state.similar)];
  return ["for ", h("q", { dir: "auto" }, state.q)];
}

function waysOut() {
  const set = FILTERS.filter((name) => state[name]);
  return [
    ...(set.length ? [["Without the filters", () => change(Object.fromEntries(set.map((name) => [name, ""])))]] : []),
    ...(state.mode !== "semantic" && state.q && !dropped ? [["By meaning, not by words", () => change({ mode: "semantic" })]] : []),
    ["Start anew", () => go({ q: "", photo: null })],
  ];
}

function failed(problem, again = () => (api.reached ? show() : begin())) {
  feedback?.forget();
  presented = "";
  const about = state.q || state.similar ? h("q", { dir: "auto" }, state.q || state.similar) : dropped ? "by photo" : "";
  view.replaceChildren(toolbar(state, { api, heading: h("h1", {}, "Search ", about), tools: Boolean(state.q) && !dropped, change }), problemNotice(problem, again));
  byId("status").textContent = "";
}

async function start() {
  feedback?.forget();
  answered = { key: "", search: "", answers: [] };
  if (presented === shownAs()) return lotOfAddress();
  offered = [];
  const place = api.can.buyers ? offersToCome() : null;
  view.replaceChildren(startView(api, words, go, { offers: place, first: hasOpened() }));
  presented = shownAs();
  byId("status").textContent = "";
  if (place) await offer(place);
  else lotOfAddress();
}

/** Fill the place of the offers; without them the start page is whole. */
async function offer(place) {
  const offers = await fetchOffers(api);
  if (!place.isConnected) return; // the buyer went on
  if (!offers?.answer.results.length) return place.remove();
  offered = [...offers.answer.results, ...offers.seen];
  place.replaceWith(offersView(api, offers, { on: options, forget: forgetMe }));
  lotOfAddress();
}

/** Have the buyer of this tab forgotten, and show the page as a new one sees it. */
async function forgetMe() {
  try {
    await forgetBuyer(api);
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    return failed(error, forgetMe);
  }
  feedback?.renew();
  answered = { key: "", search: "", answers: [] };
  presented = "";
  await show();
  byId("offers-title")?.focus();
  byId("status").textContent = "What you looked at is forgotten";
}

/** The lot that the address names lies open over the list that has it. */
function lotOfAddress() {
  const all = [...answered.answers.flatMap((answer) => answer.results), ...offered];
  const result = all.find((one) => one.item_id === state.lot);
  if (!result) return byId("lot").close();
  const close = () => { if (state.lot === result.item_id) { state = { ...state, lot: "" }; remember(); } };
  openLot(api, result, { close, similar: options.similar });
}

function feedbackOn() {
  if (!state.q || dropped || answered.answers.length !== 1) return;  // a click beside a photo says little of the words
  feedback?.shown(state.q, view.querySelectorAll(".card"));
}

function footer() {
  const link = (path, text) => h("a", { href: api.at(path) }, text);
  byId("foot").replaceChildren("Searches as an API: ", link("docs", "documentation"), ", ", link("openapi.json", "OpenAPI"),
    feedback ? ". Which lots are seen and opened is kept, under a random number, to train the order" : "",
    ...(api.can.buyers ? [" and to find others like them. ", h("button", { type: "button", class: "text", onclick: forgetMe }, "Forget me")] : ["."]));
}

function search(event) {
  event?.preventDefault();
  closeSuggestions();
  const q = box.value.trim();
  if (q === state.q && (q || dropped) && !state.similar) return;
  go({ q, keep: true });
}

/** Search by a photo, with the words that stand beside it. */
async function searchByPhoto(file) {
  closeSuggestions();
  try {
    const photo = await Photo.from(file);
    photos.set(photo.id, photo);
    go({ q: box.value.trim(), compare: "", photo });
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    asking?.abort();
    failed(error);
  }
}

const closeSuggestions = suggest(words, () => search());
byId("search").addEventListener("submit", search);
byId("home").addEventListener("click", (event) => {
  event.preventDefault();
  go({ q: "", compare: "", mode: "hybrid", explain: false, varied: false, photo: null });
  box.focus();
});
addEventListener("popstate", (event) => {
  dropped = photos.get(event.state?.photo) ?? null;
  state = readState();
  show();
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
  event.preventDefault();
  box.focus();
  box.select();
});

async function begin() {
  api = await Api.connect();
  document.documentElement.dir = api.direction;
  await words.load(api.words);
  if (api.can.events && !feedback) feedback = new Feedback(api.at("events"));
  if (api.can.image && byId("by-photo").hidden) takePhotos({ search: searchByPhoto, remove: () => go({ q: box.value.trim(), keep: true, photo: null }) });
  footer();
  show();
}

begin();
