// Elements made from parts. Text stays text: nothing here, or anywhere on the page, reads a string as markup.

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes, listeners (`on…`), data and children; children that are null or false are left out. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "data") Object.assign(element.dataset, value);
    else if (name === "value" || name === "checked") element[name] = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** A line drawing of one path, for buttons and placeholders. */
export function icon(path) {
  const drawing = document.createElementNS(SVG, "svg");
  drawing.setAttribute("viewBox", "0 0 24 24");
  drawing.setAttribute("class", "icon");
  drawing.setAttribute("aria-hidden", "true");
  const line = document.createElementNS(SVG, "path");
  line.setAttribute("d", path);
  drawing.append(line);
  return drawing;
}

const ARABIC = /[\u0600-\u06ff\u0750-\u077f\ufb50-\ufdff\ufe70-\ufefc]/;

/** Attributes of a text that a seller or a buyer wrote, in whatever language: its own direction, and Arabic said to be Arabic. */
export const written = (text) => ({ dir: "auto", lang: ARABIC.test(text) ? "ar" : null });

export const byId = (id) => document.getElementById(id);
