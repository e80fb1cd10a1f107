// A live publisher on Socket.IO's own client with `retries`: one sample a line of standard input.
const readline = require("readline");
const { io } = require("socket.io-client");

const socket = io(process.argv[2], { transports: ["websocket"], retries: 3, ackTimeout: 30000 });
socket.on("session_id_assigned", ({ session_id }) => {
  console.log("ready");
  readline.createInterface({ input: process.stdin }).on("line", (line) => {
    socket.emit("telemetry_update", { session_id, telemetry: JSON.parse(line) }, () => {});
  });
});
socket.emit("request_session_id", {}, () => {});
