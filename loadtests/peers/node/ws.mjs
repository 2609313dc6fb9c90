// The task on `ws`: send() of one string per connection.
// Why: measured, a string costs less than a Buffer of ours at 11 KB and as much at 260 bytes; ws encodes it once and
// writes header and payload together. perMessageDeflate is off by default; `default` has the values its README shows
// for it, `full` is `true`: zlib as it comes, with the window kept from message to message.
import { WebSocketServer } from 'ws';
import { deflate } from './deflate.mjs';
import { leave, prefix, run, subscribe, tails, told } from './feed.mjs';

const server = new WebSocketServer({
  host: '127.0.0.1',
  port: Number(told.port),
  backlog: 1024,
  perMessageDeflate: deflate[told.compress],
});

server.on('connection', (socket) => {
  const client = { socket };
  socket.on('message', (data) => subscribe(client, JSON.parse(data)));
  socket.on('close', () => leave(client));
  socket.on('error', () => leave(client));
});

server.on('listening', () =>
  run((tick, group) => {
    const ready = tails(tick, group);
    for (const client of group.members) {
      for (const tail of ready) {
        client.socket.send(prefix + ++client.sequence + tail);
      }
    }
  }),
);
