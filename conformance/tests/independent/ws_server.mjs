// A Token Data v1.0 server as one writes it with the npm package ws: node ws_server.mjs PORT PATH_OF_WS
// Written from the specification alone. It takes any name for a token and has one made-up price feed.
import { randomUUID } from "node:crypto";
import { createRequire } from "node:module";

const [port, packages] = process.argv.slice(2);
const { WebSocketServer } = createRequire(packages)("ws");

const MAX_SUBSCRIPTIONS = 100;
const prices = new Map();

const server = new WebSocketServer({
  host: "127.0.0.1",
  port: Number(port),
  path: "/api/v1/ws/token-data",
  maxPayload: 1_048_576,
  perMessageDeflate: { threshold: 1025 }, // only messages above 1 KB
});

function update(token) {
  const price = Math.max(1, (prices.get(token) ?? 100_000) + Math.round(Math.random() * 100 - 50));
  prices.set(token, price);
  const volume = { h24: "1000", h1: "50", m5: "5" };
  return { address: token, price: (price / 1000).toFixed(3), marketCap: `${price}000`, volume };
}

server.on("connection", (socket) => {
  let sequence = 0;
  const tokens = new Set();
  const send = (type, data) => socket.send(JSON.stringify({ type, sequence: ++sequence, timestamp: Date.now(), data }));
  const error = (code, message) => send("error", { code, message, level: "error" });

  function take(text) {
    let message;
    try {
      message = JSON.parse(text);
    } catch {
      return error("INVALID_JSON", "this is not JSON");
    }
    if (message?.type !== "subscription") return error("UNKNOWN_TYPE", "only subscription is taken");
    const { action, tokens: names } = message.data ?? {};
    if (action !== "subscribe" && action !== "unsubscribe") return error("INVALID_ACTION", "subscribe or unsubscribe");
    if (!Array.isArray(names) || names.length === 0) return error("INVALID_TOKENS", "tokens is a list of names");
    const done = [];
    const refused = [];
    for (const name of names) {
      const good = typeof name === "string" && name.length > 0 && name.length <= 100;
      const full = action === "subscribe" && !tokens.has(name) && tokens.size >= MAX_SUBSCRIPTIONS;
      if (!good || full) {
        refused.push(String(JSON.stringify(name)).slice(0, 100));
        continue;
      }
      if (action === "subscribe") tokens.add(name);
      else tokens.delete(name);
      done.push(name);
    }
    if (done.length) send("subscription", { action, tokens: done, status: "success" });
    if (refused.length) {
      send("subscription", { action, tokens: refused, status: "error" });
      error("REFUSED", `${refused.length} of the tokens are no names, or too many`);
    }
    if (action === "subscribe") for (const name of done) send("token_update", update(name));
  }

  let alive = true;
  socket.on("pong", () => (alive = true));
  socket.on("message", (data, isBinary) => (isBinary ? error("TEXT_ONLY", "text is needed") : take(data.toString())));
  socket.on("error", () => {}); // ws closes the connection with the fitting code
  const feed = setInterval(() => tokens.forEach((name) => send("token_update", update(name))), 5_000);
  const heartbeat = setInterval(() => {
    if (!alive) return socket.terminate();
    alive = false;
    socket.ping();
  }, 15_000);
  socket.on("close", () => {
    clearInterval(feed);
    clearInterval(heartbeat);
  });
  send("connection", { status: "connected", connectionId: randomUUID(), maxSubscriptions: MAX_SUBSCRIPTIONS });
});
