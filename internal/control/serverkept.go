package control

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/config"
	"github.com/dspool/dspool/internal/store"
)

const (
	settingServer   = "server"
	settingStateDir = "state_dir"
)

// ServerSettings is how the server itself runs by the configuration that was applied last, for one that is
// started without a file; nothing where none ever was.
func ServerSettings(tx *store.Tx) (own config.Server, err error) {
	return own, readSetting(tx, settingServer, &own)
}

func (w *work) setServer(own config.Server) error {
	text, err := json.Marshal(own)
	if err != nil {
		return err
	}
	return w.SetSetting(settingServer, string(text))
}

// FollowStateDir notes where the state directory lies, and takes along the shares that lie in it where
// somebody has moved it: their files have moved with it, and machines keep what they have mounted. From
// a copy they would write into the original, so that those have to be gone first.
func (c *Control) FollowStateDir(ctx context.Context) error {
	return c.Store.Write(ctx, func(tx *store.Tx) error {
		old, err := tx.Setting(settingStateDir)
		if err != nil || old == c.StateDir {
			return err
		}
		machines, err := tx.LiveMachines()
		if err != nil {
			return err
		}
		if _, err := os.Stat(old); err == nil && slices.ContainsFunc(machines, func(m store.MachineRow) bool { return !isDead(m) }) {
			return nil
		}
		shares, err := tx.Shares()
		if err != nil {
			return err
		}
		for _, s := range shares {
			if old == "" || s.Path != filepath.Join(old, "shares", s.Name) {
				continue
			}
			s.Path = filepath.Join(c.StateDir, "shares", s.Name)
			if err := tx.PutShare(s); err != nil {
				return err
			}
			c.Log.Info("the share has moved with the state directory", "share", s.Name, "path", s.Path)
		}
		return tx.SetSetting(settingStateDir, c.StateDir)
	})
}

// isDead says whether a machine was found dead, and only what is left of it is to be removed.
func isDead(m store.MachineRow) bool {
	codes := []dspool.ReasonCode{dspool.WhyVanished, dspool.WhyEnded}
	return m.State == dspool.Destroying && (m.Failure.Is(codes...) || len(m.Failure.Because) > 0 && m.Failure.Because[0].Is(codes...))
}
