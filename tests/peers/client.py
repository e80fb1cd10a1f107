"""A publisher on python-socketio's client, as most are written: one acknowledgement at a time."""

import json
import sys
import time

import socketio

url, path = sys.argv[1:]
frames = [json.loads(line) for line in open(path)]
client = socketio.Client(reconnection=False)
assigned = []
client.on("session_id_assigned", lambda data: assigned.append(data["session_id"]))
client.connect(url, transports=["websocket"])
client.call("request_session_id", {})
session = assigned[0]
start = time.monotonic()
for frame in frames:
    client.call("telemetry_update", {"session_id": session, "telemetry": frame}, timeout=30)
print(f"{len(frames) / (time.monotonic() - start):.0f}", flush=True)
client.disconnect()
