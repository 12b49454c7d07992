package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/dspool/dspool"
)

// Credentials are a login that its user asked to keep. The token lives hours; the file is its user's alone.
type Credentials struct {
	URL     string    `json:"url"`
	User    string    `json:"user"`
	Token   string    `json:"token"`
	TokenID string    `json:"token_id,omitempty"` // with which it is revoked
	CA      string    `json:"ca,omitempty"`       // PEM; "" trusts the system's authorities
	Expires time.Time `json:"expires,omitzero"`
}

const maxCredentials = 1 << 20

// ConfigDir is where this user's settings of dspool lie: $XDG_CONFIG_HOME/dspool or
// ~/.config/dspool; "" when neither variable says an absolute path.
func ConfigDir(getenv func(string) string) string {
	if dir := getenv("XDG_CONFIG_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "dspool")
	}
	if home := getenv("HOME"); filepath.IsAbs(home) {
		return filepath.Join(home, ".config", "dspool")
	}
	return ""
}

// CredentialsFile is where a kept login lies, or "".
func CredentialsFile(getenv func(string) string) string {
	if dir := ConfigDir(getenv); dir != "" {
		return filepath.Join(dir, "credentials.json")
	}
	return ""
}

// ReadCredentials reads a kept login. A missing file is fs.ErrNotExist; one that others may read or that
// is another user's is refused, as ssh does with keys.
func ReadCredentials(path string) (Credentials, error) {
	var c Credentials
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a fifo would hang
	if err != nil {
		return c, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return c, err
	}
	refuse := func(why string) (Credentials, error) {
		return Credentials{}, dspool.Errorf(dspool.Forbidden, "the saved login %s is not used: %s", path, why).
			WithHint("remove it, then log in again with `dspool login --save`")
	}
	if !info.Mode().IsRegular() {
		return refuse("it is no regular file")
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() {
		return refuse("it belongs to another user")
	}
	if info.Mode().Perm()&0o077 != 0 {
		return refuse(fmt.Sprintf("others may read it (mode %#o)", info.Mode().Perm()))
	}
	text, err := io.ReadAll(io.LimitReader(f, maxCredentials))
	if err != nil {
		return c, err
	}
	if err := json.Unmarshal(text, &c); err != nil || c.URL == "" || c.Token == "" {
		return refuse("it holds no login")
	}
	return c, nil
}

// Save writes the login for its user alone, whole or not at all.
func (c Credentials) Save(path string) error {
	text, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	return WriteFile(path, append(text, '\n'), 0o600)
}

// WriteFile replaces a file by one with that content and mode, whole or not at all; a directory that is
// missing is made for its user alone.
func WriteFile(path string, content []byte, mode fs.FileMode) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	f, err := os.CreateTemp(dir, ".dspool-*") // 0600
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(content)
	if err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
