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
	// Held returns the keys that this installation holds.
	Held() ([]string, error)
	// Release lets go of an image; it is deleted when no other installation holds it.
	Release(key string) error
}

// ListImages lists the images.
func (c *Control) ListImages(ctx context.Context, who auth.Subject) (list api.List[dspool.Image], err error) {
	list.Items = []dspool.Image{}
	err = c.Store.Read(ctx, func(tx *store.Tx) error {
		images, err := tx.Images()
		for _, i := range images {
			list.Items = append(list.Items, showImage(who, i))
		}
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
	err = c.Store.Read(ctx, func(tx *store.Tx) error {
		img, err = tx.Image(name)
		return err
	})
	if err != nil {
		return op, err
	}
	key, keyErr := c.Images.Key(img) // a recipe that is wrong fails in the build, where it is recorded
	there := keyErr == nil && c.Images.Has(key)
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
		if there && img.State == dspool.ImageReady && img.Key == key { // nothing to do
			now := w.Now()
			joined, op.State, op.Progress, op.Ended = true, dspool.OperationSucceeded, "", &now
			return w.PutOperation(op)
		}
		if err := w.PutOperation(op); err != nil {
			return err
		}
		img.State, img.Reason = dspool.ImageBuilding, dspool.Reason{}
		if err := w.PutImage(img); err != nil {
			return err
		}
		if there { // it is only taken into use
			return nil
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
	c.releasing.Lock() // whoever releases now has not seen that this build runs
	c.releasing.Unlock()
	key, bytes, failed := c.Images.Build(c.base, img, progress)
	if c.base.Err() != nil {
		return
	}
	stale := false // what it was built from is not what it is made of now
	err := c.write(c.base, func(w *work) (err error) {
		stale, err = w.built(img, key, bytes, failed)
		return err
	})
	if err != nil {
		c.Log.Error("record image build", "image", img.Name, "err", err)
		return
	}
	c.ReleaseImages()
	if stale {
		if _, err := c.BuildImage(c.base, auth.Subject{Admin: true}, img.Name); err != nil {
			c.Log.Error("build image again", "image", img.Name, "err", err)
		}
	}
}

// built records how a build ended. Meanwhile the image may have got another recipe, or may be
// no more.
func (w *work) built(was dspool.Image, key string, bytes int64, failed error) (stale bool, err error) {
	img, err := w.Image(was.Name)
	if dspool.ErrorCode(err) == dspool.NotFound {
		return false, w.endOperations(opBuildImage, was.Name, dspool.Errorf(dspool.Conflict, "image %s was removed while it was built", was.Name))
	} else if err != nil {
		return false, err
	}
	now := w.Now()
	var failure *dspool.Error
	if failed != nil {
		failure = dspool.Errorf(dspool.ErrorCode(failed), "image %s could not be built: %w", img.Name, failed)
		var e *dspool.Error
		if errors.As(failed, &e) {
			failure.Hint = e.Hint
		}
		img.State, img.Reason = dspool.ImageFailed, notBuilt(img.Name, failed)
		failure = failure.WithReason(img.Reason)
	} else {
		img.State, img.Reason, img.Key, img.Bytes, img.Built = dspool.ImageReady, dspool.Reason{}, key, bytes, &now
	}
	if err := w.PutImage(img); err != nil {
		return false, err
	}
	w.wake(topicPlan)
	if err := w.endOperations(opBuildImage, img.Name, failure); err != nil {
		return false, err
	}
	return img.Recipe != was.Recipe, w.event(dspool.Event{
		Actor: "server", Kind: "image." + string(img.State), Message: fmt.Sprintf("image %s is %s", img.Name, img.State), Reason: img.Reason,
	})
}

func notBuilt(name string, err error) dspool.Reason {
	return dspool.Why(dspool.WhyImageFailed, dspool.ReasonParams{Name: name, Detail: dspool.Clip(err.Error())})
}

// ReleaseImages lets go of content that no image has any more and no machine stands on.
func (c *Control) ReleaseImages() {
	c.releasing.Lock()
	defer c.releasing.Unlock()
	held, err := c.Images.Held() // first: what is held later is not looked at
	if err != nil {
		c.Log.Warn("list held images", "err", err)
		return
	}
	used := map[string]bool{}
	err = c.Store.Read(c.base, func(tx *store.Tx) error {
		images, err := tx.Images()
		if err != nil {
			return err
		}
		for _, i := range images {
			used[i.Key] = true
			if i.State == dspool.ImageBuilding {
				used = nil // its build may hold content that is not recorded yet
				return nil
			}
		}
		machines, err := tx.LiveMachines()
		for _, m := range machines {
			used[m.ImageKey] = true
		}
		return err
	})
	if err != nil || used == nil {
		return
	}
	for _, key := range held {
		if used[key] {
			continue
		}
		if err := c.Images.Release(key); err != nil {
			c.Log.Warn("release former image", "key", key, "err", err)
		}
	}
}

// EnsureImages builds what pools need and is not there: never built, interrupted, or made from
// a recipe that has changed.
func (c *Control) EnsureImages(ctx context.Context) error {
	var images []dspool.Image
	needed := map[string]bool{}
	err := c.Store.Read(ctx, func(tx *store.Tx) error {
		pools, err := tx.Pools()
		if err != nil {
			return err
		}
		for _, p := range pools {
			needed[p.Image] = true
		}
		images, err = tx.Images()
		return err
	})
	if err != nil {
		return err
	}
	for _, img := range images {
		key, wrong := c.Images.Key(img)
		there := img.Key != "" && c.Images.Has(img.Key)
		switch {
		case wrong != nil:
			err = c.changeImage(ctx, img, func(i *dspool.Image) { i.State, i.Reason = dspool.ImageFailed, notBuilt(img.Name, wrong) })
		case img.Key != "" && !there:
			err = c.changeImage(ctx, img, func(i *dspool.Image) { i.Key, i.State, i.Bytes, i.Built = "", dspool.ImageMissing, 0, nil })
		}
		if err != nil {
			return err
		}
		if wrong == nil && needed[img.Name] && (!there || img.Key != key || img.State != dspool.ImageReady) {
			if _, err := c.BuildImage(ctx, auth.Subject{Admin: true}, img.Name); err != nil {
				return fmt.Errorf("build image %s: %w", img.Name, err)
			}
		}
	}
	c.ReleaseImages()
	return nil
}

// changeImage changes an image unless somebody else has meanwhile.
func (c *Control) changeImage(ctx context.Context, was dspool.Image, fn func(*dspool.Image)) error {
	return c.write(ctx, func(w *work) error {
		img, err := w.Image(was.Name)
		if dspool.ErrorCode(err) == dspool.NotFound {
			return nil
		} else if err != nil || img.State != was.State || img.Key != was.Key || img.State == dspool.ImageBuilding {
			return err
		}
		fn(&img)
		w.wake(topicPlan)
		return w.PutImage(img)
	})
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
			if img.Key != "" && m.ImageKey == img.Key {
				return dspool.Errorf(dspool.Conflict, "machine %s stands on image %s", m.Name, name).WithHint("wait until its machines are gone")
			}
		}
		if img.Key == "" {
			return dspool.Errorf(dspool.Conflict, "image %s is not built", name)
		}
		img.Key, img.State, img.Reason, img.Built, img.Bytes = "", dspool.ImageMissing, dspool.Why(dspool.WhyImageRemoved, dspool.ReasonParams{By: who.Name()}), nil, 0
		if err := w.PutImage(img); err != nil {
			return err
		}
		w.wake(topicPlan)
		return w.event(dspool.Event{Actor: who.Name(), Kind: "image.removed", Message: "image " + name + " removed"})
	})
	if err != nil {
		return err
	}
	c.ReleaseImages()
	return nil
}
