package servertest_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/servertest"
)

func TestRemovedUserOfTheFileStaysAway(t *testing.T) {
	t.Parallel()
	s := servertest.New(t, servertest.Options{})
	if err := s.RemoveUser(t.Context(), "bob"); err != nil {
		t.Fatal(err)
	}
	s.Restart() // the file still names bob
	users, err := s.Users(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range users.Items {
		if u.Name == "bob" {
			t.Errorf("the file brought a removed user back: %+v", u)
		}
	}
	text, err := os.ReadFile(filepath.Join(s.Dir, "team.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	res, err := s.Apply(t.Context(), api.ApplyRequest{Name: "team.yaml", Text: string(text), DryRun: true})
	if err != nil {
		t.Fatal(err)
	}
	if len(res.Changes) != 1 || res.Changes[0].Action != "skip" || res.Changes[0].Name != "bob" {
		t.Errorf("apply does not say that bob is skipped: %+v", res.Changes)
	}
	if err := os.Rename(filepath.Join(s.Dir, "shares/home/bob"), filepath.Join(s.Dir, "shares/home/old-bob")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.AddUser(t.Context(), api.AddUserRequest{Name: "bob"}); dspool.ErrorCode(err) != "" {
		t.Errorf("a new account of the old name: %v", err)
	}
}
