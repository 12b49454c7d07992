package control

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestSpaceOfAShareThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSpaces()
		var asked atomic.Int64
		away := make(chan struct{})
		s.ask = func(string) (int64, int64, error) {
			asked.Add(1)
			<-away
			return 10, 7, nil
		}
		began := time.Now()
		for range 100 {
			if free, ok := s.free("/nfs"); ok {
				t.Fatalf("%d bytes are free where nobody answers", free)
			}
		}
		if d := time.Since(began); d > spacePatient || asked.Load() != 1 {
			t.Errorf("%s were waited, and %d times was asked", d, asked.Load())
		}
		close(away)
		synctest.Wait()
		if free, ok := s.free("/nfs"); !ok || free != 7 {
			t.Errorf("%d, %v once it is back", free, ok)
		}
		time.Sleep(spaceGood)
		if free, ok := s.free("/nfs"); !ok || free != 7 || asked.Load() != 2 {
			t.Errorf("%d, %v, asked %d times, later", free, ok, asked.Load())
		}
	})
}
