// Shows the newest frame and its age, and keeps the connection to the server.
const STALE_MS = 5000;
const HISTORY_TIMEOUT_MS = 30000;
const LATEST_RETRY_MS = 2000;
const path = decodeURIComponent(location.pathname.split("/").pop());
// The page at /dashboard/latest shows the newest session, also of a server that replaces this one.
const isLatest = path === "latest";
let session = isLatest ? null : path;
let frame = null;       // the newest frame
let movedAt = null;     // when it arrived, on this page's clock
let link = "connecting";
let known = true;       // the server knows the session
let serverTimeMs = NaN; // the server's clock minus performance.now()

const gear = value => value === -1 ? "R" : value === 0 ? "N" : number(0)(value);

const FIELDS = {
  player_name: value => text(value) || "Dashboard", car_name: text, track_name: text,
  session_type: text, position: number(0), lap: number(0), lap_time: lapTime, speed: number(0),
  gear, rpm: number(0), fuel: number(1), fuel_capacity: number(0), engine_water_temp: degrees,
  track_temp: degrees, ambient_temp: degrees,
};
const WHEELS = [
  ["Tyre", "°C", "tire_temps", degrees], ["Pressure", "PSI", "tire_pressures", number(1)],
  ["Wear", "%", "tire_wear", number(1)], ["Brake", "°C", "brake_temps", degrees],
];
for (const [label, unit, field] of WHEELS) {
  const row = $("wheels").insertRow();
  const head = document.createElement("th");
  const small = document.createElement("small");
  head.scope = "row";
  small.textContent = unit;
  head.append(label + " ", small);
  row.append(head);
  for (const wheel of ["fl", "fr", "rl", "rr"]) row.insertCell().id = `${field}.${wheel}`;
}

function paintFrame() {
  for (const field in FIELDS) show(field, FIELDS[field](frame[field]));
  for (const [, , field, format] of WHEELS)
    for (const wheel of ["fl", "fr", "rl", "rr"])
      show(`${field}.${wheel}`, format((frame[field] ?? {})[wheel]));
  $("tank").max = frame.fuel_capacity > 0 ? frame.fuel_capacity : 1;
  $("tank").value = Number.isFinite(frame.fuel) ? frame.fuel : 0;
  paintState();
}

function paintState() {
  const age = movedAt === null ? Infinity : performance.now() - movedAt;
  const live = link === "joined" && age < STALE_MS;
  show("state", link === "connecting" ? "Connecting …"
    : link === "lost" ? "No connection to the server"
    : session === null ? "Waiting for the first session"
    : !known ? "The server does not know this session" : frame === null
    ? "Waiting for the first frame" : live ? "Live" : "Stale: no new frame");
  $("state").classList.toggle("live", live);
  $("main").classList.toggle("stale", !live);
  const names = [frame?.player_name, frame?.car_name].map(text).filter(Boolean);
  const title = [live ? "" : frame === null ? "Waiting" : "Stale", ...names];
  document.title = title.filter(Boolean).join(" · ") || "Dashboard";
  const captured = new Date(frame?.timestamp);
  show("age", isNaN(captured) ? "" : (live ? "" : "last one of ") + second(captured));
}
setInterval(paintState, 500);

function takeFrame(next) {
  known = true;
  remember(next, link === "joined" ? performance.now() + serverTimeMs : NaN);
  // A frame that fills a gap in the history is older than the one shown.
  if (frame !== null && Date.parse(next.timestamp) < Date.parse(frame.timestamp)) return;
  // On joining, the server sends the newest frame that it stored, which may be an hour old.
  const old = link !== "joined" && !(Date.now() - Date.parse(next.timestamp) < STALE_MS);
  if (!old && next.timestamp !== frame?.timestamp) movedAt = performance.now();
  if (frame === null || next.timestamp !== frame.timestamp) requestAnimationFrame(paintFrame);
  frame = next;
}

// A list of the session from the server; empty if the server does not know the session, or the page
// shows another one by now.
async function fetchList(what) {
  const wanted = session;
  const url = `../api/sessions/${encodeURIComponent(wanted)}/${what}`;
  const answer = await fetch(url, { signal: AbortSignal.timeout(HISTORY_TIMEOUT_MS) });
  if (answer.status === 404) known = false;
  // The header has whole seconds.
  const date = Date.parse(answer.headers.get("date")) + 500;
  if (!isNaN(date)) serverTimeMs = date - performance.now();
  const list = answer.ok ? await answer.json() : [];
  return wanted === session ? list : [];
}

// Fetches the frames and setups from before this page was opened or while it was disconnected.
async function fetchHistory() {
  try {
    for (const stretch of await fetchList(`series?points=${POINTS}`)) rememberStretch(stretch);
    await fetchSetups();
  } catch (error) {
    console.warn("cannot fetch the history:", error);
  }
  paintState();
}

// Two setups are enough to say what has changed; a setup may have a megabyte.
async function fetchSetups() {
  (await fetchList(`setups?newest=${$("setup").open ? SETUPS : 2}`)).forEach(takeSetup);
}
$("setup").ontoggle = () => {
  if ($("setup").open && session !== null)
    fetchSetups().catch(error => console.warn("cannot fetch the setups:", error));
};

// The newest session of the server; null if it has none.
async function newestSession() {
  const answer = await fetch("../api/sessions", { signal: AbortSignal.timeout(HISTORY_TIMEOUT_MS) });
  if (!answer.ok) throw new Error(`api/sessions answers ${answer.status}`);
  return (await answer.json()).at(-1)?.session_id ?? null;
}

// ---- A minimal Socket.IO client: Engine.IO 4 ----
let attempt = 0;

function connect() {
  const socket = openTransport();
  let patience = 20000; // ms of silence after which the connection counts as lost
  let watchdog = 0;
  const heard = () => {
    clearTimeout(watchdog);
    watchdog = setTimeout(lost, patience);
  };
  const lost = () => {
    clearTimeout(watchdog);
    socket.onmessage = socket.onclose = null;
    socket.close();
    link = "lost";
    paintState();
    const wait = Math.min(10000, 500 * 2 ** attempt++);
    setTimeout(connect, wait * (0.5 + Math.random() / 2));
  };
  const join = async () => {
    const newest = isLatest ? await newestSession() : session;
    if (socket.readyState !== WebSocket.OPEN) return;
    if (newest === null) {
      link = "waiting";
      paintState();
      setTimeout(() => join().catch(lost), LATEST_RETRY_MS);
      return;
    }
    if (session !== newest) {
      // Another session has another history.
      forgetHistory();
      forgetSetups();
      frame = movedAt = null;
      session = newest;
    }
    socket.send("420" + JSON.stringify(["join_session", { session_id: session }]));
  };
  heard();
  socket.onclose = lost;
  socket.onmessage = ({ data }) => {
    heard();
    if (data === "2") return socket.send("3");                    // ping
    if (data.startsWith("0")) {                                   // Engine.IO is open
      const { pingInterval, pingTimeout } = JSON.parse(data.slice(1));
      patience = pingInterval + pingTimeout;
      return socket.send("40");
    }
    if (data.startsWith("40")) return join().catch(lost);         // Socket.IO is connected
    if (data.startsWith("430")) {                                 // our join is acknowledged
      attempt = 0;
      link = "joined";
      paintState();
      return fetchHistory();
    }
    if (data === "1" || data.startsWith("41") || data.startsWith("44")) return lost();
    if (data.startsWith("42")) {                                  // an event
      let event;
      try { event = JSON.parse(data.slice(2)); } catch { return; }  // a bare NaN, for one
      const [name, update] = event;
      if (!isObject(update) || update.session_id !== session) return;
      if (name === "telemetry_update" && isObject(update.telemetry)) takeFrame(update.telemetry);
      if (name === "setup_update") takeSetup(update);
    }
  };
}
connect();
