"""A live publisher on python-socketio's client: one sample a line, one acknowledgement at a time."""

import json
import sys

import socketio

client = socketio.Client(reconnection=False)
assigned = []
client.on("session_id_assigned", lambda data: assigned.append(data["session_id"]))
client.connect(sys.argv[1], transports=["websocket"])
client.call("request_session_id", {})
print("ready", flush=True)
for line in sys.stdin:
    frame = {"session_id": assigned[0], "telemetry": json.loads(line)}
    client.call("telemetry_update", frame, timeout=30)
