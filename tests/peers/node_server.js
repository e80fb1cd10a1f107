// A dashboard server on Node's socket.io. It finds the package through NODE_PATH.

"use strict";

const http = require("node:http");
const { Server } = require("socket.io");
const { Dashboard, EVENTS, options } = require("./dashboard.js");

const OPTIONS = options();
const dashboard = new Dashboard(OPTIONS);

const server = http.createServer((request, response) => {
  const answer = dashboard.api(request.url);
  response.writeHead(answer === null ? 404 : 200, { "content-type": "application/json" });
  response.end(answer ?? "");
});

const maxHttpBufferSize = OPTIONS.maxMessageBytes;
const transports = OPTIONS.pollingOnly ? ["polling"] : ["polling", "websocket"];
const io = new Server(server, { cors: { origin: "*" }, maxHttpBufferSize, transports });
io.on("connection", (socket) => {
  for (const event of EVENTS) {
    socket.on(event, (data, acknowledge) => handle(socket, event, data, acknowledge));
  }
});

function handle(socket, event, data, acknowledge) {
  const reply = dashboard.handle(event, data);
  if (reply === null) return;
  if (reply.join !== undefined) socket.join(reply.join);
  for (const [name, payload] of reply.toSender ?? []) socket.emit(name, payload);
  if (reply.toRoom) {
    const [room, name, payload] = reply.toRoom;
    (OPTIONS.noEcho ? socket.to(room) : io.to(room)).emit(name, payload);
  }
  if (OPTIONS.neverAck || typeof acknowledge !== "function") return;
  if (OPTIONS.ackDelayMs) setTimeout(acknowledge, OPTIONS.ackDelayMs);
  else acknowledge();
}

server.listen(OPTIONS.port, "127.0.0.1", () => {
  console.log(`listening on http://127.0.0.1:${server.address().port}`);
});
