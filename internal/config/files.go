package config

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"github.com/dspool/dspool"
)

const (
	maxPEM    = 1 << 20
	maxSecret = 512
)

// ReadSecret reads a file that holds one secret and a line's end at most. It refuses, with the reason, a file
// that others than the host's root could have read or written, and one that holds more than one word: a
// secret is sent to the provider that the file of configuration names, and no other file shall ever be.
func ReadSecret(path string) (string, error) {
	b, info, err := readFile(path, maxSecret+2)
	if err != nil {
		return "", err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !ok || st.Uid != 0 && int(st.Uid) != os.Geteuid():
		return "", dspool.Errorf(dspool.Invalid, "%s does not belong to root", path).WithHint("chown root %s", path)
	case info.Mode().Perm()&0o077 != 0:
		return "", dspool.Errorf(dspool.Invalid, "%s has mode %04o, so others than root may read or write it", path, info.Mode().Perm()).WithHint("chmod 600 %s", path)
	}
	s := strings.TrimRight(string(b), "\r\n")
	if s == "" || len(s) > maxSecret || strings.ContainsFunc(s, func(c rune) bool { return c <= 0x20 || c >= 0x7f }) {
		return "", dspool.Errorf(dspool.Invalid, "%s does not hold a secret alone", path).WithHint("one line of at most %d printable characters without spaces", maxSecret)
	}
	return s, nil
}

// readFile reads a plain file of at most max bytes. Nothing else is opened: a pipe would hold the server
// up, and a device may do something when it is opened.
func readFile(path string, max int64) ([]byte, fs.FileInfo, error) {
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("it is no plain file")
	}
	var f *os.File
	if err == nil {
		f, err = os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0)
	}
	if err == nil {
		defer f.Close()
		info, err = f.Stat()
	}
	var b []byte
	if err == nil {
		b, err = io.ReadAll(io.LimitReader(f, max+1))
	}
	var p *fs.PathError
	if errors.As(err, &p) {
		err = p.Err // the sentence names the path already
	}
	if err == nil && int64(len(b)) > max {
		err = errors.New("it is too long")
	}
	if err != nil {
		return nil, nil, dspool.Errorf(dspool.Invalid, "%s cannot be read: %w", path, err)
	}
	return b, info, nil
}

// pair checks that certificate and key can be read and belong to each other.
func (r *reader) pair(line int, where, certificate, key string) {
	cert, _, err := readFile(certificate, maxPEM)
	if err != nil {
		r.refuse(nodeAt(line), "certificate of "+where, err)
	}
	secret, _, kerr := readFile(key, maxPEM)
	if kerr != nil {
		r.refuse(nodeAt(line), "key of "+where, kerr)
	}
	if err != nil || kerr != nil {
		return
	}
	if _, err := tls.X509KeyPair(cert, secret); err != nil {
		r.problem(nodeAt(line), "PEM files: the certificate, followed by those between it and its authority, and its key",
			"%s and %s of %s do not fit together: %v", certificate, key, where, err)
	}
}

// authorities checks a PEM file of at least one certificate.
func (r *reader) authorities(line int, where, path string) {
	b, _, err := readFile(path, maxPEM)
	switch {
	case err != nil:
		r.refuse(nodeAt(line), where, err)
	case !x509.NewCertPool().AppendCertsFromPEM(b):
		r.problem(nodeAt(line), "a PEM file", "%s: %s holds no certificate", where, path)
	}
}
