package webtls

import (
	"crypto/tls"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/dspool/dspool"
)

// lookAtFiles is how often files are looked at, at most.
const lookAtFiles = 5 * time.Second

// files is a certificate that somebody else renews: it is read again when the files have changed.
type files struct {
	cert, key string
	now       func() time.Time
	log       *slog.Logger

	mu     sync.Mutex
	loaded *tls.Certificate
	is     [2]version
	failed [2]version // of the last try that failed, so that it is said once
	next   time.Time  // when to look again
}

// version tells one content of a file from the next without reading it.
type version struct {
	size  int64
	mode  fs.FileMode
	since time.Time
}

func openFiles(cert, key string, now func() time.Time, log *slog.Logger) (*files, error) {
	f := &files{cert: cert, key: key, now: now, log: log, next: now().Add(lookAtFiles)}
	f.is = f.versions()
	var err error
	if f.loaded, err = f.read(); err != nil {
		return nil, err
	}
	return f, nil
}

func (f *files) read() (*tls.Certificate, error) {
	cert, err := tls.LoadX509KeyPair(f.cert, f.key)
	if err != nil {
		return nil, dspool.Errorf(dspool.Invalid, "certificate %s and key %s cannot be used: %w", f.cert, f.key, err).
			WithHint("PEM files of a certificate with its chain, and of its key")
	}
	return &cert, nil
}

// versions looks through links: a renewal often changes only what a link points to.
func (f *files) versions() (v [2]version) {
	for i, path := range []string{f.cert, f.key} {
		if info, err := os.Stat(path); err == nil {
			v[i] = version{info.Size(), info.Mode(), info.ModTime()}
		}
	}
	return v
}

func (f *files) certificate(hello *tls.ClientHelloInfo, _ string) (*tls.Certificate, error) {
	if isChallenge(hello) {
		return nil, nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if now := f.now(); !now.Before(f.next) {
		f.next = now.Add(lookAtFiles)
		f.refresh()
	}
	return f.loaded, nil
}

// refresh keeps the old certificate when the new files cannot be used, as while they are being written.
func (f *files) refresh() {
	is := f.versions() // before reading, so that a change meanwhile is seen the next time
	if is == f.is {
		return
	}
	cert, err := f.read()
	switch {
	case err == nil:
		f.loaded, f.is, f.failed = cert, is, [2]version{}
		f.log.Info("web doors show a new certificate", "file", f.cert, "until", cert.Leaf.NotAfter)
	case f.failed != is:
		f.failed = is
		f.log.Error("web doors keep their old certificate", "until", f.loaded.Leaf.NotAfter, "error", err)
	}
}

func (f *files) close() {}
