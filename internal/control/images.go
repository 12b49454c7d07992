package control

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/auth"
	"github.com/dspool/dspool/internal/store"
)

// Images builds images from recipes and keeps them by the hash of their content.
type Images interface {
	// Resolve returns the absolute path of the image's recipe: the one it names, else NAME.yaml in
	// the first of dirs that has it, else the one inside the binary.
	Resolve(img dspool.Image, dirs ...string) (string, error)
	// Key returns the key that the image's recipe would give now.
	Key(img dspool.Image) (string, error)
	// Build makes the image, or finds it made, and takes hold of it for this installation.
	Build(ctx context.Context, img dspool.Image, progress func(string)) (key string, bytes int64, err error)
	// Has says whether the image of that key is there.
	Has(key string) bool
	// Release lets go of an image; it is deleted when no other installation holds it.
	Release(key string) error
}

// ListImages lists the images.
func (c *Control) ListImages(ctx context.Context) (list api.List[dspool.Image], err error) {
	list.Items = []dspool.Image{}
	err = c.Store.Read(ctx, func(tx *store.Tx) error {
		images, err := tx.Images()
		list.Items = append(list.Items, images...)
		return err
	})
	return list, err
}

// BuildImage begins to build an image, or joins the build that runs.
func (c *Control) BuildImage(ctx context.Context, who auth.Subject, name string) (op dspool.Operation, err error) {
	if !auth.Can(who, auth.Change, auth.Config, "") {
		return op, forbid("build images")
	}
	var img dspool.Image
	joined := false
	err = c.write(ctx, func(w *work) (err error) {
		if img, err = w.Image(name); err != nil {
			return err
		}
		running, err := w.RunningOperations()
		if err != nil {
			return err
		}
		for _, o := range running {
			if o.Kind == opBuildImage && o.Target == name {
				op, joined = o, true
				return nil
			}
		}
		op = dspool.Operation{
			ID: auth.NewID(), Kind: opBuildImage, Target: name, User: who.Name(),
			State: dspool.OperationRunning, Progress: "begins", Created: w.Now(),
		}
		if err := w.PutOperation(op); err != nil {
			return err
		}
		img.State, img.Reason = dspool.ImageBuilding, ""
		if err := w.PutImage(img); err != nil {
			return err
		}
		return w.event(dspool.Event{Actor: who.Name(), Kind: "image.build", Message: "image " + name + " is being built"})
	})
	if err == nil && !joined {
		c.builds.Go(func() { c.build(img, op) })
	}
	return op, err
}

// build runs one build to its end and records it. A server that stops leaves it running in
// the store; ResumeBuilds takes it up again.
func (c *Control) build(img dspool.Image, op dspool.Operation) {
	last := time.Time{}
	progress := func(text string) {
		if time.Since(last) < 300*time.Millisecond {
			return
		}
		last = time.Now()
		op.Progress = text
		err := c.write(c.base, func(w *work) error {
			w.wake(TopicOperation(op.ID))
			return w.PutOperation(op)
		})
		if err != nil && c.base.Err() == nil {
			c.Log.Error("record progress of image build", "image", img.Name, "err", err)
		}
	}
	key, bytes, err := c.Images.Build(c.base, img, progress)
	if c.base.Err() != nil {
		return
	}
	old := img.Key
	written := c.write(c.base, func(w *work) error {
		now := w.Now()
		var failure *dspool.Error
		if err != nil {
			failure = dspool.Errorf(dspool.ErrorCode(err), "image %s could not be built: %w", img.Name, err)
			var e *dspool.Error
			if errors.As(err, &e) {
				failure.Hint = e.Hint
			}
			img.State, img.Reason = dspool.ImageFailed, clip(err.Error())
		} else {
			img.State, img.Reason, img.Key, img.Bytes, img.Built = dspool.ImageReady, "", key, bytes, &now
		}
		if err := w.PutImage(img); err != nil {
			return err
		}
		w.wake(topicPlan, TopicOperation(op.ID))
		if err := w.endOperations(opBuildImage, img.Name, failure); err != nil {
			return err
		}
		return w.event(dspool.Event{Actor: "server", Kind: "image." + string(img.State), Message: fmt.Sprintf("image %s is %s", img.Name, img.State), Reason: img.Reason})
	})
	if written != nil {
		c.Log.Error("record image build", "image", img.Name, "err", written)
		return
	}
	if img.State == dspool.ImageReady && old != "" && old != key {
		c.releaseUnused(old)
	}
}

// releaseUnused lets go of an image's former content unless a machine still stands on it.
func (c *Control) releaseUnused(key string) {
	used := false
	err := c.Store.Read(c.base, func(tx *store.Tx) error {
		machines, err := tx.LiveMachines()
		used = len(machines) > 0 // they do not say which content they began with
		return err
	})
	if err == nil && !used {
		err = c.Images.Release(key)
	}
	if err != nil {
		c.Log.Warn("release former image", "key", key, "err", err)
	}
}

// EnsureImages builds what pools need and is not there: never built, interrupted, or made from
// a recipe that has changed.
func (c *Control) EnsureImages(ctx context.Context) error {
	var names []string
	err := c.write(ctx, func(w *work) error {
		names = nil
		pools, err := w.Pools()
		if err != nil {
			return err
		}
		needed := map[string]bool{}
		for _, p := range pools {
			needed[p.Image] = true
		}
		images, err := w.Images()
		if err != nil {
			return err
		}
		for _, img := range images {
			key, err := c.Images.Key(img)
			if err != nil {
				img.State, img.Reason = dspool.ImageFailed, clip(err.Error())
				if err := w.PutImage(img); err != nil {
					return err
				}
				continue
			}
			if img.Key != "" && !c.Images.Has(img.Key) {
				img.Key, img.State = "", dspool.ImageMissing
				if err := w.PutImage(img); err != nil {
					return err
				}
			}
			if needed[img.Name] && (img.Key != key || img.State != dspool.ImageReady) {
				names = append(names, img.Name)
			}
		}
		return nil
	})
	for _, name := range names {
		if _, err := c.BuildImage(ctx, auth.Subject{Admin: true}, name); err != nil {
			return fmt.Errorf("build image %s: %w", name, err)
		}
	}
	return err
}

// ResumeBuilds takes up the builds that the last server left running.
func (c *Control) ResumeBuilds(ctx context.Context) error {
	return c.Store.Read(ctx, func(tx *store.Tx) error {
		running, err := tx.RunningOperations()
		if err != nil {
			return err
		}
		for _, o := range running {
			if o.Kind != opBuildImage {
				continue
			}
			img, err := tx.Image(o.Target)
			if err != nil {
				return err
			}
			c.builds.Go(func() { c.build(img, o) })
		}
		return nil
	})
}

// RemoveImage deletes an image's content; machines can start from it again once it is rebuilt.
func (c *Control) RemoveImage(ctx context.Context, who auth.Subject, name string) error {
	if !auth.Can(who, auth.Change, auth.Config, "") {
		return forbid("remove images")
	}
	key := ""
	err := c.write(ctx, func(w *work) error {
		img, err := w.Image(name)
		if err != nil {
			return err
		}
		if img.State == dspool.ImageBuilding {
			return dspool.Errorf(dspool.Conflict, "image %s is being built", name).WithHint("wait until the build has ended")
		}
		machines, err := w.LiveMachines()
		if err != nil {
			return err
		}
		for _, m := range machines {
			if m.Image == name {
				return dspool.Errorf(dspool.Conflict, "machine %s stands on image %s", m.Name, name).WithHint("wait until its machines are gone")
			}
		}
		if key = img.Key; key == "" {
			return dspool.Errorf(dspool.Conflict, "image %s is not built", name)
		}
		img.Key, img.State, img.Reason, img.Built, img.Bytes = "", dspool.ImageMissing, "removed by "+who.Name(), nil, 0
		if err := w.PutImage(img); err != nil {
			return err
		}
		return w.event(dspool.Event{Actor: who.Name(), Kind: "image.removed", Message: "image " + name + " removed"})
	})
	if err != nil {
		return err
	}
	return c.Images.Release(key)
}
