// The dashboard's sessions, independent of the transport: the Node version of dashboard.py.

"use strict";

const crypto = require("node:crypto");
const fs = require("node:fs");
const util = require("node:util");

const EVENTS = ["request_session_id", "setup_data", "telemetry_update", "join_session"];

// The command line shared by all servers.
function options() {
  const { values } = util.parseArgs({
    options: {
      port: { type: "string", default: "0" },
      schema: { type: "boolean", default: false },
      "no-echo": { type: "boolean", default: false },
      "never-ack": { type: "boolean", default: false },
      "max-message": { type: "string", default: "1000000" },
      "ack-delay": { type: "string", default: "0" },
      persist: { type: "string" },
      "polling-only": { type: "boolean", default: false },
    },
  });
  return {
    port: Number(values.port),
    schema: values.schema,
    noEcho: values["no-echo"],
    neverAck: values["never-ack"],
    ackDelayMs: Number(values["ack-delay"]),
    maxMessageBytes: Number(values["max-message"]),
    persist: values.persist,
    pollingOnly: values["polling-only"],
  };
}

class Dashboard {
  #schema;
  #journal;
  #sessions = new Map();
  #refused = [];

  constructor({ schema, persist }) {
    this.#schema = schema;
    if (persist) this.#journal = openJournal(persist, (record) => this.#apply(record));
  }

  // The actions for one event, to carry out before it is acknowledged: `{join, toSender, toRoom}`,
  // or null if the event cannot even be acknowledged.
  handle(event, data) {
    if (!isObject(data)) {
      console.error(`${event}: the payload is not an object`);
      return null;
    }
    return this[event](data);
  }

  // The response to `GET path` as JSON text; null is a 404.
  api(path) {
    const [api, kind, id, list] = path.split("/").filter(Boolean);
    if (api !== "api") return null;
    if (kind === "refused" && id === undefined) return JSON.stringify(this.#refused);
    if (kind !== "sessions") return null;
    if (id === undefined) {
      return JSON.stringify([...this.#sessions.keys()].map((session_id) => ({ session_id })));
    }
    const session = this.#sessions.get(id);
    if (!session || !["frames", "setups"].includes(list)) return null;
    return JSON.stringify(session[list]);
  }

  request_session_id() {
    const session_id = crypto.randomUUID();
    this.#keep({ session_id });
    return { toSender: [["session_id_assigned", { session_id }]] };
  }

  setup_data(data) {
    if (!this.#accepts("setup_data", data)) return {};
    const { session_id, timestamp = null, setup = null } = data;
    this.#keep({ session_id, timestamp, setup });
    return { toRoom: [session_id, "setup_update", { session_id, timestamp, setup }] };
  }

  telemetry_update(data) {
    if (!this.#accepts("telemetry_update", data)) return {};
    const { session_id, telemetry = null } = data;
    this.#keep({ session_id, telemetry });
    return { toRoom: [session_id, "telemetry_update", { session_id, telemetry }] };
  }

  join_session({ session_id }) {
    const session = this.#sessions.get(session_id);
    if (!session) {
      console.error(`join_session: unknown session ${session_id}`);
      return { join: session_id };
    }
    const toSender = [
      ...session.setups.slice(-1).map((setup) => ["setup_update", { session_id, ...setup }]),
      ...session.frames.slice(-1).map((frame) => ["telemetry_update", { session_id, ...frame }]),
    ];
    return { join: session_id, toSender };
  }

  #accepts(event, data) {
    const reason = this.#schema ? refusal(event, data) : null;
    if (reason) {
      this.#refused.push({ event, reason });
      return false;
    }
    if (!this.#sessions.has(data.session_id)) {
      console.error(`${event}: unknown session ${data.session_id}`);
      return false;
    }
    return true;
  }

  #keep(record) {
    this.#apply(record);
    if (this.#journal) fs.writeSync(this.#journal, JSON.stringify(record) + "\n");
  }

  #apply({ session_id, ...record }) {
    if (!this.#sessions.has(session_id)) {
      this.#sessions.set(session_id, { setups: [], frames: [] });
    }
    const session = this.#sessions.get(session_id);
    if ("telemetry" in record) session.frames.push(record);
    else if ("setup" in record) session.setups.push(record);
  }
}

// Applies the records of the journal at `path` and opens it for appending. A last line without a
// newline was cut off by a kill in the middle of a write; it is removed.
function openJournal(path, apply) {
  const journal = fs.openSync(path, "a+");
  const text = fs.readFileSync(path);
  const whole = text.subarray(0, text.lastIndexOf("\n") + 1);
  fs.ftruncateSync(journal, whole.length);
  for (const line of whole.toString().split("\n").filter(Boolean)) apply(JSON.parse(line));
  return journal;
}

const ENVELOPES = {
  setup_data: ["session_id", "setup", "timestamp"],
  telemetry_update: ["session_id", "telemetry"],
};
const REQUIRED = [
  ...["timestamp", "lap", "position", "fuel", "fuel_capacity"],
  ...["player_name", "car_name", "track_name", "session_type"],
];
const INTEGERS = ["lap", "position", "gear"];
const NOT_NEGATIVE = ["lap", "position", "lap_time", "fuel", "fuel_capacity"];
const WHEELS = ["tire_pressures", "tire_temps", "tire_wear", "brake_temps"];

// The reason why the schema rejects the event, or null.
function refusal(event, data) {
  const envelope = ENVELOPES[event];
  const extra = Object.keys(data).filter((key) => !envelope.includes(key));
  if (extra.length) return `extra key in the envelope: ${extra.sort()[0]}`;
  const missing = envelope.find((key) => data[key] === undefined || data[key] === null);
  if (missing) return `missing or null: ${missing}`;
  if (event === "setup_data") return isObject(data.setup) ? null : "setup is not an object";
  return telemetryRefusal(data.telemetry);
}

function telemetryRefusal(telemetry) {
  if (!isObject(telemetry)) return "telemetry is not an object";
  for (const [key, value] of Object.entries(telemetry)) {
    if (value === null) return `null: ${key}`;
  }
  for (const key of REQUIRED) {
    if (!(key in telemetry)) return `missing: ${key}`;
  }
  for (const key of INTEGERS) {
    if (!Number.isInteger(telemetry[key] ?? 0)) return `not an integer: ${key}`;
  }
  for (const key of NOT_NEGATIVE) {
    const value = telemetry[key] ?? 0;
    if (typeof value !== "number" || value < 0) return `negative or not a number: ${key}`;
  }
  for (const key of WHEELS) {
    const reason = wheelRefusal(key, telemetry[key] ?? {});
    if (reason) return reason;
  }
  return null;
}

function wheelRefusal(key, wheels) {
  if (!isObject(wheels)) return `not an object: ${key}`;
  for (const [wheel, value] of Object.entries(wheels)) {
    if (!["fl", "fr", "rl", "rr"].includes(wheel)) return `unknown wheel: ${key}.${wheel}`;
    if (typeof value !== "number") return `null or not a number: ${key}.${wheel}`;
  }
  return null;
}

function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

module.exports = { Dashboard, EVENTS, options };
