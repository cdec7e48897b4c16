// Small things about the document. Foreign text goes in as text, never as markup.

export const $ = (id) => document.getElementById(id);

export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (key === "class") element.className = value;
    else if (key in element) element[key] = value;
    else element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export function svg(tag, attributes = {}, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

/** Set a text only where it changes, so that nothing is laid out, or read aloud, for nothing. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

let colours = null;

/** A colour of the palette, as the theme has it now. */
export function colour(name) {
  colours ??= getComputedStyle(document.documentElement);
  return colours.getPropertyValue(`--${name}`).trim();
}

const clock = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });

/** Time of day, hh:mm:ss, of a Unix time. */
export const hms = (unix) => (Number.isFinite(unix) ? clock.format(new Date(unix * 1000)) : "--:--:--");
export const unix = (iso) => (iso ? Date.parse(iso) / 1000 : NaN);

/** "12 s", "3 min 04 s", "1 h 02 min". */
export function span(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${String(s % 60).padStart(2, "0")} s`;
  return `${Math.floor(s / 3600)} h ${String(Math.floor((s % 3600) / 60)).padStart(2, "0")} min`;
}
export const number = (p) => (p === null || p === undefined ? "--" : p.toFixed(2));
