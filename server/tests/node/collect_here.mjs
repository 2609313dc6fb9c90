// node collect_here.mjs URL COUNT TOKEN…   (or bun): prints what collect.mjs collects, a line each.
import WebSocket from "ws";
import { collect } from "./collect.mjs";

if (typeof Bun === "undefined") globalThis.WebSocket = WebSocket;
const [url, count, ...tokens] = process.argv.slice(2);
for (const batch of await collect([url, Number(count), tokens])) console.log(batch);
