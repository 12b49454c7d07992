package control

import (
	"strconv"
	"testing"
	"time"
)

func TestHostCertificatesAreMadeAnewWhenTheClockLeavesThem(t *testing.T) {
	t.Parallel()
	g, n := newGatewayState(), 0
	today := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		at   time.Time
		want int
	}{{today, 1}, {today.AddDate(0, 1, 0), 1}, {today.AddDate(0, 7, 0), 2}, {today, 3}, {time.Unix(10, 0), 4}, {today, 5}, {today.Add(time.Minute), 5}} {
		got, err := g.hostCertificate("key", c.at, func() (string, error) { n++; return strconv.Itoa(n), nil })
		if err != nil || got != strconv.Itoa(c.want) {
			t.Errorf("at %s it is number %s, want %d: %v", c.at, got, c.want, err)
		}
	}
}
