// What the page shows is what its address says: shareable, and the back button works.

export const MODES = ["hybrid", "semantic", "keyword"];
export const FILTERS = ["category", "brand", "min_price", "max_price", "min_seller_rating"];
export const PAGE_SIZE = 24;
export const MOST_AT_ONCE = 100; // lots that one answer may hold
const MOST = 500; // that can be paged through
const NUMBERS = ["min_price", "max_price", "min_seller_rating"];

/** Read the state from an address; whatever it does not hold has its default. */
export function readState(search = location.search) {
  const given = new URLSearchParams(search);
  const state = { q: (given.get("q") ?? "").trim(), similar: given.get("similar") ?? "", lot: given.get("lot") ?? "" };
  state.mode = MODES.includes(given.get("mode")) ? given.get("mode") : "hybrid";
  state.compare = MODES.includes(given.get("compare")) && given.get("compare") !== state.mode ? given.get("compare") : "";
  state.explain = given.get("explain") === "1";
  state.varied = given.get("varied") === "1";
  const k = Number.parseInt(given.get("k") ?? "", 10);
  state.k = k >= 1 && k <= MOST ? k : PAGE_SIZE;
  for (const name of FILTERS) state[name] = given.get(name)?.trim() ?? "";
  for (const name of NUMBERS) if (!(Number(state[name]) >= 0)) state[name] = "";
  return state;
}

/** The address of a state; defaults are left out. */
export function addressOf(state) {
  const kept = new URLSearchParams();
  for (const name of ["q", "similar", ...FILTERS, "compare", "lot"]) if (state[name]) kept.set(name, state[name]);
  if (state.mode !== "hybrid") kept.set("mode", state.mode);
  if (state.explain) kept.set("explain", "1");
  if (state.varied) kept.set("varied", "1");
  if (state.k !== PAGE_SIZE) kept.set("k", String(state.k));
  const query = kept.toString();
  return query ? `?${query}` : location.pathname;
}

/** The filters of a state that are set, as the API's query parameters. */
export function filtersOf(state) {
  return Object.fromEntries(FILTERS.filter((name) => state[name]).map((name) => [name, state[name]]));
}

/** How many lots are shown when more of them are asked for. */
export const more = (k) => Math.min(k + PAGE_SIZE, MOST);
