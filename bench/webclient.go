package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"time"
)

const webWithin = 2 * time.Minute // for any one measurement

// dialWeb opens a connection and asks; it returns what follows the head of the response.
func dialWeb(ctx context.Context, p *webProxy, page, fields string, want int) (net.Conn, *bufio.Reader, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", p.addr)
	if err != nil {
		return nil, nil, err
	}
	if err := c.SetDeadline(time.Now().Add(webWithin)); err != nil {
		return nil, nil, errors.Join(err, c.Close())
	}
	fmt.Fprintf(c, "GET %s%s HTTP/1.1\r\nHost: localhost\r\n%s\r\n", webPath, page, fields)
	in := bufio.NewReaderSize(c, 256<<10)
	resp, err := http.ReadResponse(in, nil)
	if err == nil && resp.StatusCode != want {
		err = errors.New(resp.Status)
	}
	if err != nil {
		return nil, nil, errors.Join(err, c.Close())
	}
	return c, in, nil
}

// roundTrip is how long a message takes to come back, in the median.
func roundTrip(ctx context.Context, p *webProxy) (time.Duration, error) {
	c, in, err := dialWeb(ctx, p, "socket", "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n", http.StatusSwitchingProtocols)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	message := make([]byte, roundTripBytes)
	message[0], message[1] = 0x82, roundTripBytes-2 // a binary frame; nobody on the way looks
	took := make([]time.Duration, roundTrips)
	for i := range took {
		begun := time.Now()
		if _, err := c.Write(message); err != nil {
			return 0, err
		}
		if _, err := io.ReadFull(in, message); err != nil {
			return 0, err
		}
		took[i] = time.Since(begun)
	}
	return median(took), nil
}

// download is how long a GiB takes.
func download(ctx context.Context, p *webProxy) (time.Duration, error) {
	begun := time.Now()
	c, in, err := dialWeb(ctx, p, "big", "Connection: close\r\n", http.StatusOK)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	n := 0
	buf := make([]byte, 256<<10)
	for n < gib {
		k, err := in.Read(buf)
		n += k
		if err != nil {
			return 0, fmt.Errorf("after %d bytes: %w", n, err)
		}
	}
	return time.Since(begun), nil
}

func commandOutput(ctx context.Context, name string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s: %w: %s", name, err, tail(string(out)))
	}
	return string(out), nil
}
