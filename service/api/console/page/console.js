// The console: what is served, how it fares, and one row at a time.

import { ask, events, key } from "./api.js";
import * as calls from "./calls.js";
import * as certificate from "./certificate.js";
import { counted, figure, fill, find, options, same } from "./dom.js";
import * as ensemble from "./ensemble.js";
import * as live from "./live.js";
import * as row from "./row.js";

const LONGEST_WAIT_MS = 15_000;
const state = { ensembles: [], figures: null, listening: null, showing: null, certifying: null, describing: null };

function say(text, kind = "") {
  const place = find("state");
  if (place.textContent !== text) place.textContent = text; // read out only where it changes
  place.className = `state ${kind}`;
}

const chosen = () => state.ensembles.find((one) => one.name === find("choose-ensemble").value);

// What is asked for is answered by the newest choice only.
async function only(name, work) {
  state[name]?.abort();
  const mine = (state[name] = new AbortController());
  try {
    await work(mine.signal);
  } catch (error) {
    if (!mine.signal.aborted) failed(error);
  }
}

function failed(error) {
  if (error.ofKey) askForKey(error);
  else say(error.message, "wrong");
}

function askForKey(error) {
  state.listening?.abort();
  say(error.status === 401 ? "A key is needed" : error.message, "wrong");
  find("change-key").hidden = false;
  find("key-said").textContent = error.status === 403 || key.get() ? error.message : "";
  if (!find("key-dialog").open) find("key-dialog").showModal();
}

function showRecipe() {
  return only("certifying", (signal) => certificate.show(chosen(), find("choose-recipe").value, signal));
}

function showEnsemble() {
  const info = chosen();
  return only("showing", async (signal) => {
    ensemble.show(info);
    ensemble.move(info, state.figures?.ensembles[info.name]);
    options(find("choose-recipe"), Object.keys(info.recipes).map((name) => [name, name]));
    await Promise.all([row.show(info, signal), showRecipe()]);
  });
}

function look(now) {
  state.figures = now;
  live.show(now);
  const info = chosen();
  if (info) ensemble.move(info, now.ensembles[info.name]);
  find("degraded").hidden = !now.degraded.length;
  if (now.degraded.length) find("degraded").textContent = now.degraded.join("; ");
  const { inferences, device_seconds: seconds } = now.saved;
  find("saved").textContent = inferences
    ? `The cache has saved ${counted(inferences, "inference")}${seconds ? `, about ${figure(seconds, 2)} s of the teachers' work` : ""}.` : "";
  say(now.degraded.length ? "Degraded" : "Live", now.degraded.length ? "wrong" : "right");
}

/** Whether a look is of what the page describes, to a recipe's fingerprint. */
function known(now) {
  const fingerprints = (recipes, of) => Object.fromEntries(Object.entries(recipes).map(([name, one]) => [name, of(one)]));
  const shown = Object.fromEntries(state.ensembles.map((one) => [one.name, fingerprints(one.recipes, (recipe) => recipe.fingerprint)]));
  const served = Object.fromEntries(Object.entries(now.ensembles).map(([name, one]) => [name, one.recipes]));
  return same(shown, served);
}

async function listen() {
  state.listening?.abort();
  const mine = (state.listening = new AbortController());
  let loaded = false;
  say("Connecting");
  find("change-key").hidden = !key.get();
  for (let wait = 1000; !mine.signal.aborted; wait = Math.min(LONGEST_WAIT_MS, wait * 2)) {
    try {
      if (!loaded) await load();
      loaded = true;
      for await (const now of events("v1/events", mine.signal)) {
        look(now);
        if (!known(now)) await load();
        wait = 1000;
      }
      say("The server ended the connection; connecting again");
    } catch (error) {
      if (mine.signal.aborted) return;
      loaded = false; // what was said meanwhile is asked again
      failed(error);
      if (mine.signal.aborted) return;
    }
    await new Promise((resolve) => { setTimeout(resolve, wait); });
  }
}

async function load() {
  state.ensembles = (await ask("v1/ensembles")).ensembles;
  options(find("choose-ensemble"), state.ensembles.map((one) => [one.name, one.name]));
  if (!chosen()) nothing();
  await Promise.all([chosen() && showEnsemble(), only("describing", calls.show)]);
}

function nothing() {
  state.certifying?.abort();
  for (const id of ["facts", "teachers", "histograms", "axioms", "safety"]) fill(find(id));
  fill(find("recipes"), "No ensemble is served.");
}

live.install();
row.install();
find("choose-ensemble").addEventListener("change", showEnsemble);
find("choose-recipe").addEventListener("change", showRecipe);
find("change-key").addEventListener("click", () => find("key-dialog").showModal());
find("key-later").addEventListener("click", () => find("key-dialog").close());
find("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const given = find("key").value.trim();
  if (!/^[!-~]+$/.test(given)) { // no header could carry it
    find("key-said").textContent = "This is no key: a key has only ASCII characters, and no spaces";
    return;
  }
  key.set(given);
  find("key").value = "";
  find("key-dialog").close();
  listen();
});
listen();
