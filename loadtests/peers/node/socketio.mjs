// The task on Socket.IO: socket.emit() of an object per socket, or one emit() to the room of a set (easier task).
// Why: emit() is its only way of sending, and it writes the JSON itself. Of its performance advice: WebSocket only,
// bufferutil, the first HTTP request dropped. perMessageDeflate is off by default; the modes are those of ws.
import { createServer } from 'node:http';
import { Server } from 'socket.io';
import { deflate } from './deflate.mjs';
import { bodies, leave, run, subscribe, told, type } from './feed.mjs';

const http = createServer();
const io = new Server(http, {
  transports: ['websocket'],
  serveClient: false,
  perMessageDeflate: deflate[told.compress],
});
io.engine.on('connection', (raw) => {
  raw.request = null;
});

io.on('connection', (socket) => {
  const client = { socket };
  socket.on('message', (message) => {
    subscribe(client, message);
    socket.join(client.group.key);
  });
  socket.on('disconnect', () => leave(client));
});

function each(tick, group) {
  const timestamp = Date.now();
  for (const data of bodies(tick, group)) {
    for (const client of group.members) {
      client.socket.emit('message', { type, sequence: ++client.sequence, timestamp, data });
    }
  }
}

function room(tick, group) {
  const timestamp = Date.now();
  for (const data of bodies(tick, group)) {
    io.to(group.key).emit('message', { type, sequence: ++group.sequence, timestamp, data });
  }
}

http.listen(Number(told.port), '127.0.0.1', 1024, () => run(told.broadcast ? room : each, { read: JSON.parse }));
