// ---- The setup: every value with its flattened name, next to its value in another setup ----
const SETUPS = 50;          // maximum setups to choose from, the newest ones
const SETUP_VALUES = 20000; // maximum values of a setup
const SETUP_ROWS = 1000;    // maximum rows shown
const SETUP_DEPTH = 20;     // deeper values are not flattened

const WHEEL = /^WM_(.+)-W_([FR][LR])$/;
const WORDS = {
  ANTILOCKBRAKESYSTEMMAP: "ABS map", TRACTIONCONTROLMAP: "traction control map",
  REVLIMITSETTING: "rev limit", ANTISWAY: "anti-roll bar",
};
// The first group that matches the key of a setting.
const GROUPS = [
  ["Wheels and suspension", /^WM_|ANTISWAY|TOE|CAMBER|SPRING|DAMPER|BUMP|REBOUND|RIDE|TIRE/],
  ["Brakes", /BRAKE|ANTILOCK/],
  ["Aerodynamics and cooling", /WING|RADIATOR|SPLITTER|DUCT/],
  ["Engine and drivetrain", /ENGINE|DIFF|GEAR|REV|TRACTION|FUEL|BOOST|REGEN|ENERGY|RATIO|FINAL/],
  ["Controls and others", /^VM_/],
];
const OTHER_VALUES = "Other values";

let setups = []; // the oldest first, each of which differs from the one before
let chosenSetup = null;   // null: the newest one
let chosenPrevious = null; // null: the one before
const settings = new Map(); // by flattened name: the range of a setting of the garage

// A setting of the game's garage: its text has the unit.
const isSetting = value => isObject(value) && typeof value.stringValue === "string"
  && Number.isFinite(value.minValue) && Number.isFinite(value.maxValue);

// "carSetup.garageValues.WM_CAMBER-W_FL" becomes "Camber FL".
function labelOf(name) {
  if (!settings.has(name)) return name;
  const key = name.split(".").pop();
  const [, wheelKey, wheel] = WHEEL.exec(key) ?? [];
  const words = (wheelKey ?? key.replace(/^[VW]M_/, "")).split("_")
    .map(word => WORDS[word] ?? word.toLowerCase());
  const label = [...words, ...(wheel ? [wheel] : [])].join(" ");
  return label.charAt(0).toUpperCase() + label.slice(1);
}

function groupOf(name) {
  const key = name.split(".").pop();
  const group = settings.has(name) && GROUPS.find(([, pattern]) => pattern.test(key));
  return group ? group[0] : OTHER_VALUES;
}

function flatten(value, name, depth, values) {
  if (values.size >= SETUP_VALUES) return;
  if (isSetting(value)) {
    values.set(name, value.stringValue);
    settings.set(name, `steps ${value.minValue} to ${value.maxValue}`);
    return;
  }
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
  const next = { at: Date.parse(timestamp), setup: setup ?? null, json: JSON.stringify(setup ?? null) };
  // The server resends the same setup on joining: that is not a change.
  setups = [...setups, next].sort((a, b) => a.at - b.at || 0)
    .filter((one, index, all) => one.json !== all[index - 1]?.json).slice(-SETUPS);
  paintChooser();
  paintSetup();
}

function forgetSetups() {
  setups = [];
  chosenSetup = chosenPrevious = null;
  $("rows").replaceChildren();
  paintChooser();
  show("setup_summary", "not received yet");
  show("found", "");
}

function valuesOf(one) {
  if (!one.values) {
    one.values = new Map();
    if (settings.size > SETUP_VALUES) settings.clear();
    flatten(one.setup, "", SETUP_DEPTH, one.values);
  }
  return one.values;
}

// The setup that is shown, and the one that it is compared with: itself if it is the first one.
function shownSetups() {
  const now = setups.includes(chosenSetup) ? chosenSetup : setups[setups.length - 1];
  const previous = setups.includes(chosenPrevious) ? chosenPrevious
    : setups[setups.indexOf(now) - 1] ?? now;
  return [now, previous];
}

const setupTime = ({ at }) => isNaN(at) ? "without a time"
  : `${new Date(at).toLocaleDateString("en-GB", { weekday: "short" })} ${second(at)}`;

function paintChooser() {
  $("chooser").hidden = setups.length < 2;
  for (const [id, chosen, usual] of [
    ["setup_now", chosenSetup, "the newest"], ["setup_before", chosenPrevious, "the one before"],
  ]) {
    const options = setups.map((one, index) => new Option(setupTime(one), index, false, one === chosen));
    $(id).replaceChildren(new Option(usual, "", false, false), ...options.reverse());
  }
}

const setupIn = id => setups[$(id).value === "" ? -1 : Number($(id).value)] ?? null;
$("chooser").onchange = () => {
  [chosenSetup, chosenPrevious] = [setupIn("setup_now"), setupIn("setup_before")];
  paintSetup();
};

function paintSetup() {
  if (!setups.length) return;
  const [shownNow, shownBefore] = shownSetups();
  const [now, before] = [valuesOf(shownNow), valuesOf(shownBefore)];
  const wanted = $("filter").value.trim().toLowerCase();
  let [changes, found] = [0, 0];
  const rows = new Map([...GROUPS.map(([group]) => [group, []]), [OTHER_VALUES, []]]);
  const names = new Set([...now.keys(), ...before.keys()]);
  // The weather and the session time, which the game adds, are not settings.
  const counted = [...names].some(name => settings.has(name)) ? name => settings.has(name) : () => true;
  for (const name of names) {
    const [value, was] = [now.get(name), before.get(name)];
    const isChanged = value !== was;
    if (isChanged && counted(name)) changes++;
    if ($("changed").checked && !isChanged) continue;
    if (!`${name} ${labelOf(name)} ${value}`.toLowerCase().includes(wanted)) continue;
    if (++found <= SETUP_ROWS) rows.get(groupOf(name)).push(setupRow(name, value, was, isChanged));
  }
  const groups = [...rows].filter(([, rows]) => rows.length);
  const headed = groups.length > 1 || groups[0]?.[0] !== OTHER_VALUES;
  $("rows").replaceChildren(...groups.flatMap(([group, rows]) =>
    headed ? [groupRow(group), ...rows] : rows));
  const of = isNaN(shownNow.at) ? "" : `of ${clock(shownNow.at)}, `;
  const other = chosenPrevious === shownBefore ? `the one of ${setupTime(shownBefore)}` : "the one before";
  show("setup_summary", of + (shownNow === shownBefore ? "the first"
    : `${changes} ${changes === 1 ? "change" : "changes"} since ${other}`));
  show("found", `${found} of ${names.size}` + (found > SETUP_ROWS ? `, ${SETUP_ROWS} shown` : ""));
}

function groupRow(group) {
  const row = document.createElement("tr");
  const head = document.createElement("th");
  head.scope = "rowgroup";
  head.colSpan = 3;
  head.className = "group";
  head.textContent = group;
  row.append(head);
  return row;
}

function setupRow(name, value, was, isChanged) {
  const row = document.createElement("tr");
  const head = document.createElement("th");
  head.scope = "row";
  head.textContent = labelOf(name);
  head.title = [name, settings.get(name)].filter(Boolean).join(": ");
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
