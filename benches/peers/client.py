"""A publisher on python-socketio's client, as most are written: one acknowledgement at a time.

Prints frames a second, and the microseconds of CPU that one took.
"""

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
start, cpu = time.monotonic(), time.process_time()
for frame in frames:
    client.call("telemetry_update", {"session_id": session, "telemetry": frame}, timeout=30)
seconds, cpu = time.monotonic() - start, time.process_time() - cpu
print(f"{len(frames) / seconds:.0f} {cpu * 1e6 / len(frames):.1f}", flush=True)
client.disconnect()
