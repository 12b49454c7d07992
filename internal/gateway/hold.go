package gateway

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"time"

	"github.com/dspool/dspool"
)

// Held are listening sockets of a gateway in another process's keeping, and the doors that they are of.
type Held struct {
	Files []*os.File
	Doors []dspool.Door
}

// Close lets go of them.
func (h Held) Close() {
	for _, f := range h.Files {
		f.Close()
	}
}

// Hold keeps the listening sockets of the gateway of a state directory until that gateway ends or ctx
// does, and returns the last of them. While somebody holds them, the kernel keeps whoever connects
// waiting even when the gateway was killed.
func Hold(ctx context.Context, stateDir string) (held Held, err error) {
	c, err := dialControl(ctx, filepath.Join(stateDir, "gateway"))
	if err != nil {
		return held, dspool.Errorf(dspool.Unavailable, "the gateway does not answer: %w", err)
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	if err := json.NewEncoder(c).Encode(command{"hold"}); err != nil {
		return held, err
	}
	c.SetDeadline(time.Time{})
	for {
		var doors []dspool.Door
		files, err := receiveSockets(c, &doors, func() int { return len(doors) })
		if err != nil {
			Held{Files: files}.Close()
			return held, nil
		}
		held.Close()
		held = Held{files, doors}
	}
}
