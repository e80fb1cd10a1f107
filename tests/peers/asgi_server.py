"""A dashboard server on python-socketio's AsyncServer, served by uvicorn over websockets."""

import functools
import socket
import uuid

import socketio
import uvicorn

import dashboard

OPTIONS = dashboard.options(__doc__)
SOCKETS = socketio.AsyncServer(
    async_mode="asgi",
    cors_allowed_origins="*",
    max_http_buffer_size=OPTIONS.max_message,
    **dashboard.transports(OPTIONS),
)
DASHBOARD = dashboard.Dashboard(OPTIONS)
NO_ACK = SOCKETS.not_handled


async def handle(event, sid, data=None):
    reply = DASHBOARD.handle(event, data)
    if OPTIONS.odd:
        await be_odd(sid)
    if reply is None:
        return NO_ACK
    if reply.disconnect:
        await SOCKETS.disconnect(sid)
        return NO_ACK
    if reply.join is not None:
        await SOCKETS.enter_room(sid, reply.join)
    for name, payload in reply.to_sender:
        await SOCKETS.emit(name, payload, to=sid)
    if OPTIONS.odd and event == "request_session_id":
        await SOCKETS.emit("session_id_assigned", {"session_id": str(uuid.uuid4())}, to=sid)
        await SOCKETS.emit("session_id_assigned", {"session_id": 7}, to=sid)
    if reply.to_room:
        room, name, payload = reply.to_room
        await SOCKETS.emit(name, payload, to=room, skip_sid=sid if OPTIONS.no_echo else None)
    if OPTIONS.ack_delay:
        await SOCKETS.sleep(OPTIONS.ack_delay / 1000)
    return NO_ACK if OPTIONS.never_ack else None


for name in dashboard.events(OPTIONS):
    SOCKETS.on(name, functools.partial(handle, name))


async def be_odd(sid):
    """Sends unsolicited ids, events with reserved names, and other sessions' frames."""
    stranger = str(uuid.uuid4())
    for name, payload in [
        ("error", {"message": "odd"}),
        ("error", "odd"),
        ("connect", {}),
        ("open", {}),
        ("message", "odd"),
        ("telemetry_update", b"odd"),
        ("telemetry_update", [stranger]),
        ("telemetry_update", {"session_id": stranger, "telemetry": {"timestamp": "odd"}}),
        ("telemetry_update", {"session_id": 7, "telemetry": None}),
        ("odd", {"text": "odd" * 10_000}),
    ]:
        await SOCKETS.emit(name, payload, to=sid)


@SOCKETS.event
async def connect(_sid, _environ, auth):
    return OPTIONS.token is None or (auth or {}).get("token") == OPTIONS.token


async def guarded(scope, receive, send):
    """The app behind a proxy that requires a header."""
    name, _, value = (OPTIONS.header or ":").partition(":")
    if name and (name.lower().encode(), value.strip().encode()) not in scope.get("headers", ()):
        await send({"type": "websocket.close"})
        return
    await APP(scope, receive, send)


async def api(scope, _receive, send):
    answer = DASHBOARD.api(scope["path"])
    headers = [(b"content-type", b"application/json")]
    status = 404 if answer is None else 200
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": (answer or "").encode()})


def listen(port):
    # With an explicit protocol, as in uvicorn: otherwise asyncio leaves Nagle's algorithm on.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    # A killed server leaves connections in TIME_WAIT; its successor must still get the port.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(128)
    return listener


class Server(uvicorn.Server):
    async def startup(self, sockets=None):
        await super().startup(sockets)
        dashboard.announce(sockets[0].getsockname()[1])


APP = socketio.ASGIApp(SOCKETS, other_asgi_app=api)
Server(
    uvicorn.Config(
        guarded,
        ssl_certfile=OPTIONS.certfile,
        ssl_keyfile=OPTIONS.keyfile,
        lifespan="off",
        ws="websockets-sansio",
        log_level="warning",
    )
).run(sockets=[listen(OPTIONS.port)])
