// ---- The list of sessions: a live row for each car ----
const REFRESH_MS = 2000;
const TIMEOUT_MS = 10000;

const STATES = { waiting: "waiting", live: "live", stale: "stale", ended: "ended" };
const day = at => new Date(at).toLocaleDateString("en-CA");
const started = at => !Number.isFinite(at) ? "–"
  : day(at) === day(Date.now()) ? clock(at) : `${day(at)} ${clock(at)}`;
const place = ({ track, session_type }) => [track, session_type].filter(Boolean).join(" · ");

// Heading, class and text of each column after the name.
const COLUMNS = [
  ["Track", "name", place],
  ["Position", "", car => car.position || "–"],
  ["Lap", "", car => car.lap ?? "–"],
  ["Last lap", "", car => lapTime(car.last_lap)],
  ["Best lap", "", car => lapTime(car.best_lap)],
  ["Fuel L", "", car => number(1)(car.fuel.litres)],
  ["Fuel for", "", ({ fuel }) =>
    fuel.laps_left === null ? "–" : `${number(1)(fuel.laps_left)} laps`],
  ["Frames", "", car => String(car.frames)],
  ["Started", "", car => started(car.started_at)],
  ["Last frame", "", ({ silent_ms }) =>
    silent_ms === null ? "–" : `${duration(silent_ms / 1000)} ago`],
];
for (const [heading, className] of [["State", "state"], ["Driver and car", "name"], ...COLUMNS]) {
  const cell = document.createElement("th");
  cell.scope = "col";
  cell.className = className;
  cell.textContent = heading;
  $("columns").append(cell);
}

let overview = null; // the last answer of the server
let isConnected = false;
const rows = new Map(); // by session id, so that an update keeps the focus

function newRow(id) {
  const row = document.createElement("tr");
  row.insertCell().className = "state";
  const name = document.createElement("th");
  name.scope = "row";
  name.className = "name";
  const link = document.createElement("a");
  link.href = `dashboard/${encodeURIComponent(id)}`;
  name.append(link, document.createElement("small"));
  row.append(name);
  for (const [heading, className] of COLUMNS) {
    const cell = row.insertCell();
    cell.className = className;
    cell.dataset.label = heading;
  }
  return row;
}

function fill(element, value) {
  if (element.textContent !== value) element.textContent = value;
}

function paintRow(row, car) {
  row.className = car.state;
  fill(row.cells[0], STATES[car.state] ?? "");
  const [link, small] = row.cells[1].children;
  fill(link, car.driver || `Session ${car.session_id.slice(0, 8)}`);
  fill(small, car.car);
  COLUMNS.forEach(([, , value], index) => fill(row.cells[index + 2], String(value(car))));
}

function paint() {
  const live = overview?.sessions.filter(({ state }) => state === "live").length ?? 0;
  const all = overview ? overview.sessions.length + overview.not_listed : 0;
  show("summary", !isConnected ? "No connection to the server" : `${live} live of ${all}`);
  document.title = isConnected ? `${live} live · pitwire` : "No connection · pitwire";
  if (overview === null) return;
  const wanted = $("filter").value.trim().toLowerCase();
  const found = overview.sessions.filter(car => {
    const words = [car.driver, car.car, car.track, car.session_type, car.session_id];
    return (!$("live_only").checked || car.state === "live")
      && words.join(" ").toLowerCase().includes(wanted);
  });
  const kept = new Set(overview.sessions.map(car => car.session_id));
  for (const id of rows.keys()) if (!kept.has(id)) rows.delete(id);
  const painted = found.map(car => {
    if (!rows.has(car.session_id)) rows.set(car.session_id, newRow(car.session_id));
    paintRow(rows.get(car.session_id), car);
    return rows.get(car.session_id);
  });
  const isSame = painted.length === $("rows").children.length
    && painted.every((row, index) => row === $("rows").children[index]);
  if (!isSame) $("rows").replaceChildren(...painted);
  const older = overview.not_listed ? `${overview.not_listed} older sessions are not listed.` : "";
  show("note", all === 0 ? "None yet. A session begins when a car connects."
    : found.length === 0 ? "No session matches." : older);
}

async function refresh() {
  if (!document.hidden || overview === null) {
    try {
      const answer = await fetch("api/overview", { signal: AbortSignal.timeout(TIMEOUT_MS) });
      isConnected = answer.ok;
      if (answer.ok) overview = await answer.json();
    } catch {
      isConnected = false;
    }
    paint();
  }
  setTimeout(refresh, REFRESH_MS);
}
$("filter").oninput = $("live_only").onchange = paint;
$("search").onsubmit = event => event.preventDefault();
refresh();
