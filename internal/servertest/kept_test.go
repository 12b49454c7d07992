package servertest_test

import (
	"crypto/tls"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/servertest"
)

func TestStartWithoutFileKeepsWhatItSaidOfTheServer(t *testing.T) {
	t.Parallel()
	s := servertest.New(t, servertest.Options{Config: strings.Replace(servertest.Config, `listen: "127.0.0.1:0"`, `listen: "127.0.0.1:0", names: [pool.example]`, 1)})
	s.Stop()
	s.StartWithoutFile()
	if s.Server.Addr() == nil {
		t.Fatal("the API is not served over TLS")
	}
	if _, err := s.As("ada").Jobs(t.Context(), jobFilter); err != nil {
		t.Error(err)
	}
	conn, err := tls.Dial("tcp", s.Server.Addr().String(), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if cert := conn.ConnectionState().PeerCertificates[0]; !slices.Contains(cert.DNSNames, "pool.example") {
		t.Errorf("the certificate is for %v", cert.DNSNames)
	}
	job := s.MustEnd(s.MustSubmit(dspool.JobSpec{Command: []string{"true"}}).ID)
	if job.State != dspool.JobSucceeded {
		t.Errorf("the job ended %s", job.State)
	}
}

func TestStateDirectoryMoves(t *testing.T) {
	t.Parallel()
	where := func(t *testing.T, s *servertest.System) {
		t.Helper()
		shares, err := s.Shares(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, share := range shares.Items {
			if share.Path != filepath.Join(s.Dir, "shares", share.Name) {
				t.Errorf("share %s lies in %s", share.Name, share.Path)
			}
		}
	}
	t.Run("with machines that live on, their tasks do too", func(t *testing.T) {
		t.Parallel()
		s := servertest.New(t, servertest.Options{})
		job := s.MustSubmit(dspool.JobSpec{Command: []string{"forever"}})
		task := s.Running(job.ID, 1)[0]
		waiting := s.MustSubmit(dspool.JobSpec{Command: []string{"true"}, After: []int64{job.ID}})
		s.Stop()
		s.Move(filepath.Join(t.TempDir(), "elsewhere"))
		s.Start()
		where(t, s)
		s.Inside(task.Machine).End(task.Attempt, 0)
		for _, id := range []int64{job.ID, waiting.ID} {
			if job := s.MustEnd(id); job.State != dspool.JobSucceeded {
				t.Errorf("job %d ended %s", id, job.State)
			}
		}
		s.AtRest()
	})
	t.Run("with machines that have died meanwhile, of which something is left", func(t *testing.T) {
		t.Parallel()
		s := servertest.New(t, servertest.Options{})
		job := s.MustSubmit(dspool.JobSpec{Command: []string{"forever"}})
		task := s.Running(job.ID, 1)[0]
		s.Stop()
		s.Provider.Kill(task.Machine)
		to := time.Now()
		s.Provider.FailDestroy(task.Machine, errBusy)
		s.Move(filepath.Join(t.TempDir(), "elsewhere"))
		s.Start()
		where(t, s)
		s.Provider.FailDestroy(task.Machine, nil)
		mustHaveEnded(t, s, job, *task.Started, to)
	})
	// A share that the file names lies where it lay; dead machines have mounted nothing.
	t.Run("a share moves by itself once the machines that had it are dead", func(t *testing.T) {
		t.Parallel()
		s := servertest.New(t, servertest.Options{})
		job := s.MustSubmit(dspool.JobSpec{Command: []string{"forever"}})
		task := s.Running(job.ID, 1)[0]
		s.Provider.FailDestroy(task.Machine, errBusy)
		s.Provider.Kill(task.Machine)
		s.Until("the machine is known to be dead", func() bool {
			m, err := s.Machine(t.Context(), task.Machine)
			return err == nil && m.State == dspool.Destroying
		})
		if _, err := s.Apply(t.Context(), s.ConfigRequest(strings.Replace(servertest.Config, "home: {kind: dir,", "home: {kind: dir, path: "+t.TempDir()+",", 1))); err != nil {
			t.Error(err)
		}
		s.Provider.FailDestroy(task.Machine, nil)
		s.MustEnd(job.ID)
	})
}
