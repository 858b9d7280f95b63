// Which lots were seen and which were opened, told to POST /events where the API has it.
// Nothing else about the buyer is sent than the number of buyer.js.

import { buyerId, noteOpened, randomId } from "./buyer.js";

const FLUSH_MS = 4_000;
const SEEN_SHARE = 0.5; // of a card's area
const MOST = 50; // events of one request: the firewall before a stage's API takes bodies of 8 kB

export class Feedback {
  constructor(url) {
    this.url = url;
    this.list = null;
    this.waiting = [];
    this.eyes = new IntersectionObserver((entries) => this.see(entries), { threshold: SEEN_SHARE });
    setInterval(() => this.flush(), FLUSH_MS);
    addEventListener("pagehide", () => this.flush());
    document.addEventListener("visibilitychange", () => document.visibilityState === "hidden" && this.flush());
  }

  /** A list was shown for a query; `cards` are watched until the next one is. */
  shown(query, cards) {
    this.forget();
    this.list = { query_id: randomId(), session_id: buyerId(), query, shown_at: new Date().toISOString() }; // its own id where the API gives none
    for (const card of cards) this.eyes.observe(card);
  }

  /** No list of a query is on the page. */
  forget() {
    this.flush();
    this.eyes.disconnect();
    this.list = null;
  }

  opened(result) {
    if (this.list) noteOpened();
    this.add("click", result.item_id, result.rank, result.query_id, result.proof);
    this.flush();
  }

  /** The buyer is another one from now on: what was not sent yet never is. */
  renew() {
    this.waiting = [];
    if (this.list) this.list.session_id = buyerId();
  }

  see(entries) {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) continue;
      this.eyes.unobserve(target);
      const { itemId, rank, queryId, proof } = target.dataset;
      this.add("impression", itemId, Number(rank), queryId, proof);
    }
  }

  /** The proof says that a search answered with the lot at this place; without it nobody learns from the event. */
  add(kind, itemId, position, queryId, proof) {
    if (!this.list) return;
    const event = { event_type: kind, item_id: itemId, position, timestamp: new Date().toISOString(), ...(proof ? { proof } : {}) };
    this.waiting.push({ queryId: queryId || this.list.query_id, event });
  }

  flush() {
    while (this.list && this.waiting.length) {
      const [{ queryId }] = this.waiting;
      const events = this.waiting.filter((one) => one.queryId === queryId).map((one) => one.event);
      this.waiting = this.waiting.filter((one) => one.queryId !== queryId);
      while (events.length) this.send(JSON.stringify({ ...this.list, query_id: queryId, events: events.splice(0, MOST) }));
    }
    this.waiting = [];
  }

  /** Both outlive the page. A beacon comes with cookies, which an API at another address would have to allow. */
  send(body) {
    const headers = { "Content-Type": "application/json" };
    if (this.url.origin === location.origin) navigator.sendBeacon(this.url, new Blob([body], { type: headers["Content-Type"] }));
    else fetch(this.url, { method: "POST", body, headers, keepalive: true, credentials: "omit" }).catch(() => {});
  }
}
