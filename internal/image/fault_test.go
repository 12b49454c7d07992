package image_test

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/image"
)

// started returns a progress function and a channel that closes when a step whose
// text contains what begins.
func started(what string) (func(image.Progress), <-chan struct{}) {
	ch, once := make(chan struct{}), sync.Once{}
	return func(p image.Progress) {
		if strings.Contains(p.What, what) {
			once.Do(func() { close(ch) })
		}
	}, ch
}

func TestCancelEndsEverything(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ claim, step, text string }{
		{"in a run step", "run step 1", "run: [\"setsid sleep 98761 & sleep 98761\"]\n"},
		{"while packages are installed", "fetch the lists", "packages: [hello]\n"},
	} {
		t.Run(c.claim, func(t *testing.T) {
			t.Parallel()
			s, r := layer(t, c.text)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			progress, at := started(c.step)
			done := make(chan error, 1)
			go func() {
				_, err := s.Build(ctx, r, progress)
				done <- err
			}()
			select {
			case <-at:
			case err := <-done:
				t.Fatalf("ended early: %v", err)
			}
			cancel()
			if err := <-done; !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "build image "+r.Name) {
				t.Errorf("error is %v", err)
			}
			clean(t, r.Key())
			if out, _ := exec.Command("pgrep", "-f", "sleep 98761").Output(); strings.Contains(c.text, "98761") && len(out) > 0 {
				t.Errorf("processes are left: %s", out)
			}
			if _, err := s.Lookup(r.Key()); dspool.ErrorCode(err) != dspool.NotFound {
				t.Errorf("after cancelling the image is found: %v", err)
			}
		})
	}
}

func TestConcurrentBuildsBuildOnce(t *testing.T) {
	t.Parallel()
	_, r := layer(t, "run: [date +%N >/opt/when]\n")
	var steps atomic.Int64
	var wg sync.WaitGroup
	images := make([]image.Image, 6)
	for i := range images {
		s := newStore(t) // each its own, as other processes have
		wg.Go(func() {
			var err error
			images[i], err = s.Build(t.Context(), r, func(p image.Progress) {
				if strings.HasPrefix(p.What, "run step") {
					steps.Add(1)
				}
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if steps.Load() != 1 {
		t.Errorf("the step ran %d times", steps.Load())
	}
	for _, img := range images {
		if img != images[0] {
			t.Errorf("got %+v and %+v", img, images[0])
		}
	}
}

func TestKilledBuildLeavesNothingThatCounts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ claim, at, text string }{
		{"in a run step", "run step 1", "run: ['test \"$no_proxy\" != slow || sleep 98762']\n"},
		{"while packages are fetched", "fetch 1 of 1", "packages: [hello]\n"},
		{"before it publishes", "finish", "run: ['true']\n"},
	} {
		t.Run(c.claim, func(t *testing.T) {
			t.Parallel()
			s, r := layer(t, c.text)
			// A step sees the builder's proxy settings, so that only the first build is slow.
			cmd := child(t, r.Path, c.at, "no_proxy=slow")
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			cmd.Wait()
			if _, err := s.Lookup(r.Key()); dspool.ErrorCode(err) != dspool.NotFound {
				t.Errorf("after the kill the image is found: %v", err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			if _, err := s.Build(ctx, r, nil); err != nil {
				t.Error(err)
			}
			clean(t, r.Key())
			if out, _ := exec.Command("pgrep", "-f", "sleep 98762").Output(); strings.Contains(c.text, "98762") && len(out) > 0 {
				t.Errorf("processes are left: %s", out)
			}
		})
	}
}

func TestAnotherProcessBuildsOnce(t *testing.T) {
	t.Parallel()
	s, r := layer(t, "run: ['test \"$no_proxy\" != slow || sleep 1']\n")
	child(t, r.Path, "run step 1", "no_proxy=slow")
	if err := s.Remove(r.Parent.Key(), "mine"); dspool.ErrorCode(err) != dspool.Conflict || !strings.Contains(err.Error(), "being built on") {
		t.Errorf("remove of an image that is built upon: %v", err)
	}
	waits := false
	if _, err := s.Build(t.Context(), r, func(p image.Progress) {
		waits = strings.HasPrefix(p.What, "wait for the build")
	}); err != nil || !waits {
		t.Errorf("waited %v, error %v", waits, err)
	}
}

// child starts another process that builds and waits until it says what. Its output
// is not read from then on; a pipe holds more than it says.
func child(t *testing.T, recipe, what string, env ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "IMAGE_TEST_BUILD="+cacheDir, "IMAGE_TEST_RECIPE="+recipe)
	cmd.Env = append(cmd.Env, env...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if strings.Contains(lines.Text(), what) {
			return cmd
		}
		if strings.HasPrefix(lines.Text(), "ended:") {
			t.Fatal(lines.Text())
		}
	}
	t.Fatal("the other process ended")
	return nil
}
