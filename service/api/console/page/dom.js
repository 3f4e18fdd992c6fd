// Elements without a framework: text is always text, never markup.

/** An element; attributes that are functions listen, `style` sets custom properties, null leaves out. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(name, value);
    // By the object model: the policy refuses style attributes.
    else if (name === "style") for (const [key, one] of Object.entries(value)) element.style.setProperty(key, one);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** The element of an id. */
export const find = (id) => document.getElementById(id);

/** Put children into the place of what is there. */
export function fill(element, ...children) {
  element.replaceChildren(...children.flat().filter((child) => child !== null));
}

/**
 * What is there becomes what was drawn anew, in place: where it is scrolled to, what is selected, focused or opened in it
 * stays, and only what is more or less than before comes or goes.
 */
export function become(old, now) {
  if (old.nodeName !== now.nodeName) {
    old.replaceWith(now);
    return;
  }
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== now.data) old.data = now.data;
    return;
  }
  for (const { name, value } of now.attributes) {
    if (name === "style") old.style.cssText = now.style.cssText; // the policy refuses the attribute
    else if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  for (const { name } of [...old.attributes]) if (name !== "open" && !now.hasAttribute(name)) old.removeAttribute(name);
  refill(old, [...now.childNodes]);
}

/** The same of all that is in an element. */
export function refill(element, children) {
  const made = children.flat().filter((child) => child !== null);
  const before = [...element.childNodes];
  before.slice(made.length).forEach((one) => one.remove());
  made.forEach((one, place) => (place < before.length ? become(before[place], one) : element.append(one)));
}

/**
 * A table in a region that scrolls by itself, so that the page never does.
 *
 * The first cell of a row is its header. A column that begins with "#" is of numbers.
 */
export function table(caption, columns, rows, { hidden = false } = {}) {
  const numeric = columns.map((name) => name.startsWith("#"));
  const of = (index) => (numeric[index] ? "number" : null);
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    h("table", {},
      h("caption", { class: hidden ? "unseen" : null }, caption),
      h("thead", {}, h("tr", {}, columns.map((name, index) =>
        h("th", { scope: "col", class: of(index) }, name.replace(/^#/, ""))))),
      h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell, index) =>
        h(index ? "td" : "th", { scope: index ? null : "row", class: of(index) }, cell ?? "–")))))));
}

/** Options of a select; the chosen one stays where it still is one. */
export function options(select, entries) {
  const before = select.value;
  fill(select, entries.map(([value, text]) => h("option", { value }, text)));
  if (entries.some(([value]) => value === before)) select.value = before;
}

/** Whether two documents say the same, in whichever order their names stand. */
export function same(one, other) {
  if (typeof one !== "object" || one === null || typeof other !== "object" || other === null) return one === other;
  const names = Object.keys(one);
  return names.length === Object.keys(other).length && names.every((name) => Object.hasOwn(other, name) && same(one[name], other[name]));
}

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** A number in as many digits as it is worth. */
export function figure(value, digits = 3) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  if (size >= 1000 || Number.isInteger(value)) return whole.format(value).replace("-", "−");
  if (size && size < 0.001) return value.toExponential(1).replace("e-", "e−").replace(/^-/, "−");
  return String(Number(value.toPrecision(digits))).replace("-", "−");
}

/** So many of something. */
export const counted = (count, one, many = `${one}s`) => `${figure(count)} ${count === 1 ? one : many}`;

/** A share of one. */
export const percent = (value) => (value === null ? "–" : `${figure(100 * value)} %`);

/** A probability, three digits behind the point. */
export const probability = (value) => (value > 0 && value < 0.0005 ? "< .001" : value.toFixed(3));

const LETTERS = { b: "bool", u: "uint", i: "int", f: "float" };

/** An input's rows in words: numpy's short spelling of a dtype as the configuration writes it. */
export function rows({ dtype, shape }) {
  const [, letter, bytes] = dtype.match(/^[<|](.)(\d)$/) ?? [];
  const kind = letter === undefined ? dtype : letter === "b" ? LETTERS.b : LETTERS[letter] + 8 * bytes;
  return shape.length ? `${kind} [${shape.join(", ")}]` : kind;
}

/** snake_case as words. */
export const words = (name) => name.replaceAll("_", " ");
