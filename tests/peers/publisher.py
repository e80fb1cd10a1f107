"""A typical existing publisher: python-socketio's client, configured only with a server's URL.

It requests a session, waits for `session_id_assigned`, sends the setup, then telemetry at a steady
rate. Like most, it requests a new session after each reconnect; with `--keep-id` it keeps its id.
It never sends the frames of a time without a connection.

Each line of output is one event: `dashboard URL`, `sent N`, `acked N`, where N is the number of the
frame, which is also its lap.
"""

import argparse
import datetime
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
    setup = {"session_id": session, "timestamp": now(), "setup": {"wing": 7, "note": None}}
    client.emit("setup_data", setup)
    ready.set()


@client.on("disconnect")
def disconnected(*_reason):
    ready.clear()


client.connect(options.server_url, transports=options.transports)
number, due = options.first, time.monotonic()
while options.count is None or number < options.first + options.count:
    ready.wait()
    payload = {"session_id": session, "telemetry": telemetry(number)}
    try:
        client.emit("telemetry_update", payload, callback=lambda *_, number=number: acked(number))
        say("sent", number)
        number += 1
    except socketio.exceptions.BadNamespaceError:
        pass  # Not connected.
    due = max(due + 1 / options.rate, time.monotonic() - 1)
    time.sleep(max(0, due - time.monotonic()))
while len(acknowledged) < number - options.first:
    time.sleep(0.1)
client.disconnect()
