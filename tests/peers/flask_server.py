"""A dashboard server on Flask-SocketIO, like the public one.

On eventlet it keeps any number of events in flight in order; `--async-mode threading` (one thread
per event, Werkzeug, simple-websocket) may reorder them.
"""

import functools
import itertools

import dashboard

OPTIONS = dashboard.options(__doc__, async_modes=("eventlet", "threading"))
if OPTIONS.async_mode == "eventlet":
    # Before any other import: it replaces the blocking parts of the standard library.
    import eventlet

    eventlet.monkey_patch()

import flask  # noqa: E402
import flask_socketio  # noqa: E402

APP = flask.Flask(__name__)
SOCKETS = flask_socketio.SocketIO(
    APP,
    async_mode=OPTIONS.async_mode,
    cors_allowed_origins="*",
    max_http_buffer_size=OPTIONS.max_message,
    **dashboard.transports(OPTIONS),
)
DASHBOARD = dashboard.Dashboard(OPTIONS)
# Flask-SocketIO 4 has no such value; it acknowledges every event.
NO_ACK = getattr(SOCKETS.server, "not_handled", None)


FRAMES = itertools.count(1)


def is_late(event):
    if not OPTIONS.swap or event != "telemetry_update":
        return False
    swap, rest = divmod(next(FRAMES), OPTIONS.swap)
    return rest == 0 and (OPTIONS.swaps is None or swap <= OPTIONS.swaps)


def handle(event, data=None):
    if is_late(event):
        SOCKETS.sleep(0.05)
    reply = DASHBOARD.handle(event, data)
    if reply is None:
        return NO_ACK
    if reply.disconnect:
        flask_socketio.disconnect()
        return NO_ACK
    if reply.join is not None:
        flask_socketio.join_room(reply.join)
    for name, payload in reply.to_sender:
        flask_socketio.emit(name, payload)
    if reply.to_room:
        room, name, payload = reply.to_room
        SOCKETS.emit(name, payload, to=room, skip_sid=flask.request.sid if OPTIONS.no_echo else None)
    if OPTIONS.ack_delay:
        SOCKETS.sleep(OPTIONS.ack_delay / 1000)
    return NO_ACK if OPTIONS.never_ack else None


for name in dashboard.events(OPTIONS):
    SOCKETS.on_event(name, functools.partial(handle, name))


@APP.get("/api/<path:_path>")
def api(_path):
    answer = DASHBOARD.api(flask.request.path)
    return flask.Response(answer or "", 404 if answer is None else 200, mimetype="application/json")


if OPTIONS.async_mode == "eventlet":
    listener = eventlet.listen(("127.0.0.1", OPTIONS.port))
    dashboard.announce(listener.getsockname()[1])
    eventlet.wsgi.server(listener, APP, log_output=False)
else:
    import logging

    import werkzeug.serving

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = werkzeug.serving.make_server("127.0.0.1", OPTIONS.port, APP, threaded=True)
    dashboard.announce(server.port)
    server.serve_forever()
