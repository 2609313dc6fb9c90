module tokenwire/benchmark/peers

go 1.23

require (
	github.com/gorilla/websocket v1.5.3
	golang.org/x/sys v0.28.0
)
