package store

import (
	"testing"

	"github.com/dspool/dspool"
)

// A state from before reasons were data holds sentences.
func TestReasonsThatWereSentencesAreStillRead(t *testing.T) {
	t.Parallel()
	for stored, want := range map[string]dspool.Reason{
		"":                                  {},
		"idle for 30s":                      dspool.Why(dspool.WhyRecorded, dspool.ReasonParams{Detail: "idle for 30s"}),
		"{not json":                         dspool.Why(dspool.WhyRecorded, dspool.ReasonParams{Detail: "{not json"}),
		`{"code":"has_room","machine":"a"}`: dspool.Why(dspool.WhyHasRoom, dspool.ReasonParams{Machine: "a"}),
	} {
		var got dspool.Reason
		if err := (reasonIn{&got}).Scan(stored); err != nil || !got.Equal(want) {
			t.Errorf("%q reads as %+v, %v", stored, got, err)
		}
	}
}
