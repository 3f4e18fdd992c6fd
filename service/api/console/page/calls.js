// What may be asked of the server, as its own description says it.

import { ask } from "./api.js";
import { find, h, table } from "./dom.js";
import { filled } from "./section.js";

const DOCUMENT = "openapi.json";

function row([path, method, call]) {
  const scopes = (call.security ?? []).flatMap((one) => Object.values(one)).flat();
  return [
    h("code", {}, `${method.toUpperCase()} ${path}`), (call.description ?? call.summary).split("\n\n")[0].replaceAll("`", ""),
    [...new Set(scopes)].join(", ") || "none",
  ];
}

/** A table of all calls. */
export function show(signal) {
  return filled(find("calls"), { about: DOCUMENT, signal }, async () => {
    const { paths } = await ask(DOCUMENT, { signal });
    const all = Object.keys(paths).sort().flatMap((path) => Object.entries(paths[path]).map((one) => [path, ...one]));
    return [table("Calls", ["Call", "What it does", "Scope of its key"], all.map(row), { hidden: true })];
  });
}
