// One row, as the teachers and the pool see it. Every figure is the server's: none is computed here.

import { ask, of } from "./api.js";
import { distributions } from "./bars.js";
import { figure, fill, find, options, rows } from "./dom.js";

const PAUSE_MS = 120; // that the slider rests before the server is asked again
const state = { info: null, samples: null, timer: 0, asking: null };

const sampled = (place) => Object.fromEntries(Object.entries(state.samples.inputs).map(([name, rows]) => [name, rows[place]]));

function zeros(spec) {
  return spec.shape.reduceRight((value, size) => Array(size).fill(value), spec.dtype === "utf8" ? "text" : 0);
}

/** JSON on lines that are no longer than they need to be. */
const written = (row) => `{${Object.entries(row).map(([name, value]) => `${JSON.stringify(name)}: ${JSON.stringify(value)}`).join(",\n ")}}`;

function giveSample() {
  const place = find("sample").value;
  if (place !== "") find("given").value = written(sampled(Number(place)));
}

function setTemperature(value) {
  find("temperature").value = String(Number(value.toPrecision(3)));
  slide(value);
}

function slide(value) {
  find("slider").value = String(Math.log10(value));
  find("slider").setAttribute("aria-valuetext", `T = ${figure(value)}`);
}

function ofRecipe() {
  const recipe = state.info.recipes[find("ask-recipe").value];
  setTemperature(recipe.temperature);
  for (const id of ["temperature", "slider"]) find(id).disabled = recipe.output_temperature !== 1;
}

function say(text, wrong = false) {
  find("said").textContent = text;
  find("said").classList.toggle("wrong", wrong);
}

async function answer() {
  clearTimeout(state.timer);
  state.asking?.abort();
  const mine = (state.asking = new AbortController());
  let given;
  try {
    given = JSON.parse(find("given").value);
  } catch (error) {
    say(`The row is not JSON: ${error.message}`, true);
    find("given").focus();
    return;
  }
  const inputs = Object.fromEntries(Object.entries(given ?? {}).map(([name, value]) => [name, [value]]));
  const query = new URLSearchParams({ recipe: find("ask-recipe").value, temperature: find("temperature").value });
  try {
    const reply = await ask(`${of(state.info.name, "opinions")}?${query}`, { body: { inputs }, signal: mine.signal });
    draw(reply);
  } catch (error) {
    if (error.name === "AbortError") return;
    say(error.message, true);
    fill(find("answer"));
  }
}

function draw(reply) {
  const [row] = reply.rows;
  const { classes, recipes, teachers, unsafe_classes: always } = state.info;
  const { weights } = recipes[reply.recipe];
  const listed = (values) => values && classes.map((name) => values[name] ?? null);
  const columns = teachers.map(({ name }) => ({
    name, note: `weight ${figure(weights[name])}`, values: listed(row.softened[name]), thin: listed(row.opinions[name]),
  }));
  if (row.target) columns.push({ name: "Soft target", note: row.tail ? `tail ${figure(row.tail)}` : "", values: listed(row.target), strong: true });
  fill(find("answer"), distributions(
    `Each teacher and the soft target at T = ${figure(reply.temperature)}; the thin bars and small figures are the teachers at T = 1.`, classes, columns, { always }));
  if (!row.target) {
    say(`No target: ${row.error}`, true);
    return;
  }
  const [name, value] = Object.entries(row.target).reduce((one, other) => (other[1] > one[1] ? other : one));
  const missing = row.missing_teachers?.length ? `, without ${row.missing_teachers.join(", ")}` : "";
  say(`The soft target at T = ${figure(reply.temperature)} is ${name} with ${figure(value)}${missing}.`);
}

function soon() {
  if (!find("answer").childElementCount) return; // nothing was asked yet
  clearTimeout(state.timer);
  state.timer = setTimeout(answer, PAUSE_MS);
}

/** Make the form work. */
export function install() {
  find("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    answer();
  });
  find("sample").addEventListener("change", () => {
    giveSample();
    soon();
  });
  find("given").addEventListener("input", () => { find("sample").value = ""; });
  find("ask-recipe").addEventListener("change", () => {
    ofRecipe();
    soon();
  });
  find("slider").addEventListener("input", () => {
    setTemperature(10 ** Number(find("slider").value));
    soon();
  });
  find("temperature").addEventListener("input", () => {
    if (!find("temperature").checkValidity() || !find("temperature").value) return;
    slide(Number(find("temperature").value));
    soon();
  });
}

/** Another ensemble; or the same, described anew, which leaves what somebody has written. */
export async function show(info, signal) {
  const same = state.info?.name === info.name;
  let samples = same ? state.samples : null;
  let wrong = "";
  try {
    samples = info.samples ? await ask(of(info.name, "samples"), { signal }) : null;
  } catch (error) {
    if (signal.aborted || error.ofKey) throw error;
    wrong = error.message;
  }
  Object.assign(state, { info, samples });
  options(find("ask-recipe"), Object.keys(info.recipes).map((name) => [name, name]));
  if (same) return;
  state.asking?.abort();
  fill(find("answer"));
  say(wrong, Boolean(wrong));
  find("sample-field").hidden = !samples;
  options(find("sample"), [...(samples?.row_ids ?? []).map((place) => [String(place), `row ${place}`]), ["", "own row"]]);
  find("sample").selectedIndex = 0;
  find("given-hint").textContent = Object.entries(info.inputs).map(([name, spec]) => `${name}: ${rows(spec)}`).join("; ");
  if (samples) giveSample();
  else find("given").value = written(Object.fromEntries(Object.entries(info.inputs).map(([name, spec]) => [name, zeros(spec)])));
  ofRecipe();
  find("submit").disabled = false;
}
