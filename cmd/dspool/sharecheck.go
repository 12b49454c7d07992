package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/config"
	"github.com/dspool/dspool/internal/provider"
	"github.com/dspool/dspool/internal/server"
	"golang.org/x/sys/unix"
)

// sharesToCheck are the shares of a file; without one, where shares lie that name no path.
func sharesToCheck(file string) ([]dspool.Share, error) {
	if file == "" {
		return []dspool.Share{{Name: "without a path", Path: filepath.Join(stateDir(), "shares")}}, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(filepath.Dir(file))
	if err != nil {
		return nil, err
	}
	cfg, problems := config.Parse(file, text, dir)
	if err := config.Err(problems); err != nil {
		return nil, err
	}
	cfg.SetStateDir(stateDir())
	return cfg.Shares, nil
}

// checkShares warns of shares on the file system of the state: whoever fills one takes the state's room.
func checkShares(state string, shares []dspool.Share) []provider.Finding {
	var beside []string
	for _, s := range shares {
		if device(s.Path) == device(state) {
			beside = append(beside, s.Name)
		}
	}
	f := provider.Finding{Subject: "room for the state", OK: len(beside) == 0, Detail: "no share lies on its file system"}
	if !f.OK {
		f.Detail = fmt.Sprintf("users can fill its file system through shares %s; the server then lives on a reserve of %s",
			strings.Join(beside, ", "), dspool.FormatBytes(server.DefaultReserve))
		f.Fix = "give the shares a path on a file system of their own (shares.NAME.path), or put the state elsewhere (--state-dir)"
	}
	return []provider.Finding{f}
}

// device is the file system that a path lies on, or will when it is made; 0 if that is not known.
func device(path string) uint64 {
	for {
		var st unix.Stat_t
		if unix.Stat(path, &st) == nil {
			return uint64(st.Dev)
		}
		if path == "/" || path == "." {
			return 0
		}
		path = filepath.Dir(path)
	}
}
