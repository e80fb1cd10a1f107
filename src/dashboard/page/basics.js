"use strict";
// Insert data of cars only through textContent: names may contain markup.
const $ = id => document.getElementById(id);
const isObject = value => typeof value === "object" && value !== null && !Array.isArray(value);
const text = value => typeof value === "string" ? value : "";
const number = digits => value => Number.isFinite(value) ? value.toFixed(digits) : "–";
// The game sends -273.15 if it has no reading.
const degrees = value => value > -273 ? number(0)(value) : "–";

function show(id, value) {
  // Replacing an unchanged text would cost a layout and make a screen reader repeat it.
  if ($(id).textContent !== value) $(id).textContent = value;
}

// British time has 24 hours, whatever the language of the browser.
const second = at => new Date(at).toLocaleTimeString("en-GB");
const clock = at => second(at).slice(0, 5);

const lapTime = value => {
  if (!Number.isFinite(value) || value < 0) return "–";
  const ms = Math.round(value * 1000);
  return `${Math.floor(ms / 60000)}:${(ms % 60000 / 1000).toFixed(3).padStart(6, "0")}`;
};

// A duration in the unit that fits: 7 s, 12 min, 3 h 05 min.
function duration(seconds) {
  if (!Number.isFinite(seconds) || seconds < 0) return "–";
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  if (minutes < 48 * 60)
    return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")} min`;
  return `${Math.floor(minutes / 1440)} days`;
}
