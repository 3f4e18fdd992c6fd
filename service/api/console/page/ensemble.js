// One ensemble: its teachers, its recipes, and how its targets are spread.

import { histogram } from "./bars.js";
import { counted, figure, fill, find, h, percent, refill, rows, same, table, words } from "./dom.js";

/** An operator as the configuration writes it. */
export function operator({ name, ...parameters }) {
  const given = Object.entries(parameters).map(([key, value]) => `${words(key)} ${value}`).join(", ");
  return given ? `${words(name)}, ${given}` : words(name);
}

function plan(info, recipe) {
  return info.plans.find((one) => same(one.operator, recipe.operator) && one.sparse === (recipe.sparsity !== null)
    && one.diagnostics === recipe.diagnostics);
}

const FLOOR = 1e-6; // where nothing is said of it

/** What a recipe does that a plain one does not. */
function also(recipe) {
  return [
    recipe.sparsity && `the ${counted(recipe.sparsity.top_k, "largest class", "largest classes")}`,
    recipe.output_temperature !== 1 && `output temperature ${figure(recipe.output_temperature)}`,
    recipe.floor !== FLOOR && `floor ${figure(recipe.floor)}`,
    recipe.diagnostics && "diagnostics",
  ].filter(Boolean).join(", ");
}

/** What does not move: facts and recipes. */
export function show(info) {
  const inputs = Object.entries(info.inputs).map(([name, spec]) => `${name} ${rows(spec)}`);
  find("facts").textContent = `${counted(info.classes.length, "class", "classes")}; ${inputs.join("; ")}${info.not_cached ? `. Nothing is cached: ${info.not_cached}` : ""}`;
  fill(find("recipes"), table("Recipes",
    ["Recipe", "Operator", "#Temperature", "Also", "Weights", "Axioms", "Plan", "Fingerprint"],
    Object.entries(info.recipes).map(([name, one]) => {
      const chosen = plan(info, one);
      return [
        name, operator(one.operator), figure(one.temperature), also(one) || "–",
        Object.entries(one.weights).map(([teacher, weight]) => `${teacher} ${figure(weight, 2)}`).join(", "),
        one.violations.length ? h("strong", { class: "wrong" }, `${one.profile}, but ${one.violations.map(words).join(", ")}`) : `${one.profile}, all kept`,
        chosen ? h("span", { title: chosen.reason }, chosen.plan) : "–",
        h("code", { title: one.fingerprint }, one.fingerprint.slice(0, 12)),
      ];
    })));
}

/** What moves: what the teachers were asked, and how the targets are spread. Figures may be absent. */
export function move(info, figures) {
  const of = figures?.teachers ?? {};
  const together = figures?.together ?? { calls: 0, seconds: 0 }; // then nobody knows how long each took
  refill(find("teachers"), [table("Teachers",
    ["Teacher", "Device", "#Weight", "#Calibration", "#Batches", "#ms a batch", "#Failed", "#Invalid rows", "#Agrees with the pool"],
    info.teachers.map((one) => {
      const seen = of[one.name] ?? {};
      return [
        one.name, one.device, figure(one.weight), figure(one.temperature), figures ? figure(seen.calls + together.calls) : "–",
        seen.calls ? figure((1000 * seen.seconds) / seen.calls) : "–", figure(seen.errors ?? null), figure(seen.invalid ?? null),
        seen.compared ? percent(seen.agreed / seen.compared) : "–",
      ];
    })), together.calls
    ? h("p", { class: "hint" }, `As one graph of all teachers: ${counted(together.calls, "batch", "batches")}, ${figure((1000 * together.seconds) / together.calls)} ms each. How long each of them took is not known then.`)
    : null]);
  const none = { edges: [1], counts: [0, 0] };
  refill(find("histograms"), [
    histogram("Entropy of the targets, as a share of log C", figures?.entropy ?? none,
      { empty: "No target was computed yet." }),
    histogram("Divergence between the teachers", figures?.divergence ?? none,
      { unit: " nats", empty: "No target was computed yet." }),
    unsafe(info, figures?.unsafe),
  ]);
}

/** What the targets give to the classes that are named unsafe, beside what the teachers do. */
function unsafe({ unsafe_classes: classes }, figures) {
  if (!classes.length) return null;
  const title = h("figcaption", {}, `Unsafe: ${classes.join(", ")}`);
  if (!figures?.target.rows) return h("figure", {}, title, h("p", { class: "hint" }, "No target was computed yet."));
  const [target, teachers] = [figures.target, figures.teachers].map((one) => one.sum / one.rows);
  return h("figure", {}, title, h("p", {},
    `Their probability in the targets is ${percent(target)}, in what the teachers say by weight ${percent(teachers)}: `,
    h("strong", {}, teachers > 0 ? `times ${figure(target / teachers)}` : "none"),
    h("span", { class: "hint" }, `, in the mean of ${counted(figures.target.rows, "row")}.`)));
}
