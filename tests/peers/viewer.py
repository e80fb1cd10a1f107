"""A viewer of pages, on its own connection, that prints the frames shown to it.

Each line on stdin is the session of another page to watch. Each line on stdout is a frame shown:
`SESSION LAP`. After a reconnect it first reads the frames that it missed over HTTP, as a reload of
the page does.
"""

import http.client
import json
import queue
import sys
import threading
import time
import urllib.error
import urllib.request

import socketio

url = sys.argv[1]
# Events in order: a connection, a page to watch, or a frame.
happened = queue.Queue()
client = socketio.Client(reconnection_delay=0.05, reconnection_delay_max=0.3)
# Otherwise each message is handled in its own thread, and two may be swapped.
trigger = client.eio._trigger_event
client.eio._trigger_event = lambda *args, **how: trigger(*args, **how | {"run_async": False})
client.on("connect", lambda: happened.put(("connected", None)))
client.on("telemetry_update", lambda data: happened.put(("frame", data)))


def read_pages():
    for line in sys.stdin:
        happened.put(("page", line.strip()))
    client.disconnect()


def show(session, lap):
    seen[session].add(lap)
    print(session, lap, flush=True)


def look_at(session):
    """Joins before it reads the history, so that it misses no frame between the two."""
    while not joined(session):
        if not client.connected:
            return  # Retried with the next connection.
    read = set()
    for frame in held(session):
        lap = frame["telemetry"]["lap"]
        if lap not in seen[session]:
            show(session, lap)
            read.add(lap)
    # Frames that came between the join and the end of the history are in both.
    overlap[session] = (read, time.monotonic() + OVERLAP_SECONDS)


def is_in_history(session, lap):
    """Whether a broadcast frame was just shown as part of the history. Each counts once."""
    read, end = overlap[session]
    if lap not in read or time.monotonic() > end:
        return False
    read.remove(lap)
    return True


def joined(session):
    try:
        client.call("join_session", {"session_id": session}, timeout=1)
        return True
    except socketio.exceptions.SocketIOError:
        return False


def held(session):
    while True:
        try:
            path = f"{url}/api/sessions/{session}/frames"
            return json.load(urllib.request.urlopen(path, timeout=10))
        except urllib.error.HTTPError:
            return []  # The server does not know the session.
        except (OSError, ValueError, http.client.HTTPException):
            time.sleep(0.1)  # The server is unreachable.


# A broadcast arrives this long after the server stored its frame, at most.
OVERLAP_SECONDS = 1
seen = {}
overlap = {}
client.connect(url, transports=["websocket"], retry=True)
threading.Thread(target=read_pages, daemon=True).start()
while True:
    what, data = happened.get()
    if what == "connected":
        for session in seen:
            look_at(session)
    elif what == "page":
        seen.setdefault(data, set())
        overlap.setdefault(data, (set(), 0))
        look_at(data)
    elif data["session_id"] in seen:
        session, lap = data["session_id"], data["telemetry"]["lap"]
        if not is_in_history(session, lap):
            show(session, lap)
