// ---- The history: one point per time slot, with the timestamp of its frame ----
const POINTS = 2000;                 // maximum points: more than a screen has columns
const HISTORY_MS = 24 * 3600 * 1000; // maximum age of a point, relative to the newest
const LAPS = 2000;                   // maximum lap times
const PAINT_MS = 1000;               // interval between repaints of the plots

let slotMs = 1000;     // doubles whenever the history needs more than POINTS slots
let slots = new Map(); // by number: the newest point in the slot
let oldest = Infinity;
let newest = -Infinity;
let isPainted = true;

const WHEEL_NAMES = ["fl", "fr", "rl", "rr"];

// `arrivedAt` is when the server received the frame, by its clock; NaN if that is not known.
function remember(frame, arrivedAt) {
  const at = Date.parse(frame?.timestamp);
  if (isNaN(at) || at <= newest - HISTORY_MS) return;
  const warm = WHEEL_NAMES.map(wheel =>
    frame.tire_temps?.[wheel] > -273 ? frame.tire_temps[wheel] : null);
  keepPoint(at, arrivedAt - at, frame.fuel, warm, warm, warm);
  rememberLap(frame, at);
  isPainted = false;
}

// Remembers a stretch that the server summarized: its newest frame, and the range of each tyre.
function rememberStretch(stretch) {
  if (stretch.at <= newest - HISTORY_MS) return;
  const { at, received_at, fuel, temps, lowest, highest } = stretch;
  keepPoint(at, received_at - at, fuel, temps, lowest, highest);
  rememberLap(stretch, at);
  isPainted = false;
}

// The lowest and the highest values keep a peak visible when a slot covers many frames.
function keepPoint(at, delay, fuel, temps, lowest, highest) {
  const byWheel = values => Object.fromEntries(WHEEL_NAMES.map((wheel, i) => [wheel, values[i]]));
  const [low, high] = [byWheel(lowest), byWheel(highest)];
  keep({ at, delay, fuel: fuel ?? null, ...byWheel(temps), low, high });
}

// The newer of two points of a slot, with the range of both.
function merged(one, other) {
  const newer = one.at > other.at ? one : other;
  const both = (choose, name) => Object.fromEntries(WHEEL_NAMES.map(wheel => {
    const values = [one[name][wheel], other[name][wheel]].filter(value => value !== null);
    return [wheel, values.length ? choose(...values) : null];
  }));
  return { ...newer, low: both(Math.min, "low"), high: both(Math.max, "high") };
}

function keep(point) {
  const slot = Math.floor(point.at / slotMs);
  slots.set(slot, slots.has(slot) ? merged(slots.get(slot), point) : point);
  oldest = Math.min(oldest, point.at);
  newest = Math.max(newest, point.at);
  const start = newest - HISTORY_MS;
  if (oldest < start) {
    slots = new Map([...slots].filter(([, { at }]) => at >= start));
    oldest = start;
  }
  if ((newest - oldest) / slotMs > POINTS) {
    const points = slots.values();
    slots = new Map();
    slotMs *= 2;
    for (const point of points) keep(point);
  }
}

// ---- Replayed stretches ----
// After an outage the missing frames arrive together: the older a frame, the later it is. So a frame
// counts as replayed if one that was captured up to a minute later had a delay that was shorter by
// more than LATE_MS. This compares neighbours only: clocks that differ, or a clock that is set, do
// not mark a whole history. Frames of a server that is always too slow are not marked.
const LATE_MS = 2000;
const NEIGHBOUR_MS = 60_000;

// The replayed stretches, each from the first to the last of its points. `points` are in
// chronological order.
function replayedStretches(points) {
  const known = points.filter(({ delay }) => Number.isFinite(delay));
  const withinMs = Math.max(NEIGHBOUR_MS, 2 * slotMs);
  const stretches = [];
  let wasReplayed = false;
  // The minimum of a sliding window: a queue of points with increasing delays.
  let [end, queue] = [0, []];
  known.forEach((point, index) => {
    for (; end < known.length && known[end].at - point.at <= withinMs; end++) {
      while (queue.length && known[queue[queue.length - 1]].delay >= known[end].delay) queue.pop();
      queue.push(end);
    }
    while (queue[0] < index) queue.shift();
    const isReplayed = point.delay - known[queue[0]].delay > LATE_MS;
    if (isReplayed && wasReplayed) stretches[stretches.length - 1].to = point.at;
    else if (isReplayed) stretches.push({ from: point.at, to: point.at });
    wasReplayed = isReplayed;
  });
  return stretches;
}

function forgetHistory() {
  slots.clear();
  laps.clear();
  [slotMs, oldest, newest, isPainted] = [1000, Infinity, -Infinity, false];
}

// The plotted points in chronological order.
const plotted = () => [...slots.values()].sort((a, b) => a.at - b.at);

// ---- Lap times ----
// The start of a lap is computed from its running time. If that does not advance (the game is
// paused, or a source sends the last lap's time instead), the longest time seen is used.
const STEADY_MS = 1000;
const laps = new Map(); // by session and number

function rememberLap({ session_type, lap, lap_time }, at) {
  if (!Number.isInteger(lap) || !Number.isFinite(lap_time) || lap_time < 0) return;
  const name = number => `${text(session_type).slice(0, 100)}/${number}`;
  const began = at - lap_time * 1000;
  const seen = laps.get(name(lap))
    ?? { next: name(lap + 1), at, earliest: began, latest: began, longest: 0 };
  seen.at = Math.min(seen.at, at);
  seen.earliest = Math.min(seen.earliest, began);
  seen.latest = Math.max(seen.latest, began);
  seen.longest = Math.max(seen.longest, lap_time);
  laps.set(name(lap), seen);
  if (laps.size > LAPS) laps.delete(laps.keys().next().value);
}

// The completed laps, each at the time at which the next one began.
function lapTimes() {
  const isSteady = lap => lap.latest - lap.earliest < STEADY_MS;
  const over = [...laps.values()].filter(lap => laps.has(lap.next)).map(lap => {
    const next = laps.get(lap.next);
    const exact = isSteady(lap) && isSteady(next);
    return { at: next.at, lap: exact ? (next.earliest - lap.earliest) / 1000 : lap.longest };
  });
  return over.filter(({ lap }) => lap > 0).sort((a, b) => a.at - b.at);
}

// ---- Plots ----
const REPLAYED_LISTED = 3; // maximum replayed stretches that are listed with their times

const xOf = at => newest > oldest ? 1000 * (at - oldest) / (newest - oldest) : 1000;

// Shades the replayed stretches in all plots, and labels the last one.
function paintReplayed(stretches) {
  const bands = stretches.map(({ from, to }) =>
    `M${xOf(from).toFixed(1)} 0V100H${(Math.max(xOf(to), xOf(from) + 2)).toFixed(1)}V0Z`).join("");
  for (const band of document.querySelectorAll(".band")) band.setAttribute("d", bands);
  const last = stretches[stretches.length - 1];
  for (const label of document.querySelectorAll(".plot > span")) {
    label.hidden = !last;
    // The label takes 5rem at most.
    if (last) label.style.left = `min(${xOf(last.from) / 10}%, 100% - 5rem)`;
  }
  const times = stretches.slice(-REPLAYED_LISTED).map(({ from, to }) => `${second(from)} to ${second(to)}`);
  const earlier = stretches.length > times.length ? ", and earlier" : "";
  show("replayed", last ? `Shaded: replayed, which means that the frames arrived late: ${times.join(", ")}${earlier}` : "");
}

// A line through the points, interrupted at gaps longer than `gapMs`, with the peaks within a point's
// slot.
function line(points, field, gapMs, y) {
  let path = "";
  let last = { at: -Infinity };
  for (const point of points) {
    if (!Number.isFinite(point[field])) continue;
    const to = `${xOf(point.at).toFixed(1)} ${y(point[field]).toFixed(1)}`;
    const goesOn = point.at - last.at <= gapMs;
    path += goesOn ? `L${to}` : `M${to}h0`;
    const ends = goesOn ? [last[field], point[field]] : [point[field]];
    const isPeak = value => Number.isFinite(value) && (value > Math.max(...ends) || value < Math.min(...ends));
    const peaks = [point.high?.[field], point.low?.[field]].filter(isPeak);
    for (const peak of peaks) path += `V${y(peak).toFixed(1)}`;
    if (peaks.length) path += `L${to}`;
    last = point;
  }
  return path;
}

function plot(name, title, fields, points, gapMs, format, words) {
  const all = (point, field) => [point[field], point.low?.[field], point.high?.[field]];
  const values = fields.flatMap(field => points.flatMap(point => all(point, field)))
    .filter(Number.isFinite);
  const low = values.reduce((a, b) => Math.min(a, b), Infinity);
  const high = values.reduce((a, b) => Math.max(a, b), -Infinity);
  // A lap with a stop is drawn at the upper edge, so that it does not squash the others.
  const top = name === "laps" ? robustHigh(values) : high;
  const y = value => top > low ? 95 - 90 * (Math.min(value, top) - low) / (top - low) : 50;
  for (const field of fields)
    $(`${field === "lap" ? "laps" : field}_line`).setAttribute("d", line(points, field, gapMs, y));
  paintAxes(name, { fields, points, low, top, y, format });
  if (name === "laps") paintOutliers(points.filter(({ lap }) => lap > top));
  const said = values.length ? words(low, high, points[points.length - 1]) : "nothing yet";
  show(`${name}_range`, said);
  show(`${name}_title`, `${title}: ${said}`);
}

function paintPlots() {
  if (isPainted) return;
  isPainted = true;
  const points = plotted();
  const gapMs = Math.max(STALE_MS, 3 * slotMs);
  plot("fuel", "Fuel in litres", ["fuel"], points, gapMs, number(1),
    (low, high) => `${number(1)(low)} to ${number(1)(high)}`);
  plot("tyres", "Tyre temperatures in °C", ["fl", "fr", "rl", "rr"], points, gapMs, number(0),
    (low, high) => `${number(0)(low)} to ${number(0)(high)}`);
  plot("laps", "Lap times", ["lap"], lapTimes(), 0, lapTime,
    (low, high, { lap }) => `last ${lapTime(lap)}, best ${lapTime(low)}`);
  paintReplayed(replayedStretches(points));
}
setInterval(paintPlots, PAINT_MS);
