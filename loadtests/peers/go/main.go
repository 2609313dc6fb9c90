// The task on gorilla/websocket: see ../README.md.
//
// Why: its documentation allows one writer per connection and shows a goroutine with a channel for each; WriteMessage
// of a whole message is its path without a copy. PreparedMessage is for identical bytes only, so it has a row of its
// own (easier task). Compression is level 1 without context takeover, all that the library has.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"log"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync"

	"github.com/gorilla/websocket"
)

// threshold is the size in bytes from which a message is compressed; the library leaves that to its user.
const threshold = 1024

// waiting is how many messages may wait for a connection that does not read; then it is closed.
const waiting = 256

// outgoing is the shared part of one message, or the whole of it in the easier task.
type outgoing struct {
	tail     []byte
	prepared *websocket.PreparedMessage
}

// client is a connection and the goroutine that writes to it.
type client struct {
	conn *websocket.Conn
	// queue gets all messages of a tick at once.
	queue chan []outgoing
	group *group
}

var messages = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// write sends what the queue holds, each message with this connection's own number.
func (c *client) write(prefix []byte, compress bool) {
	defer c.conn.Close()
	sequence := 0
	for batch := range c.queue {
		for _, out := range batch {
			if out.prepared != nil {
				if c.conn.WritePreparedMessage(out.prepared) != nil {
					return
				}
				continue
			}
			sequence++
			message := messages.Get().(*bytes.Buffer)
			message.Reset()
			message.Write(prefix)
			message.Write(strconv.AppendInt(message.AvailableBuffer(), int64(sequence), 10))
			message.Write(out.tail)
			c.conn.EnableWriteCompression(compress && message.Len() >= threshold)
			err := c.conn.WriteMessage(websocket.TextMessage, message.Bytes())
			messages.Put(message)
			if err != nil {
				return
			}
		}
	}
}

func main() {
	port := flag.Int("port", 0, "port on 127.0.0.1")
	path := flag.String("workload", "", "the workload's file")
	compress := flag.String("compress", "none", "none or default")
	broadcast := flag.Bool("broadcast", false, "one number for all: the easier task")
	version := flag.Bool("version", false, "print versions")
	flag.Parse()
	if *version {
		module := "gorilla/websocket"
		if info, ok := debug.ReadBuildInfo(); ok && len(info.Deps) > 0 {
			module += " " + info.Deps[0].Version
		}
		fmt.Printf("%s, %s\n", module, runtime.Version())
		return
	}
	if *port == 0 || *path == "" {
		fmt.Fprintln(os.Stderr, "usage: --port P --workload FILE [--compress none|default] [--broadcast]")
		os.Exit(2)
	}
	log.SetFlags(0)
	compressing := *compress != "none"
	feed, err := load(*path)
	if err != nil {
		log.Fatalf("the workload %s: %v", *path, err)
	}
	upgrader := websocket.Upgrader{
		EnableCompression: compressing,
		WriteBufferPool:   &sync.Pool{},
		WriteBufferSize:   4096,
		CheckOrigin:       func(*http.Request) bool { return true },
	}
	http.HandleFunc("/api/v1/ws/token-data", func(w http.ResponseWriter, r *http.Request) {
		conn, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		c := &client{conn: conn, queue: make(chan []outgoing, waiting)}
		go c.write(feed.prefix, compressing)
		defer feed.leave(c)
		for {
			_, message, err := conn.ReadMessage()
			if err != nil || feed.subscribe(c, message) != nil {
				return
			}
		}
	})
	listener, err := listen(*port)
	if err != nil {
		log.Fatalf("port %d: %v", *port, err)
	}
	go feed.run(func(tick int, g *group) []outgoing {
		tails := feed.tails(tick, g)
		out := make([]outgoing, len(tails))
		for i, tail := range tails {
			out[i].tail = tail
			if *broadcast {
				g.sequence++
				whole := append(strconv.AppendInt(append([]byte(nil), feed.prefix...), int64(g.sequence), 10), tail...)
				out[i].prepared, _ = websocket.NewPreparedMessage(websocket.TextMessage, whole)
			}
		}
		return out
	})
	log.Fatal(http.Serve(listener, nil))
}
