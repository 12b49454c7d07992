package initd

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/asuser"
)

const (
	// LogDir is where the logs of apps are, in a home.
	LogDir = ".local/state/dspool"
	// mostLog is how long a log may become, in bytes. Then its beginning is dropped, but for the
	// last keptLog.
	mostLog = 10 << 20
	keptLog = 256 << 10
	// lastWordsWait is how long the end of the output is waited for when nothing of an app lives.
	lastWordsWait = time.Second
)

// appLog carries the output of a run to the user's file, as far as that can be written, and keeps
// the last words. What cannot be written is dropped: a full home keeps no app from running.
type appLog struct {
	pipe *os.File
	file *os.File // nil if there is none
	size int64
	said tail
	done chan struct{}
}

// openAppLog opens the log of an app, empty, with the rights of the calling thread and through no link.
func openAppLog(home, name string, uid int) (*os.File, error) {
	root, err := asuser.OpenRoot(home)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	if err := root.MkdirAll(LogDir, 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of logs: %w", err)
	}
	return root.OpenOwned(filepath.Join(LogDir, name+".log"), os.O_RDWR|os.O_CREATE|os.O_APPEND|os.O_TRUNC, 0o600, uid)
}

// newAppLog returns a log and the end of its pipe that an app writes to.
func newAppLog(file *os.File) (l *appLog, out int, err error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		if file != nil {
			file.Close()
		}
		return nil, -1, fmt.Errorf("make a pipe: %w", err)
	}
	_ = unix.SetNonblock(p[0], true) // this end only, so that no thread waits in a read
	l = &appLog{pipe: os.NewFile(uintptr(p[0]), "output"), file: file, done: make(chan struct{})}
	go l.carry()
	return l, p[1], nil
}

func (l *appLog) carry() {
	defer close(l.done)
	defer l.pipe.Close()
	if l.file != nil {
		defer l.file.Close()
	}
	buf := make([]byte, 32<<10)
	for {
		n, err := l.pipe.Read(buf)
		l.said.add(buf[:n])
		l.write(buf[:n])
		if err != nil {
			return
		}
	}
}

// write is called by carry only.
func (l *appLog) write(b []byte) {
	if l.file == nil || len(b) == 0 {
		return
	}
	if l.size+int64(len(b)) > mostLog {
		l.cut()
	}
	n, _ := l.file.Write(b)
	l.size += int64(n)
}

// cut drops the beginning of the file and says so in it.
func (l *appLog) cut() {
	kept := make([]byte, keptLog)
	n, err := l.file.ReadAt(kept, max(0, l.size-keptLog))
	if err != nil && !errors.Is(err, io.EOF) {
		n = 0
	}
	if err := l.file.Truncate(0); err != nil {
		l.file.Close()
		l.file = nil
		return
	}
	head := fmt.Sprintf("[dspool] This file holds at most %s: what was here before was removed.\n…", dspool.FormatBytes(mostLog))
	m, _ := l.file.WriteString(head)
	k, _ := l.file.Write(kept[:n])
	l.size = int64(m + k)
}

// finish returns the last words, when nothing of the app lives that could say more.
func (l *appLog) finish() string {
	select {
	case <-l.done:
	case <-time.After(lastWordsWait):
		_ = l.pipe.SetReadDeadline(time.Now()) // what is stuck in the kernel still holds the other end
	}
	return l.said.String()
}
