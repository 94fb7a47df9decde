// A server for tests: who asks, by HTTP or by a datagram, is told the name of the pod and whom it saw.
package main

import (
	"context"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
)

const address = ":8080"

func main() {
	name, err := os.Hostname()
	if err != nil {
		log.Fatal(err)
	}

	for _, network := range []string{"udp4", "udp6"} {
		packets, err := net.ListenPacket(network, address)
		if err != nil {
			log.Print(err)
			continue
		}
		go datagrams(packets, name)
	}
	server := &http.Server{Addr: address, Handler: http.HandlerFunc(func(to http.ResponseWriter, asked *http.Request) {
		host, _, _ := net.SplitHostPort(asked.RemoteAddr)
		fmt.Fprintf(to, "%s %s\n", name, host)
	})}
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGTERM, syscall.SIGINT)
	ended := make(chan struct{})
	go func() {
		<-told
		_ = server.Shutdown(context.Background()) // requests that are under way are answered
		close(ended)
	}()
	if err := server.ListenAndServe(); err != http.ErrServerClosed {
		log.Fatal(err)
	}
	<-ended
}

func datagrams(packets net.PacketConn, name string) {
	buffer := make([]byte, 2048)
	for {
		_, from, err := packets.ReadFrom(buffer)
		if err != nil {
			log.Fatal(err)
		}
		host, _, _ := net.SplitHostPort(from.String())
		_, _ = packets.WriteTo([]byte(fmt.Sprintf("%s %s\n", name, host)), from)
	}
}
