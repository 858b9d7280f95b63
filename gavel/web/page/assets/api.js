// The API, its capabilities and its errors. What its openapi.json does not list, the page does not offer.

import { MOST_AT_ONCE } from "./state.js";

const PATIENCE_MS = 15_000;

/** An error of the API, or of the way to it. `type` is stable and decides the remedy. */
export class Problem extends Error {
  constructor({ type, title, detail, retryAfter = 0 }) {
    super(detail || title);
    Object.assign(this, { type, title, detail, retryAfter });
  }
}

const UNREACHABLE = { type: "unreachable", title: "The search does not answer", detail: "" };
const TOO_SLOW = { type: "too_slow", title: "The search takes too long", detail: "" };

export class Api {
  /** Take config.json, and what the API says about itself. */
  static async connect() {
    const config = await fetch("config.json").then((answer) => (answer.ok ? answer.json() : {})).catch(() => ({}));
    const api = new Api(config);
    await api.discover();
    return api;
  }

  constructor(config) {
    this.base = new URL(config.api ? `${config.api.replace(/\/+$/, "")}/` : "./", location.href);
    this.photos = config.photos ? new URL(config.photos, location.href) : null;
    this.words = config.words ? new URL(config.words, location.href) : null;
    this.currency = config.currency ?? "";
    this.direction = config.direction === "rtl" ? "rtl" : "ltr";
    this.can = { similar: false, item: false, image: false, events: false, explain: false, diversity: false, buyers: false };
  }

  async discover() {
    const described = await fetch(this.at("openapi.json")).then((answer) => (answer.ok ? answer.json() : null)).catch(() => null);
    this.reached = described !== null;
    const paths = described?.paths ?? {};
    this.can.similar = Object.keys(paths).some((path) => /^\/items\/\{\w+\}\/similar$/.test(path));
    this.can.item = Object.keys(paths).some((path) => /^\/items\/\{\w+\}$/.test(path));
    this.can.events = "/events" in paths;
    this.can.buyers = this.can.events && "/retrieve" in paths && Object.keys(paths).some((path) => /^\/buyers\/\{\w+\}$/.test(path));
    const asked = (paths["/search"]?.get?.parameters ?? []).map((parameter) => parameter.name);
    this.can.explain = asked.includes("explain");
    this.can.diversity = asked.includes("diversity");
    this.can.image = "/search/image" in paths;
  }

  at(path) {
    return new URL(path, this.base);
  }

  /** Every lot is given the id of its answer, for pages of several answers stand in one list. */
  async search(params, signal) {
    const answer = await this.ask(withParams(this.at("search"), params), { signal });
    for (const one of answer.results) one.query_id = answer.query_id;
    return answer;
  }

  /** As many lots as `wanted` of one list, page by page, going on from `known`, an answer with fewer or more of them. */
  async searchFor(wanted, params, signal, known) {
    let answer = known ?? await this.search({ ...params, k: Math.min(wanted, MOST_AT_ONCE) }, signal);
    while (answer.results.length < wanted && answer.next_offset) {
      const k = Math.min(wanted - answer.results.length, MOST_AT_ONCE);
      const next = await this.search({ ...params, k, offset: answer.next_offset }, signal);
      const seen = new Set(answer.results.map((one) => one.item_id));
      const fresh = next.results.filter((one) => !seen.has(one.item_id));
      answer = { ...answer, results: [...answer.results, ...fresh], next_offset: fresh.length ? next.next_offset : null };
    }
    return answer.results.length > wanted ? { ...answer, results: answer.results.slice(0, wanted), next_offset: wanted } : answer;
  }

  similar(itemId, params, signal) {
    return this.ask(withParams(this.at(`items/${encodeURIComponent(itemId)}/similar`), params), { signal });
  }

  /** One lot with its whole description. */
  item(itemId) {
    return this.ask(this.at(`items/${encodeURIComponent(itemId)}`));
  }

  /** Lots for a buyer, or where nothing is known of one, popular and fresh ones. */
  retrieve(params) {
    return this.ask(withParams(this.at("retrieve"), params));
  }

  /** What a buyer did, the latest first. */
  history(buyerId) {
    return this.ask(this.at(`buyers/${encodeURIComponent(buyerId)}`));
  }

  forget(buyerId) {
    return this.ask(this.at(`buyers/${encodeURIComponent(buyerId)}`), { method: "DELETE" });
  }

  /** `photo` is a Blob of a type that the API takes; it is sent as it is. */
  searchByPhoto(photo, params, signal) {
    const headers = { "Content-Type": photo.type };
    return this.ask(withParams(this.at("search/image"), params), { method: "POST", body: photo, headers, signal });
  }

  async ask(url, { signal, ...request } = {}) {
    const patience = AbortSignal.timeout(PATIENCE_MS);
    try {
      const answer = await fetch(url, { ...request, signal: signal ? AbortSignal.any([signal, patience]) : patience });
      if (answer.ok) return await answer.json();
      throw await problemOf(answer);
    } catch (error) {
      if (error instanceof Problem || error.name === "AbortError") throw error;
      throw new Problem(error.name === "TimeoutError" ? TOO_SLOW : UNREACHABLE);
    }
  }
}

function withParams(url, params) {
  for (const [name, value] of Object.entries(params)) url.searchParams.set(name, value);
  return url;
}

async function problemOf(answer) {
  const told = await answer.json().catch(() => ({}));
  const retryAfter = Number(answer.headers.get("Retry-After")) || 0;
  return new Problem({ type: told.type ?? `http_${answer.status}`, title: told.title ?? "", detail: told.detail ?? "", retryAfter });
}
