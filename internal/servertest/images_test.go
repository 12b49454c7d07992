package servertest_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/servertest"
)

func TestImages(t *testing.T) {
	t.Parallel()
	image := func(s *servertest.System) dspool.Image {
		list, err := s.Images(t.Context())
		if err != nil || len(list.Items) != 1 {
			t.Fatalf("%+v, %v", list.Items, err)
		}
		return list.Items[0]
	}
	ready := func(s *servertest.System, key string) {
		t.Helper()
		s.Until("the image is ready", func() bool { i := image(s); return i.State == dspool.ImageReady && i.Key == key })
	}
	reapply := func(t *testing.T, s *servertest.System) {
		t.Helper()
		if _, err := s.Apply(t.Context(), s.ConfigRequest(servertest.Config)); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("a build that fails says why, to the job too, and can be done again", func(t *testing.T) {
		t.Parallel()
		recipes := servertest.NewRecipes("a")
		recipes.Fail(errors.New("run step 3 ended with\nexit code 100"))
		s := servertest.New(t, servertest.Options{Images: recipes})
		job := s.MustSubmit(dspool.JobSpec{Command: []string{"true"}})
		s.Until("image, pool and job say what failed", func() bool {
			const why = "run step 3 ended with exit code 100"
			p, err1 := s.Pool(t.Context(), "batch")
			j, err2 := s.Job(t.Context(), job.ID)
			status, err3 := s.Status(t.Context())
			i := image(s)
			return errors.Join(err1, err2, err3) == nil && i.State == dspool.ImageFailed && strings.HasSuffix(i.Reason.Text, ": "+why) &&
				strings.Contains(p.Note.Text, why) && strings.Contains(j.Reason.Text, why) && strings.Contains(problems(status), why)
		})
		op, err := s.BuildImage(t.Context(), "UbuntuDSVM")
		if err != nil {
			t.Fatal(err)
		}
		if op, err = s.WaitOperation(t.Context(), op.ID, 0, nil); err != nil || op.State != dspool.OperationFailed || op.Error == nil || !strings.Contains(op.Error.Message, "run step 3") {
			t.Errorf("operation ended %+v, %v", op, err)
		}
		recipes.Fail(nil)
		if _, err := s.BuildImage(t.Context(), "UbuntuDSVM"); err != nil {
			t.Fatal(err)
		}
		if job = s.MustEnd(job.ID); job.State != dspool.JobSucceeded {
			t.Errorf("job ended %s: %s", job.State, job.Reason)
		}
		s.AtRest()
	})
	for how, end := range ends {
		t.Run(how+" half-way, a build begins anew and its operation ends", func(t *testing.T) {
			t.Parallel()
			recipes := servertest.NewRecipes("a")
			recipes.Built = make(chan string)
			s := servertest.New(t, servertest.Options{Images: recipes})
			job := s.MustSubmit(dspool.JobSpec{Command: []string{"true"}})
			s.Until("the job says what it waits for", func() bool {
				j, err := s.Job(t.Context(), job.ID)
				return err == nil && strings.Contains(j.Reason.Text, "is being built")
			})
			op, err := s.BuildImage(t.Context(), "UbuntuDSVM") // joins
			if err != nil {
				t.Fatal(err)
			}
			end(s)
			s.Start()
			<-recipes.Built
			if op, err = s.WaitOperation(t.Context(), op.ID, 0, nil); err != nil || op.State != dspool.OperationSucceeded {
				t.Errorf("operation ended %+v, %v", op, err)
			}
			s.MustEnd(job.ID)
			s.AtRest()
			select {
			case text := <-recipes.Built:
				t.Errorf("%s was built again", text)
			default:
			}
		})
	}
	t.Run("former content is kept while a machine stands on it, and then let go", func(t *testing.T) {
		t.Parallel()
		recipes := servertest.NewRecipes("a")
		s := servertest.New(t, servertest.Options{Images: recipes})
		ready(s, "a")
		old := s.MustSubmit(dspool.JobSpec{Command: []string{"forever"}})
		task := s.Running(old.ID, 1)[0]
		recipes.Write("recipe.yaml", "b")
		reapply(t, s)
		ready(s, "b")
		next := s.MustSubmit(dspool.JobSpec{Command: []string{"true"}})
		s.MustEnd(next.ID)
		if held, _ := recipes.Held(); !slices.Equal(held, []string{"a", "b"}) {
			t.Errorf("held are %v", held)
		}
		s.Kill()
		s.Start()
		if held, _ := recipes.Held(); !slices.Equal(held, []string{"a", "b"}) {
			t.Errorf("after a restart, held are %v", held)
		}
		s.Inside(task.Machine).End(task.Attempt, 0)
		s.MustEnd(old.ID)
		s.AtRest()
		s.Until("the former content is let go", func() bool { held, _ := recipes.Held(); return slices.Equal(held, []string{"b"}) })
	})
	t.Run("removing what machines stand on is refused", func(t *testing.T) {
		t.Parallel()
		recipes := servertest.NewRecipes("a")
		s := servertest.New(t, servertest.Options{Images: recipes})
		ready(s, "a")
		job := s.MustSubmit(dspool.JobSpec{Command: []string{"forever"}})
		task := s.Running(job.ID, 1)[0]
		if err := s.RemoveImage(t.Context(), "UbuntuDSVM"); dspool.ErrorCode(err) != dspool.Conflict || !strings.Contains(err.Error(), task.Machine) {
			t.Error(err)
		}
		s.Inside(task.Machine).End(task.Attempt, 0)
		s.MustEnd(job.ID)
		s.AtRest()
		if err := s.RemoveImage(t.Context(), "UbuntuDSVM"); err != nil {
			t.Error(err)
		}
		if held, _ := recipes.Held(); len(held) != 0 || image(s).State != dspool.ImageMissing {
			t.Errorf("held are %v, the image is %s", held, image(s).State)
		}
		if err := s.RemoveImage(t.Context(), "UbuntuDSVM"); dspool.ErrorCode(err) != dspool.Conflict {
			t.Error(err)
		}
		if err := s.RemoveImage(t.Context(), "Nope"); dspool.ErrorCode(err) != dspool.NotFound {
			t.Error(err)
		}
	})
	t.Run("another recipe given while a build runs is built next", func(t *testing.T) {
		t.Parallel()
		recipes := servertest.NewRecipes("a")
		recipes.Built = make(chan string)
		recipes.Write("/other.yaml", "b")
		s := servertest.New(t, servertest.Options{Images: recipes})
		if _, err := s.Apply(t.Context(), s.ConfigRequest(strings.Replace(servertest.Config, "UbuntuDSVM: {}", "UbuntuDSVM: {recipe: /other.yaml}", 1))); err != nil {
			t.Fatal(err)
		}
		if first, second := <-recipes.Built, <-recipes.Built; first != "a" || second != "b" {
			t.Errorf("built %s, then %s", first, second)
		}
		ready(s, "b")
		s.Until("only the new one is held", func() bool { held, _ := recipes.Held(); return slices.Equal(held, []string{"b"}) })
	})
}
