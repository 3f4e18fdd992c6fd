// Distributions as bars in tables, and histograms with a table beside them.

import { counted, figure, h, percent, probability, table } from "./dom.js";

const MOST = 12; // classes shown
const LABELS = 5; // of a histogram's axis: what can be read where it is narrowest

/** A bar as wide as a probability; a second, thinner one for another. */
export function bar(value, { thin = null, strong = false } = {}) {
  const style = (share) => ({ "--share": Math.min(1, Math.max(0, share)) });
  return h("span", { class: strong ? "bars strong" : "bars", "aria-hidden": "true" },
    h("span", { class: "bar", style: style(value) }),
    thin === null ? null : h("span", { class: "bar thin", style: style(thin) }));
}

/** Places of the classes to show: the largest of what is strong, then of the others; and those that are always shown. */
function largest(size, columns, always) {
  const places = Array.from({ length: size }, (_, place) => place);
  if (size <= MOST) return places;
  const of = (strong) => {
    const chosen = columns.filter((one) => Boolean(one.strong) === strong);
    return (place) => Math.max(0, ...chosen.map((one) => one.values?.[place] ?? 0));
  };
  const [target, teachers] = [of(true), of(false)];
  const ranked = places.sort((one, other) => target(other) - target(one) || teachers(other) - teachers(one));
  const chosen = ranked.slice(0, MOST);
  return [...chosen, ...always.filter((place) => !chosen.includes(place))];
}

/**
 * A table of distributions: a row a class, a column each.
 *
 * columns: [{ name, note, values: [p, ...] or null, thin: [p, ...] or null, strong }]
 * always: names of classes that are shown however small they are.
 */
export function distributions(caption, classes, columns, { always = [] } = {}) {
  const shown = largest(classes.length, columns, always.map((name) => classes.indexOf(name)));
  const cell = (column, index) => {
    const value = column.values?.[index];
    if (value === null || value === undefined) return h("td", { class: "number" }, "–");
    const thin = column.thin?.[index] ?? null;
    return h("td", { class: "number" },
      h("span", { class: "both" }, bar(value, { thin, strong: column.strong }), h("span", {}, probability(value),
        thin === null ? null : h("small", {}, h("span", { class: "unseen" }, ", at T = 1 "), probability(thin)))));
  };
  const left = classes.length - shown.length;
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    h("table", { class: "distributions" },
      h("caption", {}, h("span", {}, caption, left ? ` ${shown.length} of ${classes.length} classes, the largest first.` : "")),
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Class"), columns.map((one) =>
        h("th", { scope: "col", class: "number" }, one.name, one.note ? h("small", {}, one.note) : null)))),
      h("tbody", {}, shown.map((index) => h("tr", {}, h("th", { scope: "row" }, classes[index]),
        columns.map((one) => cell(one, index)))))));
}

/** The edges below a histogram's columns, as many as can be read. */
function axis(edges, beyond) {
  const step = Math.ceil(edges.length / LABELS);
  const at = (place, kind, text) => h("span", { class: kind, style: { "--at": place } }, text);
  const inner = edges.map((edge, index) => [edge, index + 1]).filter(([, place]) => place % step === 0 && place < edges.length);
  const last = beyond ? `above ${figure(edges.at(-1))}` : figure(edges.at(-1));
  return h("p", { class: "edges", style: { "--columns": edges.length }, "aria-hidden": "true" }, at(1, "from", "0"),
    inner.map(([edge, place]) => at(place, "edge", figure(edge))), at(edges.length + beyond, beyond ? "beyond" : "to", last));
}

/** A histogram as columns, and as a table for who does not see them. */
export function histogram(name, { edges, counts }, { unit = "", empty = "" } = {}) {
  const sum = counts.reduce((all, count) => all + count, 0);
  if (!sum) return h("figure", { class: "histogram" }, h("figcaption", {}, name), h("p", { class: "hint" }, empty));
  const largest = Math.max(...counts);
  const range = (index) => {
    const low = index ? figure(edges[index - 1]) : "0";
    return index < edges.length ? `${low} to ${figure(edges[index])}` : `above ${low}`;
  };
  const modal = range(counts.indexOf(largest));
  const beyond = Number(counts.at(-1) > 0); // of what is above the last edge a column is drawn where there is any
  return h("figure", { class: "histogram" },
    h("figcaption", {}, unit ? `${name},${unit}` : name, " ", h("span", { class: "hint" }, counted(sum, "row"))),
    h("div", { class: "columns-of", style: { "--columns": edges.length }, role: "img", "aria-label": `${name}: histogram of ${counted(sum, "row")}, most of them ${modal}${unit}` },
      counts.slice(0, edges.length + beyond).map((count) => h("span", { style: { "--share": count / largest } }))),
    axis(edges, beyond),
    h("details", {}, h("summary", {}, h("span", { class: "unseen" }, `${name} `), "as a table"),
      table(name, ["Range", "#Rows", "#Share"], counts.map((count, index) => [range(index) + unit, figure(count), percent(count / sum)]))));
}
