package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// change is one token of a tick and the JSON of its update.
type change struct {
	token int
	data  []byte
}

// group is the clients that subscribed to the same tokens; sequence counts for all of them in the easier task.
type group struct {
	wanted   []bool
	members  map[*client]struct{}
	sequence int
}

// feed is the workload, who subscribed to what, and the grid of planned ticks.
type feed struct {
	interval time.Duration
	batch    bool
	prefix   []byte
	index    map[string]int
	ticks    [][]change
	lock     sync.Mutex
	groups   map[string]*group
}

func load(path string) (*feed, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var told struct {
		IntervalMS int `json:"interval_ms"`
		Kind       string
		Tokens     []string
		Ticks      [][][2]json.RawMessage
	}
	if err := json.Unmarshal(text, &told); err != nil {
		return nil, err
	}
	f := &feed{
		interval: time.Duration(told.IntervalMS) * time.Millisecond,
		batch:    told.Kind == "batch",
		index:    map[string]int{},
		groups:   map[string]*group{},
	}
	kind := "token_update"
	if f.batch {
		kind = "token_batch"
	}
	f.prefix = fmt.Appendf(nil, `{"type":"%s","sequence":`, kind)
	for i, token := range told.Tokens {
		f.index[token] = i
	}
	for _, tick := range told.Ticks {
		var changes []change
		for _, pair := range tick {
			var token int
			var data string
			if err := json.Unmarshal(pair[0], &token); err != nil {
				return nil, err
			}
			if err := json.Unmarshal(pair[1], &data); err != nil {
				return nil, err
			}
			changes = append(changes, change{token, []byte(data)})
		}
		f.ticks = append(f.ticks, changes)
	}
	return f, nil
}

// subscribe takes a client's first message; it is served from the next tick on.
func (f *feed) subscribe(c *client, message []byte) error {
	var told struct{ Data struct{ Tokens []string } }
	if err := json.Unmarshal(message, &told); err != nil {
		return err
	}
	wanted := make([]bool, len(f.index))
	key := make([]byte, len(f.index))
	for _, token := range told.Data.Tokens {
		if i, known := f.index[token]; known {
			wanted[i], key[i] = true, 1
		}
	}
	f.lock.Lock()
	defer f.lock.Unlock()
	if c.group != nil {
		delete(c.group.members, c)
	}
	if f.groups[string(key)] == nil {
		f.groups[string(key)] = &group{wanted: wanted, members: map[*client]struct{}{}}
	}
	c.group = f.groups[string(key)]
	c.group.members[c] = struct{}{}
	return nil
}

func (f *feed) leave(c *client) {
	f.lock.Lock()
	defer f.lock.Unlock()
	if c.group != nil {
		delete(c.group.members, c)
	}
	close(c.queue)
	c.conn.Close()
}

// tails is what follows the number in each message of a tick: none when nothing of the set changed.
func (f *feed) tails(tick int, g *group) [][]byte {
	var changed [][]byte
	for _, one := range f.ticks[tick%len(f.ticks)] {
		if g.wanted[one.token] {
			changed = append(changed, one.data)
		}
	}
	stamp := fmt.Appendf(nil, `,"timestamp":%d,"data":`, time.Now().UnixMilli())
	if f.batch && len(changed) > 0 {
		body := bytes.Join(changed, []byte(","))
		return [][]byte{bytes.Join([][]byte{stamp, []byte(`{"updates":[`), body, []byte(`]}}`)}, nil)}
	}
	for i, data := range changed {
		changed[i] = bytes.Join([][]byte{stamp, data, []byte("}")}, nil)
	}
	return changed
}

// monotonic is CLOCK_MONOTONIC in ns.
func monotonic() int64 {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now)
	return now.Nano()
}

// run calls prepare for each group with members at each planned instant and hands the result to its members.
func (f *feed) run(prepare func(tick int, g *group) []outgoing) {
	const ms = int64(time.Millisecond)
	start := (monotonic() + ms - 1) / ms * ms
	fmt.Printf("listening\ngrid %d\n", start)
	interval := int64(f.interval)
	for tick := int64(1); ; tick++ {
		tick = max(tick, (monotonic()-start+interval-1)/interval-1)
		if early := start + tick*interval - monotonic(); early > 0 {
			time.Sleep(time.Duration(early))
		}
		f.lock.Lock()
		for _, g := range f.groups {
			if len(g.members) == 0 {
				continue
			}
			out := prepare(int(tick), g)
			if len(out) == 0 {
				continue
			}
			for c := range g.members {
				select {
				case c.queue <- out:
				default: // it does not read
					c.conn.Close()
				}
			}
		}
		f.lock.Unlock()
	}
}

func listen(port int) (net.Listener, error) {
	return net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", port))
}
