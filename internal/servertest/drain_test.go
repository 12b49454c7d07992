package servertest_test

import (
	"strings"
	"testing"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/client"
	"github.com/dspool/dspool/internal/servertest"
)

func TestDrainIsPutOffWithinThePolicyOnly(t *testing.T) {
	t.Parallel()
	s := servertest.New(t, servertest.Options{Config: strings.Replace(servertest.Config, "policy: {", "policy: {keep_most: 1h, ", 1)})
	ctx := t.Context()
	logIn(t, s, "ada", "conn-ada")
	ada := s.As("ada")
	mine, err := ada.Sessions(ctx, client.SessionFilter{})
	if err != nil || len(mine.Items) != 1 {
		t.Fatalf("%+v, %v", mine, err)
	}
	session := mine.Items[0]
	op, err := s.DrainMachine(ctx, session.Machine, dspool.Duration(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	deadline := func(keep time.Duration) time.Time {
		t.Helper()
		if _, err := ada.KeepSession(ctx, session.ID, dspool.Duration(keep)); err != nil {
			t.Fatal(err)
		}
		m, err := s.Machine(ctx, session.Machine)
		if err != nil || m.DrainBy == nil {
			t.Fatalf("%+v, %v", m, err)
		}
		return *m.DrainBy
	}
	if d := deadline(30 * time.Minute).Sub(op.Created); d < 29*time.Minute || d > 31*time.Minute {
		t.Errorf("kept for half an hour, the machine goes after %s", d)
	}
	for range 3 {
		if d := deadline(time.Hour).Sub(op.Created); d != time.Hour {
			t.Errorf("asked again and again, the machine goes %s after the drain began", d)
		}
	}
}
