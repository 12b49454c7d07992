package config_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/config"
)

func TestRetention(t *testing.T) {
	t.Parallel()
	before, problems := config.Parse("team.yaml", []byte(tiny), "/")
	if problems != nil {
		t.Fatal(problems)
	}
	if before.Retention != config.DefaultRetention {
		t.Errorf("without a word it is %+v", before.Retention)
	}
	after, problems := config.Parse("team.yaml", []byte(tiny+"retention: {events: never, jobs: 2y, output: 30d}\n"), "/")
	if problems != nil {
		t.Fatal(problems)
	}
	want := []api.Change{{Action: "change", Kind: "retention", Name: "retention", Detail: "events: 90d → never, jobs: 1y → 2y, output: never → 30d"}}
	if diff := cmp.Diff(want, config.Diff(before, after)); diff != "" {
		t.Error(diff)
	}
}
