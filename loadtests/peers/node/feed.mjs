// What the peers on Node.js and Bun share: the command line, the workload, who subscribed to what, the grid of ticks.
// A message is a prefix, the connection's own number, and a tail that is built once per tick and distinct set.
import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';

export const { values: told } = parseArgs({
  options: {
    port: { type: 'string' },
    workload: { type: 'string' },
    compress: { type: 'string', default: 'none' },
    broadcast: { type: 'boolean', default: false }, // one number for all: the easier task
  },
});
if (!told.port || !told.workload) {
  console.error('usage: --port P --workload FILE [--compress none|default|full] [--broadcast]');
  process.exit(2);
}

const workload = JSON.parse(readFileSync(told.workload, 'utf8'));
const index = new Map(workload.tokens.map((token, number) => [token, number]));
export const batch = workload.kind === 'batch';
export const type = batch ? 'token_batch' : 'token_update';
export const prefix = `{"type":"${type}","sequence":`;

// The clients that subscribed to the same tokens; `sequence` counts for all of them in the easier task.
export const groups = new Map();

// Take a client's first message: it is served from the next tick on.
export function subscribe(client, message) {
  const wanted = new Set(message.data.tokens.map((token) => index.get(token)));
  const key = [...wanted].sort((a, b) => a - b).join(' ');
  leave(client);
  if (!groups.has(key)) groups.set(key, { key: `set ${groups.size}`, wanted, members: new Set(), sequence: 0 });
  client.group = groups.get(key);
  client.group.members.add(client);
  client.sequence = 0;
}

export function leave(client) {
  client.group?.members.delete(client);
}

// What changed for a set in a tick: the data of each update, as the workload has them.
function changed(tick, wanted) {
  const found = [];
  for (const [token, data] of tick) if (wanted.has(token)) found.push(data);
  return found;
}

// What follows the number in each message of a tick; none when nothing of the set changed.
export function tails(tick, group) {
  const stamp = `,"timestamp":${Date.now()},"data":`;
  const found = changed(tick, group.wanted);
  if (!batch) return found.map((data) => `${stamp}${data}}`);
  return found.length ? [`${stamp}{"updates":[${found.join(',')}]}}`] : [];
}

// The same as values, for a library that writes the JSON itself.
export function bodies(tick, group) {
  const found = changed(tick, group.wanted);
  if (!batch) return found;
  return found.length ? [{ updates: found }] : [];
}

// Call `send(tick, group)` for each group with members at each planned instant; `read` prepares an update's data.
// `clock` is CLOCK_MONOTONIC in ns: what hrtime is on Node.js.
export function run(send, { read = (data) => data, clock = process.hrtime.bigint } = {}) {
  const plan = workload.ticks.map((tick) => tick.map(([token, data]) => [token, read(data)]));
  const ms = 1_000_000n;
  const interval = BigInt(workload.interval_ms) * ms;
  const start = ((clock() + ms - 1n) / ms) * ms;
  let number = 0n;
  const next = () => {
    const now = clock();
    const skipped = (now - start + interval - 1n) / interval - 1n;
    number = number + 1n > skipped ? number + 1n : skipped;
    wait();
  };
  const wait = () => {
    const early = start + number * interval - clock();
    if (early > 0n) return setTimeout(wait, Math.ceil(Number(early) / 1e6));
    const tick = plan[Number(number % BigInt(plan.length))];
    for (const group of groups.values()) if (group.members.size) send(tick, group);
    next();
  };
  console.log('listening');
  console.log(`grid ${start}`);
  process.on('SIGTERM', () => process.exit(0));
  next();
}
