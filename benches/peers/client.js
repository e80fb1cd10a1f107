// A publisher on Socket.IO's own client with `retries`: in order, each acknowledged. Prints frames a
// second, and the microseconds of CPU that one took.
const fs = require("fs");
const { io } = require("socket.io-client");

const [url, path] = process.argv.slice(2);
const frames = fs.readFileSync(path, "utf8").trim().split("\n").map((line) => JSON.parse(line));
const socket = io(url, { transports: ["websocket"], retries: 3, ackTimeout: 30000 });
socket.on("session_id_assigned", ({ session_id }) => {
  const start = process.hrtime.bigint();
  const before = process.cpuUsage();
  let left = frames.length;
  for (const telemetry of frames) {
    socket.emit("telemetry_update", { session_id, telemetry }, (error) => {
      if (error) throw error;
      left -= 1;
      if (left === 0) {
        const seconds = Number(process.hrtime.bigint() - start) / 1e9;
        const { user, system } = process.cpuUsage(before);
        const rate = frames.length / seconds;
        console.log(`${rate.toFixed(0)} ${((user + system) / frames.length).toFixed(1)}`);
        process.exit(0);
      }
    });
  }
});
socket.emit("request_session_id", {}, () => {});
