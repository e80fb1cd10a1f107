"""A typical existing publisher: python-socketio's client, configured only with a server's URL.

It requests a session, waits for `session_id_assigned`, sends the setup, then telemetry at a steady
rate. Like most, it requests a new session after each reconnect; with `--keep-id` it keeps its id.
It never sends the frames of a time without a connection.

Each line of output is one event: `dashboard URL`, `sent N`, `acked N`, where N is the number of the
frame, which is also its lap. With `--odd`, the frames and the setup are printed too, as JSON: `frame
{…}`, `setup {…}`.
"""

import argparse
import datetime
import json
import math
import threading
import time

import socketio

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("server_url")
parser.add_argument("--rate", type=float, default=2, help="frames a second")
parser.add_argument("--first", type=int, default=1, help="the number of the first frame")
parser.add_argument("--count", type=int, help="number of frames (default: endless)")
parser.add_argument("--keep-id", action="store_true", help="request only one session")
parser.add_argument("--nan", action="store_true", help="every third frame has a bare NaN")
parser.add_argument("--transports", nargs="+", help="default: polling, then an upgrade")
parser.add_argument("--odd", action="store_true", help="unusual timestamps, keys and values")
parser.add_argument("--pad", type=int, default=0, help="bytes of text added to each frame")
options = parser.parse_args()

client = socketio.Client()
ready = threading.Event()
session = None
# Callbacks and the main loop print from different threads.
printing = threading.Lock()


acknowledged = set()


def say(*words):
    with printing:
        print(*words, flush=True)


def acked(number):
    acknowledged.add(number)
    say("acked", number)


def now():
    moment = datetime.datetime.now(datetime.timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def telemetry(number):
    wheels = {"fl": 88.25, "fr": 88.5, "rl": -273.15, "rr": 86.75}
    return {
        "timestamp": now(),
        "lap": number,
        "position": 3,
        "lap_time": 93.48171997070312,
        "fuel": 41.25,
        "fuel_capacity": 90.0,
        "tire_pressures": {"fl": 181.5, "fr": 182.0, "rl": 179.25, "rr": 179.75},
        "tire_temps": wheels,
        "tire_wear": {"fl": 0.96, "fr": 0.95, "rl": 0.97, "rr": 0.97},
        "brake_temps": wheels,
        "engine_water_temp": 92.5,
        "track_temp": 31.0,
        "ambient_temp": 24.0,
        "speed": math.nan if options.nan and number % 3 == 0 else 251.75,
        "gear": -1,
        "rpm": 8150.5,
        "player_name": "Zoë <b>&amp;</b>",
        "car_name": "Oreca 07 \"LMP2\"",
        "track_name": "Autódromo José Carlos Pace",
        "session_type": "Race",
        "extra": {"of": ["the", "publisher"]},
    }


def odd(frame):
    """The frame with a timestamp or with values as less careful publishers send them."""
    moment = datetime.datetime.now(datetime.timezone.utc)
    same = {**frame, "timestamp": "2025-11-22T14:30:22.123Z", "lap": 1}
    match frame["lap"] % 11:
        case 0:  # utcnow().isoformat()
            return {**frame, "timestamp": moment.replace(tzinfo=None).isoformat()}
        case 1:
            return {**frame, "timestamp": str(datetime.datetime.now())}
        case 2:
            return {**frame, "timestamp": time.time()}
        case 3:
            return {**frame, "timestamp": int(time.time() * 1000)}
        case 4 | 5 | 6:  # Three equal frames.
            return same
        case 7:  # Backwards, in another zone.
            zone = datetime.timezone(datetime.timedelta(hours=2))
            earlier = moment - datetime.timedelta(seconds=frame["lap"])
            return {**frame, "timestamp": earlier.astimezone(zone).isoformat()}
        case 8:
            nested = {"a": [1e22, -0.0, 12345678901234567890, None, {"\u00e9\u2028": []}], "": {}}
            return {"z": nested, **frame, "lap_time": -2.76, "seq": 1, "tire_wear": {"spare": 1}}
        case 9:
            return {**frame, "position": None, "gear": "R", "fuel": -1, "lap": float(frame["lap"])}
        case _:
            del frame["timestamp"]
            return frame


def odd_setup():
    moment = datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None)
    return {"timestamp": moment.isoformat(), "setup": {"wing": 7.0, "note": None, "a": [1e22]}}


@client.on("connect")
def connected():
    if session and options.keep_id:
        ready.set()
    else:
        client.emit("request_session_id", {})


@client.on("session_id_assigned")
def assigned(data):
    global session
    session = data["session_id"]
    say("dashboard", f"{options.server_url}/dashboard/{session}")
    setup = {"timestamp": now(), "setup": {"wing": 7, "note": None}}
    if options.odd:
        setup = odd_setup()
        say("setup", json.dumps(setup))
    client.emit("setup_data", {"session_id": session, **setup})
    ready.set()


@client.on("disconnect")
def disconnected(*_reason):
    ready.clear()


client.connect(options.server_url, transports=options.transports)
number, due = options.first, time.monotonic()
while options.count is None or number < options.first + options.count:
    ready.wait()
    frame = telemetry(number)
    if options.pad:
        frame["pad"] = "x" * options.pad
    frame = odd(frame) if options.odd else frame
    payload = {"session_id": session, "telemetry": frame}
    try:
        client.emit("telemetry_update", payload, callback=lambda *_, number=number: acked(number))
        say("sent", number)
        if options.odd:
            say("frame", json.dumps(frame))
        number += 1
    except socketio.exceptions.BadNamespaceError:
        pass  # Not connected.
    due = max(due + 1 / options.rate, time.monotonic() - 1)
    time.sleep(max(0, due - time.monotonic()))
while len(acknowledged) < number - options.first:
    time.sleep(0.1)
client.disconnect()
