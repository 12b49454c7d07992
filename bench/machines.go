package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/image"
)

const (
	machineRounds = 15
	bareRounds    = 30
)

// measureMachines makes machines one after another, from the row that asks for one until its
// agent has enrolled, and compares with `runc run` of the same bundle.
func measureMachines(ctx context.Context, s *server, img dspool.Image, r *report) error {
	progress("dspool: %d machines, one after another", machineRounds)
	var took, seen []time.Duration
	var bare bareTask
	for i := range machineRounds + 1 {
		begun := time.Now()
		machines, err := s.resize(ctx, poolOne, 1)
		if err != nil {
			return err
		}
		m := machines[0]
		if m.ReadyAt == nil {
			return fmt.Errorf("machine %s is ready, but does not say since when", m.Name)
		}
		if i == 0 { // the first also makes the disk's template
			if bare, err = s.bareBundle(m.Name, img); err != nil {
				return err
			}
		} else {
			took, seen = append(took, m.ReadyAt.Sub(m.Created)), append(seen, time.Since(begun))
		}
		if _, err := s.resize(ctx, poolOne, 0); err != nil {
			return err
		}
	}
	progress("runc: %d containers of the same bundle", bareRounds)
	peer, err := outside[bareTask, []time.Duration](ctx, "in-bare", 0, bare)
	if err != nil {
		return err
	}
	ratio := median(took).Seconds() / median(peer).Seconds()
	r.add(row{
		what:   "machine created → agent enrolled, median",
		dspool: millis(median(took)), peer: millis(median(peer)) + " `runc run` of its bundle with `true`",
		ratio: times(ratio), aim: "≤ 4×", met: ratio <= 4,
	})
	r.note("machines: dspool %s, runc %s; from the request until a client that asks every %s sees it ready: %s",
		spread(took), spread(peer), askEvery, spread(seen))
	return nil
}

// bareBundle copies what a machine was made from: it is gone when its bundle is run.
func (s *server) bareBundle(machine string, img dspool.Image) (bareTask, error) {
	store, err := image.NewStore(image.DefaultCache, image.Options{})
	if err != nil {
		return bareTask{}, err
	}
	built, err := store.Lookup(img.Key)
	if err != nil {
		return bareTask{}, err
	}
	t := bareTask{
		Runc: s.o.runc, Image: built.Dir, Dir: filepath.Join(filepath.Dir(s.dir), "bare"), Rounds: bareRounds,
		Cgroup: "/" + filepath.Base(filepath.Dir(s.dir)),
	}
	return t, errors.Join(t.copyConfig(filepath.Join(s.dir, "runc/machines", machine, "config.json")))
}
