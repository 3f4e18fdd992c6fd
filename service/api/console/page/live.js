// Live figures: what has changed between two looks, as numbers and as lines.

import { counted, figure, fill, find, h, percent, refill, table } from "./dom.js";

const LONGEST = 180; // points, one a second
const OVER = 30; // seconds that percentiles are of
const looks = []; // what the server counted
const points = []; // what follows

const total = (counts) => Object.values(counts).reduce((sum, count) => sum + count, 0);
const minus = (one, other) => one.map((count, index) => count - (other[index] ?? 0));

/** A quantile of a histogram, interpolated within its bucket; null where it is empty. */
export function quantile({ edges, counts }, share) {
  const wanted = share * counts.reduce((sum, count) => sum + count, 0);
  if (!wanted) return null;
  let before = 0;
  for (const [index, count] of counts.entries()) {
    if (count && before + count >= wanted) {
      const low = index ? edges[index - 1] : 0;
      const high = edges[index] ?? low; // beyond the last edge nothing is known
      return low + ((high - low) * (wanted - before)) / count;
    }
    before += count;
  }
  return null;
}

function derive(now) {
  const last = looks.at(-2) ?? now;
  const seconds = now.time - last.time;
  const far = looks.find((one) => one.time >= now.time - OVER) ?? now;
  const rate = (count, before) => (seconds > 0 ? Math.max(0, count - before) / seconds : 0);
  const asked = total(now.rows) - total(last.rows);
  const recent = total(now.rows) - total(far.rows);
  const hits = (one) => (one.rows.hit ?? 0) + (one.rows.opinions ?? 0);
  const latency = { edges: now.latency.edges, counts: minus(now.latency.counts, far.latency.counts) };
  const batches = now.batches.count - far.batches.count;
  return {
    time: now.time,
    rows: seconds > 0 ? rate(asked, 0) : 0,
    hits: recent > 0 ? (hits(now) - hits(far)) / recent : null,
    p50: quantile(latency, 0.5),
    p95: quantile(latency, 0.95),
    p99: quantile(latency, 0.99),
    queued: now.queued_rows,
    batch: batches > 0 ? (now.batches.rows - far.batches.rows) / batches : null,
  };
}

const ms = (seconds) => (seconds === null ? null : seconds * 1000);
const TILES = [
  { name: "Rows a second", keys: ["rows"], shown: (p) => figure(p.rows), note: () => "" },
  {
    name: "From the cache", keys: ["hits"], shown: (p) => percent(p.hits), scale: 100, top: 100, unit: " %",
    note: () => `of rows, last ${OVER} s`,
  },
  {
    name: "Latency, ms", keys: ["p50", "p95"], shown: (p) => figure(ms(p.p50)), scale: 1000,
    note: (p) => `median; p95 ${figure(ms(p.p95))}, p99 ${figure(ms(p.p99))}`,
  },
  {
    name: "Batch, rows", keys: ["batch", "queued"], shown: (p) => figure(p.batch),
    note: (p) => `mean; ${counted(p.queued, "row waits", "rows wait")} (dashed)`,
  },
];

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function drawn(tile, width, data) {
  const line = (dash) => ({ stroke: colour(dash ? "--muted" : "--accent"), width: dash ? 1 : 1.5, dash, points: { show: false } });
  const axis = { stroke: colour("--muted"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false } };
  return new uPlot({
    width,
    height: 96,
    legend: { show: false },
    cursor: { show: false },
    scales: {
      x: { time: false, range: (_, __, high) => [high - LONGEST, high] },
      y: { range: (_, __, high) => [0, tile.top ?? Math.max(1, (high ?? 0) * 1.1)] },
    },
    axes: [{ show: false }, { ...axis, size: 44, font: `11px ${colour("--font")}`, space: 28, values: (_, ticks) => ticks.map((tick) => figure(tick) + (tile.unit ?? "")) }],
    series: [{}, line(), line([4, 3])].slice(0, 1 + tile.keys.length),
  }, data, tile.chart);
}

function data(tile) {
  const scale = tile.scale ?? 1;
  return [points.map((p) => p.time), ...tile.keys.map((name) => points.map((p) => (p[name] === null ? null : p[name] * scale)))];
}

function redraw(tile) {
  tile.plot?.destroy();
  const width = tile.chart.clientWidth;
  tile.plot = width ? drawn(tile, width, data(tile)) : null;
}

/** Make the tiles. */
export function install() {
  fill(find("tiles"), TILES.map((tile) => {
    tile.value = h("strong", {}, "–");
    tile.told = h("span", { class: "hint" }, tile.note({ p95: null, p99: null, queued: null }));
    tile.chart = h("div", { class: "chart", role: "img", "aria-label": tile.name });
    return h("figure", { class: "tile" }, h("figcaption", {}, tile.name), h("p", {}, tile.value, " ", tile.told), tile.chart);
  }));
  const again = () => TILES.forEach(redraw);
  new ResizeObserver(again).observe(find("tiles"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
  find("live-table").addEventListener("toggle", tabulate);
}

function tabulate() {
  if (!find("live-table").open) return;
  const rows = points.filter((_, index) => (points.length - 1 - index) % 5 === 0).slice(-12).reverse().map((p) => [
    new Date(p.time * 1000).toLocaleTimeString("en-GB"),
    figure(p.rows), percent(p.hits), figure(ms(p.p50)), figure(ms(p.p95)), figure(ms(p.p99)), figure(p.batch), figure(p.queued),
  ]);
  const made = table("Live figures, every five seconds, the newest first",
    ["Time", "#Rows a second", "#From the cache", "#Median, ms", "#p95, ms", "#p99, ms", "#Batch, rows", "#Waiting, rows"], rows);
  refill(find("live-table").querySelector(".scroll"), [made.firstChild]);
}

/** Take in a look, and show what follows. */
export function show(now) {
  // A server that was started again counts from 0.
  if (looks.length && total(now.rows) < total(looks.at(-1).rows)) looks.length = points.length = 0;
  looks.push(now);
  points.push(derive(now));
  if (looks.length > LONGEST) looks.shift();
  if (points.length > LONGEST) points.shift();
  const point = points.at(-1);
  for (const tile of TILES) {
    tile.value.textContent = tile.shown(point);
    tile.told.textContent = tile.note(point);
    tile.chart.setAttribute("aria-label", `${tile.name}, a line over the last minutes; now ${tile.shown(point)} ${tile.note(point)}`);
    if (tile.plot) tile.plot.setData(data(tile));
    else redraw(tile);
  }
  tabulate();
}
