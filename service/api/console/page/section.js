// A section that is filled by what the server answers: what it says no with stands in it, not what was there before.

import { fill, h } from "./dom.js";

/** Fill it; it is emptied first where it is about something else. That a key is missing is for who asked. */
export async function filled(place, { about, title = null, signal }, make) {
  if (place.dataset.about !== about) fill(place);
  place.dataset.about = about;
  try {
    const children = await make();
    if (!signal.aborted) fill(place, title, children);
  } catch (error) {
    if (signal.aborted || error.ofKey) throw error;
    fill(place, title, h("p", { class: "notice", role: "alert" }, error.message));
  }
}
