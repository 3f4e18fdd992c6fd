// Asking the server, with the key of this tab.

const STORED = "soft-targets-key";

export const key = {
  get: () => sessionStorage.getItem(STORED),
  set: (value) => sessionStorage.setItem(STORED, value),
  forget: () => sessionStorage.removeItem(STORED),
};

/** What the server says no with; 0 where it says nothing. */
export class Refused extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }

  /** Whether another key may help. */
  get ofKey() {
    return this.status === 401 || this.status === 403;
  }
}

async function reached(work) {
  try {
    return await work;
  } catch (error) {
    throw error.name === "AbortError" ? error : new Refused(0, "", "The server does not answer");
  }
}

async function request(path, { body, signal } = {}) {
  const headers = { Accept: "application/json" };
  if (key.get()) headers.Authorization = `Bearer ${key.get()}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const reply = await reached(fetch(path, {
    method: body === undefined ? "GET" : "POST",
    body,
    headers,
    signal,
    cache: "no-store",
    credentials: "omit",
  }));
  if (reply.ok) return reply;
  const said = await reply.json().catch(() => ({}));
  throw new Refused(reply.status, said.code ?? "", said.error ?? `the server answered ${reply.status}`);
}

/** A document; a body is a text that is JSON already, or what becomes one. */
export async function ask(path, { body, ...rest } = {}) {
  const text = body === undefined || typeof body === "string" ? body : JSON.stringify(body);
  return reached((await request(path, { ...rest, body: text })).json());
}

/** Server-sent events of one connection, as documents. By fetch: an EventSource cannot send a key. */
export async function* events(path, signal) {
  const reply = await request(path, { signal });
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reached(reader.read());
    if (done) return;
    text += value;
    const parts = text.split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const data = part.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trim());
      if (data.length) yield JSON.parse(data.join("\n"));
    }
  }
}

/** The address of an ensemble's part. */
export const of = (ensemble, ...rest) => ["v1", "ensembles", ensemble, ...rest].map(encodeURIComponent).join("/");
