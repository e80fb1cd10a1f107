// ---- Laps, stints and fuel, as the server computes them ----
const TABLES_MS = 10000; // interval between two requests within a lap: late frames change old laps
const PITS = { none: "", in: "in", stop: "pit", out: "out" };

let tables = { text: "", session: null, lap: null, at: -Infinity };
let isFetching = false;

async function fetchTables() {
  if (isFetching || session === null || !known || document.hidden) return;
  const isNew = tables.session !== session || (frame?.lap ?? null) !== tables.lap;
  if (!isNew && performance.now() - tables.at < TABLES_MS) return;
  isFetching = true;
  const wanted = { session, lap: frame?.lap ?? null, at: performance.now() };
  const base = `../api/sessions/${encodeURIComponent(session)}`;
  $("export_csv").href = `${base}/export.csv`;
  $("export_ndjson").href = `${base}/export.ndjson`;
  try {
    const signal = AbortSignal.timeout(HISTORY_TIMEOUT_MS);
    const answer = await fetch(`${base}/timing`, { signal });
    const json = answer.ok ? await answer.text() : "";
    if (wanted.session === session) {
      if (json && json !== tables.text) paintTables(JSON.parse(json));
      tables = { ...wanted, text: json };
    }
  } catch (error) {
    console.warn("cannot fetch the laps:", error);
  }
  isFetching = false;
}
setInterval(fetchTables, 1000);

function tableRow(cells) {
  const row = document.createElement("tr");
  cells.forEach(([value, className], index) => {
    const cell = document.createElement(index ? "td" : "th");
    if (!index) cell.scope = "row";
    cell.textContent = value;
    if (className) cell.className = className;
    row.append(cell);
  });
  return row;
}

// A row with the type of the session, where several follow each other.
function typeRow(type, columns) {
  const row = document.createElement("tr");
  const cell = document.createElement("th");
  cell.colSpan = columns;
  cell.scope = "rowgroup";
  cell.className = "name";
  cell.textContent = type || "unknown session";
  row.append(cell);
  return row;
}

// The rows, newest first, with a heading whenever the type of the session changes.
function withTypes(items, columns, row) {
  const types = new Set(items.map(item => item.session_type));
  const newestFirst = [...items].reverse();
  return newestFirst.flatMap((item, index) => {
    const isOther = index === 0 || newestFirst[index - 1].session_type !== item.session_type;
    const heading = types.size > 1 && isOther ? [typeRow(item.session_type, columns)] : [];
    return [...heading, row(item)];
  });
}

function fuelToEnd({ needed, spare }) {
  const litres = value => `${number(1)(Math.abs(value))} L`;
  const rest = spare === null ? "" : `, ${litres(spare)} ${spare < 0 ? "short" : "spare"}`;
  return `${litres(needed)} needed${rest}`;
}

function paintTables({ laps, stints, fuel, session_type, ...summary }) {
  show("laps_last", lapTime(summary.last_lap));
  show("laps_best", lapTime(summary.best_lap));
  show("laps_average", lapTime(summary.average_lap));
  show("fuel_last", number(2)(fuel.last_lap));
  show("fuel_average", number(2)(fuel.average_lap));
  show("fuel_laps", number(1)(fuel.laps_left));
  show("fuel_time", duration(fuel.seconds_left));
  $("fuel_end_row").hidden = fuel.needed === null;
  show("fuel_end", fuelToEnd(fuel));
  $("laps_rows").replaceChildren(...withTypes(laps, 6, lap => {
    const about = lap.is_estimated ? "≈ " : "";
    const row = tableRow([
      [lap.lap], [about + lapTime(lap.time)], [about + number(2)(lap.fuel_used)],
      [about + number(1)(lap.wear_used)], [lap.driver, "name spare"], [PITS[lap.pit], "pit"],
    ]);
    if (lap.time === summary.best_lap && lap.session_type === session_type) row.className = "best";
    return row;
  }));
  show("laps_note", laps.some(lap => lap.is_estimated)
    ? "≈ estimated: frames of this lap are missing" : laps.length ? "" : "no complete lap yet");
  $("stint_rows").replaceChildren(...withTypes(stints, 7, stint => tableRow([
    [stint.driver || "–", "name"], [(stint.is_estimated ? "≈ " : "") + stint.laps],
    [stint.first_lap, "spare"], [clock(stint.from)], [stint.is_current ? "now" : clock(stint.to)],
    [number(1)(stint.fuel_in)], [number(1)(stint.fuel_out)],
  ])));
  show("stints_note", stints.some(stint => stint.is_estimated)
    ? "≈ frames are missing, which may hide a stop" : "");
}
