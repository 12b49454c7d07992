package initd

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
)

// accounts adds users to the machine's passwd and group files when they first come.
type accounts struct {
	dir   string // /etc
	shell string // of tasks and apps; that of logins starts it, too
	mu    sync.Mutex
	known map[string]int // by name; what this process has seen in the files
}

func newAccounts(dir string) *accounts {
	a := &accounts{dir: dir, shell: "/bin/sh", known: map[string]int{}}
	if _, err := os.Stat("/bin/bash"); err == nil {
		a.shell = "/bin/bash"
	}
	return a
}

// ensure makes sure that the account of who is there. It refuses a name or an id that the image
// gives to somebody else.
func (a *accounts) ensure(who api.Account) error {
	name, uid, gid, home := who.User, who.UID, who.GID, who.Home
	a.mu.Lock()
	defer a.mu.Unlock()
	if id, ok := a.known[name]; ok && id == uid {
		return nil
	}
	if err := dspool.CheckName("user", name); err != nil {
		return err
	}
	if !filepath.IsAbs(home) || strings.ContainsAny(home, ":\n\r\x00") {
		return dspool.Errorf(dspool.Invalid, "home %s of user %s is not a path that an account can have", dspool.Quote(home), name)
	}
	unlock, err := a.lock()
	if err != nil {
		return err
	}
	defer unlock()
	login := filepath.Join(a.dir, "dspool-shell")
	if err := replaceFile(login, fmt.Appendf(nil, loginShell, a.shell), 0o755); err != nil {
		return fmt.Errorf("add an account: %w", err)
	}
	// Both are looked at before either is written.
	group, err := a.with("group", name, gid, fmt.Sprintf("%s:*:%d:", name, gid))
	if err != nil {
		return err
	}
	// "*" is no password and needs no shadow line.
	passwd, err := a.with("passwd", name, uid, fmt.Sprintf("%s:*:%d:%d::%s:%s", name, uid, gid, home, login))
	if err != nil {
		return err
	}
	for file, text := range map[string][]byte{"group": group, "passwd": passwd} {
		if text == nil {
			continue
		}
		if err := replaceFile(filepath.Join(a.dir, file), text, 0o644); err != nil {
			return fmt.Errorf("add an account: %w", err)
		}
	}
	a.known[name] = uid
	return nil
}

// lock is that of lckpwdf(3), which useradd and passwd take.
func (a *accounts) lock() (func(), error) {
	f, err := os.OpenFile(filepath.Join(a.dir, ".pwd.lock"), os.O_WRONLY|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock accounts: %w", err)
	}
	if err := unix.FcntlFlock(f.Fd(), unix.F_SETLKW, &unix.Flock_t{Type: unix.F_WRLCK}); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock accounts: %w", err)
	}
	return func() { f.Close() }, nil
}

// with returns the file's text with line added; nil if the account is there.
func (a *accounts) with(file, name string, id int, line string) ([]byte, error) {
	text, err := os.ReadFile(filepath.Join(a.dir, file))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read accounts: %w", err)
	}
	kept := make([]byte, 0, len(text)+len(line)+2)
	for l := range strings.Lines(string(text)) {
		f := strings.Split(strings.TrimSpace(l), ":")
		if len(f) < 3 {
			kept = append(kept, l...)
			continue
		}
		if had, err := strconv.Atoi(f[2]); err == nil && f[0] == name && had != id && had >= MinUID && f[1] == "*" {
			continue // ours, of somebody who was removed; another person has that name now
		}
		kept = append(kept, l...)
		switch sameID := f[2] == strconv.Itoa(id); {
		case f[0] == name && sameID:
			return nil, nil
		case f[0] == name:
			return nil, dspool.Errorf(dspool.Conflict, "the image has its own %s in /etc/%s, with id %s", name, file, f[2]).
				WithHint("rename the user, or remove that account from the image")
		case sameID:
			return nil, dspool.Errorf(dspool.Conflict, "the image gives id %d to %s in /etc/%s", id, dspool.Quote(f[0]), file).
				WithHint("ids from 20000 on are dspool's; remove that account from the image")
		}
	}
	if len(kept) > 0 && !bytes.HasSuffix(kept, []byte("\n")) {
		kept = append(kept, '\n')
	}
	return append(kept, line+"\n"...), nil
}

// replaceFile makes path hold data, or leaves it as it was.
func replaceFile(path string, data []byte, perm os.FileMode) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = f.Write(data)
	if err = errors.Join(err, f.Chmod(perm), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
