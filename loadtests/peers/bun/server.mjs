// The task on Bun (uWebSockets inside): ws.send() of a string per connection, or server.publish() to the topic of a set.
// Why: a string goes down without a copy of ours, and cork() joins several messages of a tick into one write.
// perMessageDeflate is off by default; `default` is its documented `true`, `full` a compressor of its own per connection.
import { dlopen, ptr } from 'bun:ffi';
import { leave, prefix, run, subscribe, tails, told } from '../node/feed.mjs';

const THRESHOLD = 1024; // send() compresses only when asked to: from the size on that ws and others take
const compressing = told.compress !== 'none';
const modes = { none: false, default: true, full: { compress: 'dedicated', decompress: 'shared' } };

const server = Bun.serve({
  hostname: '127.0.0.1',
  port: Number(told.port),
  fetch(request, server) {
    return server.upgrade(request, { data: {} }) ? undefined : new Response('WebSocket only', { status: 426 });
  },
  websocket: {
    perMessageDeflate: modes[told.compress],
    message(ws, message) {
      ws.data.socket = ws;
      subscribe(ws.data, JSON.parse(message));
      if (told.broadcast) ws.subscribe(ws.data.group.key);
    },
    close(ws) {
      leave(ws.data);
    },
  },
});

function each(tick, group) {
  const ready = tails(tick, group);
  const one = (client, tail) =>
    client.socket.send(prefix + ++client.sequence + tail, compressing && tail.length >= THRESHOLD);
  for (const client of group.members) {
    if (ready.length === 1) one(client, ready[0]);
    else if (ready.length) client.socket.cork(() => ready.forEach((tail) => one(client, tail)));
  }
}

function topic(tick, group) {
  for (const tail of tails(tick, group)) {
    server.publish(group.key, prefix + ++group.sequence + tail, compressing && tail.length >= THRESHOLD);
  }
}

// Bun's hrtime starts with the process, so the grid's clock is asked of the C library.
const libc = dlopen('libc.so.6', { clock_gettime: { args: ['i32', 'ptr'], returns: 'i32' } });
const timespec = new BigInt64Array(2);
const CLOCK_MONOTONIC = 1;

function clock() {
  libc.symbols.clock_gettime(CLOCK_MONOTONIC, ptr(timespec));
  return timespec[0] * 1_000_000_000n + timespec[1];
}

run(told.broadcast ? topic : each, { clock });
