package server

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// listenSocket serves the host's root, and nobody else, on a unix socket: the kernel says who
// is on the other end (SO_PEERCRED, unix(7)).
func listenSocket(path string, log *slog.Logger) (net.Listener, error) {
	// The state directory is locked: a socket that lies there belongs to a server that has ended.
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove old socket: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("protect socket: %w", err)
	}
	return &rootListener{Listener: l, log: log}, nil
}

type rootListener struct {
	net.Listener
	log *slog.Logger
}

func (l *rootListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		uid, err := peerUID(conn.(*net.UnixConn))
		if err == nil && (uid == 0 || uid == uint32(os.Geteuid())) {
			return conn, nil
		}
		l.log.Warn("refused a connection to the socket", "uid", uid, "err", err)
		conn.Close()
	}
}

func peerUID(conn *net.UnixConn) (uint32, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	err2 := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err = errors.Join(err, err2); err != nil {
		return 0, err
	}
	return cred.Uid, nil
}
