"""The task on ``picows``: a listener per connection and ``WSTransport.send``, which frames and writes at once.

Why this API: it is called from the tick without a task per connection. ``send_reuse_external_bytearray`` saves a copy
of the message, but wants a bytearray of each, which is a copy too: it took as long in W1 and longer in W9. ``asyncio``
below it is uvloop with aiofastnet's transports, as installed. It has no permessage-deflate of its own.
"""

import uvloop
from feed import Client, Feed, options
from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server


async def main() -> None:
    told = options("picows")
    feed: Feed[WSTransport] = Feed(told.workload)

    class Listener(WSListener):
        def on_ws_connected(self, transport: WSTransport) -> None:
            self.client = Client(transport)

        def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
            if frame.msg_type == WSMsgType.TEXT:
                feed.subscribe(self.client, frame.get_payload_as_bytes())
            elif frame.msg_type == WSMsgType.CLOSE:
                transport.send_close(frame.get_close_code())
                transport.disconnect()

        def on_ws_disconnected(self, transport: WSTransport) -> None:
            feed.leave(self.client)

    def listener(_: WSUpgradeRequest) -> WSListener:
        return Listener()

    async with await ws_create_server(listener, "127.0.0.1", told.port, backlog=1024):
        async for tick in feed.ticks():
            for _, members, tails in tick:
                for client in members:
                    send = client.connection.send
                    for tail in tails:
                        client.sequence += 1
                        send(WSMsgType.TEXT, b"%b%d%b" % (feed.prefix, client.sequence, tail))


if __name__ == "__main__":
    uvloop.run(main())
