// The API's description, drawn from its openapi.json; nothing is asked of anybody else.

import { Api } from "./api.js";
import { byId, h } from "./dom.js";

const LIMITS = ["type", "format", "enum", "default", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems"];
const pretty = (value) => h("pre", { tabindex: "0" }, JSON.stringify(value, null, 2));

/** The type and the limits of a schema in a line; `anyOf` and `oneOf` with "or" between. */
function limitsOf(schema) {
  const choices = (schema.anyOf ?? schema.oneOf ?? []).map(limitsOf);
  const named = schema.$ref ? [schema.$ref.split("/").pop()] : [];
  const items = schema.items ? [`of ${limitsOf(schema.items)}`] : [];
  const own = LIMITS.filter((name) => name in schema && schema[name] !== null)
    .map((name) => (name === "type" ? schema.type : `${name} ${JSON.stringify(schema[name])}`));
  return [choices.join(" or "), ...named, ...own, ...items].filter(Boolean).join(", ");
}

function listOf(fields) {
  return h("dl", { class: "parameters" }, fields.flatMap(({ name, schema, required, description }) => [
    h("dt", {}, h("code", {}, name), required ? " (required)" : ""),
    h("dd", {}, h("span", { class: "limits" }, limitsOf(schema)), " ", description ?? schema.description ?? ""),
  ]));
}

function fieldsOf(schema) {
  return Object.entries(schema.properties ?? {}).map(([name, field]) =>
    ({ name, schema: field, required: (schema.required ?? []).includes(name) }));
}

function examplesOf(content, schemas) {
  return Object.values(content ?? {}).flatMap(({ examples, schema }) => {
    if (examples) return Object.values(examples).map((example) => pretty(example.value));
    const named = [schema, ...(schema?.anyOf ?? schema?.oneOf ?? [])].map((one) => schemas[one?.$ref?.split("/").pop()]).find(Boolean);
    return named?.example ? [pretty(named.example)] : [];
  });
}

function bodyOf({ description, content }, schemas) {
  const [kind, { schema }] = Object.entries(content)[0];
  const named = [schema, ...(schema.anyOf ?? schema.oneOf ?? [])].map((one) => schemas[one.$ref?.split("/").pop()]).find(Boolean);
  return [
    h("h2", {}, `Body: ${Object.keys(content).join(", ")}`),
    h("p", {}, description ?? (kind === "application/json" ? limitsOf(schema) : "")),
    named ? listOf(fieldsOf(named)) : null,
    ...examplesOf(content, schemas),
  ];
}

function operation(path, method, told, schemas) {
  return h("details", { class: "operation" },
    h("summary", {}, h("span", { class: "method" }, method.toUpperCase()), h("code", {}, path), " ", told.summary),
    h("p", {}, told.description),
    told.parameters?.length ? [h("h2", {}, "Parameters"), listOf(told.parameters)] : null,
    told.requestBody ? bodyOf(told.requestBody, schemas) : null,
    Object.entries(told.responses).map(([status, answer]) => [
      h("h2", {}, `${status} ${answer.description}`), ...examplesOf(answer.content, schemas),
    ]).flat());
}

async function draw() {
  const config = await fetch("config.json").then((answer) => (answer.ok ? answer.json() : {})).catch(() => ({}));
  const address = new Api(config).at("openapi.json");
  const described = await fetch(address).then((answer) => (answer.ok ? answer.json() : null)).catch(() => null);
  const page = byId("operations");
  page.removeAttribute("aria-busy");
  if (!described) {
    page.append(h("p", { role: "alert" }, "The API does not answer. Start it and load this page again."));
    return;
  }
  const schemas = described.components?.schemas ?? {};
  page.append(
    h("h1", {}, `${described.info.title}: the API`),
    h("p", {}, described.info.description, " ", h("a", { href: address.href }, "openapi.json"), " says the same to programs."),
    ...Object.entries(described.paths).flatMap(([path, methods]) =>
      Object.entries(methods).map(([method, told]) => operation(path, method, told, schemas))),
    h("h2", {}, "Schemas"),
    ...Object.entries(schemas).map(([name, schema]) =>
      h("details", { class: "operation" }, h("summary", {}, h("code", {}, name)), listOf(fieldsOf(schema)))));
}

draw();
