// ---- The axes of the plots, and the reading under the pointer ----
const TICKS = 5; // maximum labelled times
const TICK_STEPS_MS = [5, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200]
  .map(seconds => seconds * 1000);
const OUTLIER_SPREADS = 4; // a lap this many spreads above the median is an outlier
const MIN_SPREAD = 0.002;  // the smallest spread of the faster half, as a share of the median

const shown = {}; // the plots as painted, by name

for (const name of ["fuel", "tyres", "laps"]) {
  const box = $(`${name}_title`).closest(".plot");
  const make = (kind, className) => {
    const made = document.createElement(kind);
    made.className = className;
    box.append(made);
    return made;
  };
  const parts = {
    box, high: make("i", "axis"), low: make("i", "axis"), cursor: make("div", "cursor"),
    reading: make("output", ""), ticks: box.parentElement.querySelector(".ticks"),
  };
  parts.high.style.top = "0";
  parts.low.style.bottom = "0";
  parts.cursor.hidden = parts.reading.hidden = true;
  shown[name] = parts;
  const read = event => readAt(name, event.clientX);
  box.addEventListener("pointermove", read);
  box.addEventListener("pointerdown", read);
  box.addEventListener("pointerleave", () => {
    parts.cursor.hidden = parts.reading.hidden = true;
  });
}

// The upper end of the scale: the highest value that is not an outlier. The spread is that of the
// faster laps, because only slower ones are outliers.
function robustHigh(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const median = sorted[Math.floor(sorted.length / 2)];
  const spread = Math.max(median - sorted[Math.floor(sorted.length / 10)], MIN_SPREAD * median);
  const limit = median + OUTLIER_SPREADS * spread;
  return sorted.findLast(value => value <= limit) ?? -Infinity;
}

function paintAxes(name, plot) {
  const parts = Object.assign(shown[name], plot);
  const { box, low, top, format, high: highLabel, ticks } = parts;
  const isEmpty = !Number.isFinite(low);
  highLabel.textContent = isEmpty || top === low ? "" : format(top);
  parts.lowLabel ??= box.querySelectorAll(".axis")[1];
  parts.lowLabel.textContent = isEmpty ? "" : format(low);
  const times = tickTimes();
  box.querySelector(".grid").setAttribute("d",
    "M0 5H1000M0 50H1000M0 95H1000" + times.map(at => `M${xOf(at).toFixed(1)} 0V100`).join(""));
  ticks.replaceChildren(...times.map(at => {
    const label = document.createElement("span");
    label.textContent = tickStep() < 60000 ? second(at) : clock(at);
    label.style.left = `${xOf(at) / 10}%`;
    return label;
  }));
}

const tickStep = () =>
  TICK_STEPS_MS.find(step => (newest - oldest) / step <= TICKS) ?? 24 * 3600 * 1000;

// Round times of the local clock within the history, away from its ends, where a label is cut off.
function tickTimes() {
  if (!(newest > oldest)) return [];
  const span = newest - oldest;
  const step = tickStep();
  const offset = new Date(newest).getTimezoneOffset() * 60000;
  const times = [];
  for (let at = Math.ceil((oldest - offset) / step) * step + offset; at <= newest; at += step)
    if (at - oldest > span / 20 && newest - at > span / 20) times.push(at);
  return times;
}

function paintOutliers(points) {
  $("laps_slow").setAttribute("d", points.map(({ at }) => `M${xOf(at).toFixed(1)} 5h0`).join(""));
}

const READING_NAMES = { fuel: "", lap: "", fl: "FL ", fr: "FR ", rl: "RL ", rr: "RR " };

// Shows the values of the point that is closest to a position on the screen.
function readAt(name, clientX) {
  const { box, fields, points, format, cursor, reading } = shown[name];
  if (!points?.length) return;
  const { left, width } = box.getBoundingClientRect();
  const wanted = oldest + (newest - oldest) * (clientX - left) / width;
  const distance = ({ at }) => Math.abs(at - wanted);
  const point = points.reduce((best, next) => distance(next) < distance(best) ? next : best);
  const values = fields.filter(field => Number.isFinite(point[field]))
    .map(field => READING_NAMES[field] + format(point[field]));
  reading.textContent = [second(point.at), ...values].join(" · ");
  cursor.hidden = reading.hidden = false;
  cursor.style.left = `${xOf(point.at) / 10}%`;
  const space = width - reading.offsetWidth;
  reading.style.left = `${Math.max(0, Math.min(space, xOf(point.at) / 1000 * width + 4))}px`;
}
