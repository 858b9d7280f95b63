// How an answer came about: the time of its stages, and why each lot stands where it does.

import { h } from "./dom.js";
import { label, milliseconds } from "./format.js";

const STAGES = { load: "Load", history: "History", encode: "Encode", retrieve: "Retrieve", fuse: "Fuse", rerank: "Re-rank", expand: "Expand", cross_encode: "Cross-encode", diversify: "Vary", spelling: "Spelling", cache: "From the cache" };
const BASELINE = "expected"; // the contribution that is the same for all lots
const MOVES = 5;
const LEAST_MS = 0.05; // what rounds to nothing is left out
const LEAST_SHARE = 0.5; // percent: a stage of microseconds stays visible

/** The stages of a search as one stacked bar with its legend. */
export function timingBar({ timings_ms: timings = {}, cached }) {
  const total = timings.total ?? Object.values(timings).reduce((sum, value) => sum + value, 0);
  const measured = Object.entries(timings).filter(([name]) => name !== "total");
  const rest = total - measured.reduce((sum, [, value]) => sum + value, 0);
  const stages = [...measured, [cached ? "cache" : "other", rest]].filter(([, value]) => value >= LEAST_MS);
  const name = (stage) => STAGES[stage] ?? label(stage);
  const bar = h("div", { class: "bar", role: "img" });
  bar.setAttribute("aria-label", `${milliseconds(total)}: ${stages.map(([s, v]) => `${name(s)} ${milliseconds(v)}`).join(", ")}`);
  const legend = h("ul", { class: "legend" });
  for (const [stage, value] of stages) {
    const part = h("span", { data: { stage }, title: `${name(stage)} ${milliseconds(value)}` });
    part.style.flexBasis = `${Math.max(LEAST_SHARE, (100 * value) / Math.max(total, 0.001))}%`;
    bar.append(part);
    legend.append(h("li", { data: { stage } }, name(stage), " ", h("b", {}, milliseconds(value))));
  }
  return h("div", { class: "timings" }, h("span", { class: "total" }, milliseconds(total)), bar, legend);
}

/** The panel about a whole answer. */
export function explainPanel(answer) {
  const facts = [
    ["Mode", answer.mode ?? "similar"],
    ["Order", answer.reranked ? "by the re-ranker" : "first stage, not re-ranked"],
    ...(answer.expansion_terms?.length ? [["Words added", answer.expansion_terms.join(", ")]] : []),
    ["Done without", answer.degraded?.length ? answer.degraded.join(", ") : "nothing: every stage answered"],
    ["Tower", answer.tower_id],
  ];
  return h(
    "section",
    { class: "explain", "aria-label": "How this answer came about" },
    h("h2", {}, "How this answer came about"),
    timingBar(answer),
    h("dl", {}, facts.map(([term, fact]) => h("div", { class: "fact" }, h("dt", {}, term), h("dd", {}, fact ?? "not told")))),
  );
}

/** Why a lot stands where it does: its scores, and whatever more the API tells of it. */
export function explanation(result) {
  const told = result.explanation;
  return h(
    "div",
    { class: "why" },
    h("dl", {}, pair("Rank", result.rank), pair("Score", number(result.score)), pair("Similarity", number(result.similarity))),
    typeof result.similarity === "number" ? similarityBar(result.similarity) : null,
    told ? places(told) : null,
    told?.contributions ? contributions(told.contributions) : null,
    told ? h("details", {}, h("summary", {}, "All that is known"), tree(told)) : null,
  );
}

/** Where each retriever had the lot. */
function places(told) {
  const at = (rank) => (rank ? `#${rank}` : "–");
  return h("dl", {}, pair("Meaning", at(told.semantic_rank)), pair("Words", at(told.keyword_rank)), pair("Together", at(told.first_stage_rank)),
    told.relevance_rank ? pair("By score alone", at(told.relevance_rank)) : null);
}

/** What moved the lot up or down in the re-ranker's order, the strongest first. */
function contributions(told) {
  const moves = Object.entries(told).filter(([name]) => name !== BASELINE)
    .sort((one, other) => Math.abs(other[1]) - Math.abs(one[1])).slice(0, MOVES);
  const most = Math.max(...moves.map(([, value]) => Math.abs(value)), 1e-9);
  return h("ul", { class: "moves", "aria-label": "What moved it in the order" }, moves.map(([name, value]) => {
    const bar = h("span", { class: value < 0 ? "down" : "up", "aria-hidden": "true" });
    bar.style.inlineSize = `${(100 * Math.abs(value)) / most}%`;
    return h("li", {}, h("span", {}, label(name)), h("b", {}, `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)}`), h("i", {}, bar));
  }));
}

function similarityBar(similarity) {
  const filled = h("span");
  filled.style.inlineSize = `${Math.max(0, Math.min(1, similarity)) * 100}%`;
  return h("div", { class: "similarity", "aria-hidden": "true" }, filled);
}

function tree(told) {
  const rows = Object.entries(told).map(([name, value]) => {
    const nested = value && typeof value === "object";
    return [h("dt", {}, label(name)), h("dd", {}, nested ? tree(value) : number(value))];
  });
  return h("dl", {}, rows.flat());
}

const pair = (term, fact) => h("div", {}, h("dt", {}, term), h("dd", {}, String(fact ?? "–")));

function number(value) {
  return typeof value === "number" && !Number.isInteger(value) ? value.toFixed(3) : String(value ?? "–");
}
