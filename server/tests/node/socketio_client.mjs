// A front-end of the seed's kind, with the npm package socket.io-client:
// node socketio_client.mjs URL COUNT TOKEN…   joins, prints every event as a line, and leaves after COUNT values.
import { io } from "socket.io-client";

const [url, count, ...tokens] = process.argv.slice(2);
const socket = io(url, { transports: ["websocket"] });
let left = Number(count);
const show = (event, data) => console.log(JSON.stringify([event, data]));
setTimeout(() => process.exit(3), 20_000).unref();
socket.on("connect", () => socket.emit("join", tokens, (answer) => show("answer", answer)));
socket.on("error", (data) => show("error", data));
for (const event of ["token_update", "tokens_update"]) {
  socket.on(event, (data) => {
    show(event, data);
    if (--left === 0) socket.emit("leave", { tokens }, () => socket.disconnect());
  });
}
socket.on("disconnect", (reason) => {
  show("disconnect", reason);
  process.exit(0);
});
socket.on("connect_error", (error) => {
  show("connect_error", error.message);
  process.exit(5);
});
