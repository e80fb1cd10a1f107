// ---- The setup: every value with its flattened name, next to its previous value ----
const SETUP_VALUES = 20000; // maximum values of a setup
const SETUP_ROWS = 1000;    // maximum rows shown
const SETUP_DEPTH = 20;     // deeper values are not flattened

let setups = []; // the newest two that differ, the older one first

function flatten(value, name, depth, values) {
  if (values.size >= SETUP_VALUES) return;
  const isLeaf = typeof value !== "object" || value === null || Object.keys(value).length === 0;
  if (isLeaf || depth === 0) {
    const leaf = isLeaf ? value : Array.isArray(value) ? "[…]" : "{…}";
    values.set(name || "setup", typeof leaf === "string" ? leaf : JSON.stringify(leaf));
    return;
  }
  for (const [key, inner] of Object.entries(value))
    flatten(inner, name ? `${name}.${key}` : key, depth - 1, values);
}

function takeSetup({ setup, timestamp }) {
  const values = new Map();
  flatten(setup ?? null, "", SETUP_DEPTH, values);
  const [at, whole] = [Date.parse(timestamp), JSON.stringify([...values])];
  // The server resends the same setup on joining: that is not a change.
  setups = [...setups, { at, whole, values }].sort((a, b) => a.at - b.at || 0)
    .filter((one, index, all) => one.whole !== all[index - 1]?.whole).slice(-2);
  paintSetup();
}

function paintSetup() {
  const now = setups[setups.length - 1];
  if (!now) return;
  const before = setups.length > 1 ? setups[0].values : now.values;
  const wanted = $("filter").value.trim().toLowerCase();
  let [changes, found] = [0, 0];
  const rows = [];
  const names = new Set([...now.values.keys(), ...before.keys()]);
  for (const name of names) {
    const [value, was] = [now.values.get(name), before.get(name)];
    const isChanged = value !== was;
    if (isChanged) changes++;
    if ($("changed").checked && !isChanged) continue;
    if (!`${name} ${value}`.toLowerCase().includes(wanted)) continue;
    if (++found <= SETUP_ROWS) rows.push(setupRow(name, value, was, isChanged));
  }
  $("rows").replaceChildren(...rows);
  const of = isNaN(now.at) ? "" : `of ${clock(now.at)}, `;
  show("setup_summary", of + (setups.length < 2 ? "the first"
    : `${changes} ${changes === 1 ? "change" : "changes"} since the one before`));
  show("found", `${found} of ${names.size}` + (found > SETUP_ROWS ? `, ${SETUP_ROWS} shown` : ""));
}

function setupRow(name, value, was, isChanged) {
  const row = document.createElement("tr");
  const head = document.createElement("th");
  head.scope = "row";
  head.textContent = name;
  row.append(head);
  const cell = row.insertCell();
  const shown = isChanged ? document.createElement("mark") : cell;
  shown.textContent = value ?? "gone";
  if (isChanged) cell.append(shown);
  row.insertCell().textContent = isChanged ? was ?? "new" : "";
  return row;
}
$("filter").oninput = $("changed").onchange = paintSetup;
$("search").onsubmit = event => event.preventDefault();
