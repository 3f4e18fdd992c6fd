// A recipe's certificate: how far each axiom holds, and the cases that stand against the next level.

import { ask, of } from "./api.js";
import { distributions } from "./bars.js";
import { counted, figure, find, h, table, words } from "./dom.js";
import { operator } from "./ensemble.js";
import { filled } from "./section.js";

const isNumbers = (value) => Array.isArray(value) && value.length > 0 && value.every((one) => typeof one === "number");
const first = (value) => (Array.isArray(value) && Array.isArray(value[0]) ? value[0] : value);

/** Probabilities of a case's teachers, `[K][B][C]`; written as logarithms where they are long. */
function beliefs(witness, prefix) {
  const data = witness.case;
  const logs = data[`${prefix}log_probs`]?.map((rows) => rows.map((row) => row.map((one) => (one === null ? 0 : Math.exp(one)))));
  return data[`${prefix}probabilities`] ?? logs ?? [];
}

// Teachers and classes are counted from 0, as in the words of the law.
function columns(witness) {
  const found = [];
  for (const [prefix, which] of [["", "Teacher"], ["far_", "Teacher, moved,"]]) {
    beliefs(witness, prefix).forEach((rows, k) => found.push({
      name: `${which} ${k}`, note: `weight ${figure(witness.case[`${prefix}weights`][k][0])}`, values: rows[0],
    }));
  }
  const { pool } = witness.told;
  const pools = isNumbers(first(pool)) ? [["", first(pool)]] : Object.entries(pool ?? {});
  pools.sort(([one], [other]) => Number(one) - Number(other) || 0); // along a path; words stay as they are
  for (const [name, values] of pools) {
    if (isNumbers(first(values))) found.push({ name: "Pool", note: name, values: first(values), strong: true });
  }
  return found;
}

const told = (value) => (typeof value === "string" ? value : JSON.stringify(value));

function drawn(name, { level, required }, witness) {
  const all = columns(witness);
  const size = Math.max(...all.map((one) => one.values.length));
  const missed = required !== null && level < required;
  const also = Object.entries(witness.told).filter(([key]) => key !== "law" && key !== "pool");
  const extra = ["temperature", "towards"].filter((key) => key in witness.case);
  return h("article", { class: missed ? "witness wrong" : "witness" },
    h("h4", {}, `${words(name)}, level ${witness.level}`, h("small", {}, missed ? "required, and broken" : "not required")),
    h("p", {}, "Against ", h("code", {}, witness.statement), witness.dtype === "float32" ? ", asked in float32" : ""),
    all.length ? distributions(`Witness against ${words(name)}, level ${witness.level}: the teachers and the pool.`,
      Array.from({ length: size }, (_, index) => `class ${index}`), all) : null,
    h("p", { class: "hint" }, [
      ...extra.map((key) => `${key}: ${key === "towards" ? `teacher ${witness.case[key][0]}` : witness.case[key][0]}`),
      ...also.map(([key, value]) => `${key}: ${told(value)}`), `the law: ${told(witness.told.law ?? "")}`,
    ].join("; "), "."),
    h("details", {}, h("summary", {}, "Ask it again"), h("pre", { tabindex: "0" }, witness.again ?? "")));
}

/** The certificate of a recipe, and what it does to the classes that are named unsafe. */
export function show(info, recipe, signal) {
  const about = of(info.name, "recipes", recipe);
  const title = info.unsafe_classes.length ? h("h3", {}, "Safety attenuation") : null;
  return Promise.all([
    filled(find("axioms"), { about, signal }, () => axioms(info, recipe, signal)),
    filled(find("safety"), { about, title, signal }, () => safety(info, recipe, signal)),
  ]);
}

async function axioms(info, recipe, signal) {
  const found = await ask(of(info.name, "recipes", recipe, "certificate"), { signal });
  const every = { ...found.axioms, ...found.gates };
  const rows = Object.entries(every).map(([name, one]) => [
    words(name),
    name in found.gates ? (one.level < 0 ? "broken" : "holds") : figure(one.level),
    name in found.gates ? "holds" : figure(one.required),
    one.proved ? "proved" : one.level < (one.required ?? -1) ? h("strong", { class: "wrong" }, "broken") : "searched",
    figure(one.trials), figure(one.margin),
    one.witness ? `level ${one.witness.level}` : "none",
  ]);
  const has = Object.entries(found.properties).filter(([, held]) => held).map(([name]) => words(name));
  const witnesses = Object.entries(every).filter(([, one]) => one.witness);
  return [
    h("p", {}, h("strong", { class: found.admitted ? "right" : "wrong" }, found.admitted ? "Admitted" : "Served with accepted violations"),
      `: ${operator(found.operator)}, profile ${found.profile}, ${counted(found.K, "teacher")}, ${counted(found.C, "class", "classes")}, on ${found.domain === "zeros" ? "probabilities that may be zero" : `probabilities with a floor of ${figure(found.floor)}`}, budget ${found.budget}, seed ${found.seed}. `,
      h("code", { title: found.id }, found.id.slice(0, 12))),
    table("Axioms", ["Axiom", "#Level", "#Required", "Why", "#Cases", "#Worst margin", "Witness against"], rows),
    h("p", { class: "hint" }, `Also: ${has.join(", ") || "no further property"}.`),
    witnesses.length ? h("h3", {}, "Witnesses") : null,
    witnesses.length ? h("p", { class: "hint" }, "The smallest case that was found against the first level that is not reached.") : null,
    h("div", { class: "witnesses" }, witnesses.map(([name, one]) => drawn(name, one, one.witness))),
  ];
}

async function safety(info, recipe, signal) {
  if (!info.unsafe_classes.length) return [];
  if (!info.samples) {
    return [h("p", { class: "hint" }, `Unsafe: ${info.unsafe_classes.join(", ")}. Name samples in the configuration to see it on rows.`)];
  }
  const rows = await ask(of(info.name, "samples"), { signal });
  const { quantities } = await ask(`${of(info.name, "guarantees")}?recipe=${encodeURIComponent(recipe)}`, { body: rows, signal });
  const found = quantities.filter((one) => one.name.startsWith("unsafe_"));
  const held = (one) => {
    if (one.holds === null) return "–";
    if (one.holds) return one.theorem ? "holds, proved" : "holds";
    return one.theorem ? h("strong", { class: "wrong" }, "does not hold") : "exceeded";
  };
  return [
    h("p", { class: "hint" }, `Probability of ${info.unsafe_classes.join(", ")} in the pool, beside its bounds, on ${counted(info.samples, "example row")}.`),
    table("Safety attenuation on the example rows", ["Figure", "#Value", "#Bound", "Whether it holds", "Conditions"],
      found.map((one) => [words(one.name), figure(one.value), figure(one.bound), held(one), one.conditions]), { hidden: true }),
  ];
}
