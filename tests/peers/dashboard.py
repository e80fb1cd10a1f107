"""The dashboard's sessions, independent of the transport: shared by both Python servers.

A transport passes every event to `Dashboard.handle`, carries out the `Reply`, and then
acknowledges. Sessions live in memory; with `--persist FILE` each accepted event is also appended
to FILE, so that a restarted server restores them.
"""

import argparse
import json
import sys
import threading
import time
import uuid
from typing import NamedTuple

EVENTS = ("request_session_id", "setup_data", "telemetry_update", "join_session")


def options(description, async_modes=()):
    """The command line shared by all servers."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--port", type=int, default=0, help="0 picks a free port (default)")
    parser.add_argument("--schema", action="store_true", help="reject what violates the schema")
    parser.add_argument("--no-echo", action="store_true", help="broadcast to all but the sender")
    parser.add_argument("--no-join", action="store_true", help="do not handle join_session")
    parser.add_argument("--never-ack", action="store_true", help="acknowledge no event")
    parser.add_argument("--ack-delay", type=int, default=0, metavar="MS", help="acknowledge late")
    parser.add_argument("--persist", metavar="FILE", help="keep the sessions across restarts")
    parser.add_argument("--record", metavar="FILE", help="append each frame and its time")
    parser.add_argument("--keep", type=int, metavar="N", help="keep only N frames per session")
    parser.add_argument("--refuse", metavar="TEXT", help="drop frames that contain this text")
    parser.add_argument("--raise-on", metavar="TEXT", help="raise on entries with this text")
    parser.add_argument("--disconnect-on", metavar="TEXT", help="disconnect on this text")
    parser.add_argument("--max-message", type=int, default=1_000_000, metavar="BYTES")
    parser.add_argument("--token", help="refuse clients without it in their auth payload")
    parser.add_argument("--header", metavar="NAME:VALUE", help="refuse clients without it")
    parser.add_argument("--certfile", help="speak TLS with this certificate")
    parser.add_argument("--keyfile", help="and this key")
    parser.add_argument("--polling-only", action="store_true", help="offer no WebSocket")
    parser.add_argument("--ping-interval", type=int, default=25, metavar="S", help="seconds between pings")
    parser.add_argument("--odd", action="store_true", help="send unsolicited events")
    parser.add_argument("--swap", type=int, metavar="N", help="deliver every Nth frame late")
    parser.add_argument("--swaps", type=int, metavar="N", help="deliver at most N frames late")
    if async_modes:
        parser.add_argument("--async-mode", choices=async_modes, default=async_modes[0])
    return parser.parse_args()


def transports(options):
    """The keyword arguments of a Socket.IO server for these options."""
    offered = {"transports": ["polling"]} if options.polling_only else {}
    return {"ping_interval": options.ping_interval, **offered}


def events(options):
    """The events that the server has handlers for."""
    return [event for event in EVENTS if not (options.no_join and event == "join_session")]


def announce(port):
    """Reports to the parent process that the server accepts connections, and where."""
    print(f"listening on http://127.0.0.1:{port}", flush=True)


class Reply(NamedTuple):
    """The actions for one event, to carry out before it is acknowledged."""

    join: str | None = None  # the room that the sender joins
    to_sender: tuple = ()  # (event, payload), in order
    to_room: tuple | None = None  # (room, event, payload)
    disconnect: bool = False


class Session(NamedTuple):
    setups: list
    frames: list


class Dashboard:
    def __init__(self, options):
        persist = options.persist
        self._schema = options.schema
        self._refuse = options.refuse
        self._raise_on = options.raise_on
        self._disconnect_on = options.disconnect_on
        self._most = options.keep
        self._record = open(options.record, "ab", buffering=0) if options.record else None
        self._sessions = {}
        self._refused = []
        # The threaded server handles events of one connection concurrently.
        self._lock = threading.Lock()
        self._journal = open_journal(persist, self._apply) if persist else None

    def handle(self, event, data):
        """The reply to one event, or None if the event cannot even be acknowledged."""
        if not isinstance(data, dict):
            log(f"{event}: the payload is not an object")
            return None
        if event in ENVELOPES and (self._raise_on or self._disconnect_on):
            text = json.dumps(data)
            if self._raise_on and self._raise_on in text:
                raise KeyError(self._raise_on)
            if self._disconnect_on and self._disconnect_on in text:
                return Reply(disconnect=True)
        with self._lock:
            return getattr(self, f"_{event}")(data)

    def api(self, path):
        """The response to `GET path` as JSON text; None is a 404."""
        with self._lock:
            match path.strip("/").split("/"):
                case ["api", "sessions"]:
                    answer = [{"session_id": session_id} for session_id in self._sessions]
                case ["api", "sessions", session_id, ("frames" | "setups") as kind] if (
                    session_id in self._sessions
                ):
                    answer = getattr(self._sessions[session_id], kind)
                case ["api", "refused"]:
                    answer = self._refused
                case _:
                    return None
            return json.dumps(answer)

    def _request_session_id(self, _data):
        session_id = str(uuid.uuid4())
        self._keep({"session_id": session_id})
        return Reply(to_sender=(("session_id_assigned", {"session_id": session_id}),))

    def _setup_data(self, data):
        if not self._accepts("setup_data", data):
            return Reply()
        setup = {key: data.get(key) for key in ("session_id", "timestamp", "setup")}
        self._keep(setup)
        return Reply(to_room=(setup["session_id"], "setup_update", setup))

    def _telemetry_update(self, data):
        if not self._accepts("telemetry_update", data):
            return Reply()
        frame = {key: data.get(key) for key in ("session_id", "telemetry")}
        self._keep(frame)
        return Reply(to_room=(frame["session_id"], "telemetry_update", frame))

    def _join_session(self, data):
        session_id = data.get("session_id")
        session = self._sessions.get(session_id)
        if session is None:
            log(f"join_session: unknown session {session_id}")
            return Reply(join=session_id)
        stored = [("setup_update", setup) for setup in session.setups[-1:]]
        stored += [("telemetry_update", frame) for frame in session.frames[-1:]]
        own = {"session_id": session_id}
        return Reply(session_id, tuple((event, own | payload) for event, payload in stored))

    def _accepts(self, event, data):
        reason = refusal(event, data) if self._schema else None
        if reason:
            self._refused.append({"event": event, "reason": reason})
            return False
        if self._refuse and self._refuse in json.dumps(data):
            self._refused.append({"event": event, "reason": "it holds the text"})
            return False
        if data.get("session_id") not in self._sessions:
            log(f"{event}: unknown session {data.get('session_id')}")
            return False
        return True

    def _keep(self, record):
        self._apply(record)
        if self._record and "telemetry" in record:
            received = {"received_ms": time.time_ns() / 1e6}
            self._record.write(json.dumps(record | received).encode() + b"\n")
        if self._journal:
            self._journal.write(json.dumps(record).encode() + b"\n")

    def _apply(self, record):
        record = dict(record)
        session = self._sessions.setdefault(record.pop("session_id"), Session([], []))
        if "telemetry" in record:
            session.frames.append(record)
            if self._most:
                del session.frames[: -self._most]
        elif "setup" in record:
            session.setups.append(record)


def open_journal(path, apply):
    """Applies the records of the journal at `path` and opens it for appending.

    A last line without a newline was cut off by a kill in the middle of a write; it is removed.
    """
    journal = open(path, "a+b", buffering=0)
    journal.seek(0)
    text = journal.read()
    whole = text[: text.rfind(b"\n") + 1]
    journal.truncate(len(whole))
    for line in whole.splitlines():
        apply(json.loads(line))
    return journal


ENVELOPES = {
    "setup_data": {"session_id", "timestamp", "setup"},
    "telemetry_update": {"session_id", "telemetry"},
}
REQUIRED = (
    *("timestamp", "lap", "position", "fuel", "fuel_capacity"),
    *("player_name", "car_name", "track_name", "session_type"),
)
INTEGERS = ("lap", "position", "gear")
NOT_NEGATIVE = ("lap", "position", "lap_time", "fuel", "fuel_capacity")
WHEELS = ("tire_pressures", "tire_temps", "tire_wear", "brake_temps")


def refusal(event, data):
    """The reason why the schema rejects the event, or None."""
    envelope = ENVELOPES[event]
    for key in sorted(data.keys() - envelope):
        return f"extra key in the envelope: {key}"
    for key in sorted(envelope):
        if data.get(key) is None:
            return f"missing or null: {key}"
    if event == "setup_data":
        return None if isinstance(data["setup"], dict) else "setup is not an object"
    return telemetry_refusal(data["telemetry"])


def telemetry_refusal(telemetry):
    if not isinstance(telemetry, dict):
        return "telemetry is not an object"
    for key, value in telemetry.items():
        if value is None:
            return f"null: {key}"
    for key in REQUIRED:
        if key not in telemetry:
            return f"missing: {key}"
    for key in INTEGERS:
        if not is_integer(telemetry.get(key, 0)):
            return f"not an integer: {key}"
    for key in NOT_NEGATIVE:
        if not is_number(telemetry.get(key, 0)) or telemetry.get(key, 0) < 0:
            return f"negative or not a number: {key}"
    for key in WHEELS:
        reason = wheel_refusal(key, telemetry.get(key, {}))
        if reason:
            return reason
    return None


def wheel_refusal(key, wheels):
    if not isinstance(wheels, dict):
        return f"not an object: {key}"
    for wheel, value in wheels.items():
        if wheel not in ("fl", "fr", "rl", "rr"):
            return f"unknown wheel: {key}.{wheel}"
        if not is_number(value):
            return f"null or not a number: {key}.{wheel}"
    return None


def is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_integer(value):
    # As in JSON Schema, 3.0 is an integer.
    return is_number(value) and value == value // 1


def log(line):
    print(line, file=sys.stderr, flush=True)
