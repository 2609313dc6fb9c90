// Subscribes with the npm package ws and prints what it receives: node ws_client.mjs URL COUNT DEFLATE TOKEN…
import WebSocket from "ws";

const [url, count, deflate, ...tokens] = process.argv.slice(2);
const socket = new WebSocket(url, { perMessageDeflate: deflate === "true" });
let left = Number(count);
setTimeout(() => process.exit(3), 20_000).unref();
socket.on("open", () => {
  console.error(`extensions=${socket.extensions}`);
  socket.send(JSON.stringify({ type: "subscription", data: { action: "subscribe", tokens } }));
});
socket.on("message", (data, isBinary) => {
  if (isBinary) process.exit(4);
  console.log(data.toString());
  if (--left === 0) socket.close();
});
socket.on("close", () => process.exit(0));
socket.on("error", (error) => {
  console.error(error.message);
  process.exit(5);
});
