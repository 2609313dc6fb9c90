// Subscribes with batches and collects COUNT of them as they arrive; now and then it asks for a long answer, which
// goes through its decompressor alone. Runs in Node.js, Bun and a page: it needs nothing but a WebSocket.
export const collect = ([url, count, tokens]) =>
  new Promise((resolve, reject) => {
    const batches = [];
    const socket = new WebSocket(url);
    const subscribe = () =>
      socket.send(JSON.stringify({ type: "subscription", data: { action: "subscribe", tokens } }));
    const patience = setTimeout(() => reject(new Error(`only ${batches.length} batches`)), 40_000);
    socket.onopen = subscribe;
    socket.onerror = () => reject(new Error("the WebSocket failed"));
    socket.onmessage = (event) => {
      if (!event.data.includes('"token_batch"')) return;
      batches.push(event.data);
      if (batches.length % 40 === 0) subscribe();
      if (batches.length === count) {
        clearTimeout(patience);
        socket.close();
        resolve(batches);
      }
    };
  });
