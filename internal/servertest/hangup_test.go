package servertest_test

import (
	"context"
	"sync"
	"testing"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/client"
	"github.com/dspool/dspool/internal/servertest"
)

// A client may go in the very moment in which a stream ends or its token is looked at again: the server
// must not touch an answer that is over (net/http ends the process then).
func TestClientsThatHangUp(t *testing.T) {
	t.Parallel()
	s := servertest.New(t, servertest.Options{})
	ada := s.As("ada")
	job, err := ada.Submit(t.Context(), api.SubmitRequest{JobSpec: dspool.JobSpec{Command: []string{"forever"}}})
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 25 {
				ctx, cancel := context.WithCancel(t.Context())
				for range ada.StreamJob(ctx, job.ID) {
					cancel()
				}
				for range ada.StreamEvents(ctx, client.EventFilter{}) {
					break
				}
				cancel()
			}
		})
	}
	for range 50 { // every change of rights has streams looked at
		token, err := s.AddToken(t.Context(), api.AddTokenRequest{User: "ada"})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.RevokeToken(t.Context(), token.ID); err != nil {
			t.Fatal(err)
		}
	}
	all.Wait()
	if _, err := ada.CancelJob(t.Context(), job.ID); err != nil {
		t.Fatal(err)
	}
	s.MustEnd(job.ID)
}
