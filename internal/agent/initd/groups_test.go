package initd

import (
	"strings"
	"testing"

	"github.com/dspool/dspool/api"
)

func TestWithMember(t *testing.T) {
	t.Parallel()
	const image = "root:x:0:\nsudo:x:27:\naudio:x:29:alice\n# odd line\nalice:*:20001:\n"
	lab, data := api.GroupID{Name: "lab", GID: 20500}, api.GroupID{Name: "data", GID: 20501}
	for _, c := range []struct {
		claim, text string
		groups      []api.GroupID
		want, fault string
	}{
		{"no group changes nothing", image, nil, image, ""},
		{"a missing group is made", image, []api.GroupID{lab}, image + "lab:*:20500:alice\n", ""},
		{"an existing one is joined", image + "lab:*:20500:bob\n", []api.GroupID{lab}, image + "lab:*:20500:bob,alice\n", ""},
		{"joining twice is once", image + "lab:*:20500:bob,alice\n", []api.GroupID{lab}, image + "lab:*:20500:bob,alice\n", ""},
		{"a group that is no more the user's is left", image + "lab:*:20500:alice,bob\ndata:*:20501:\n", []api.GroupID{data}, image + "lab:*:20500:bob\ndata:*:20501:alice\n", ""},
		{"groups of the image stay as they are", image, nil, image, ""},
		{"a name of the image is refused", image, []api.GroupID{{Name: "sudo", GID: 20600}}, "", "own group sudo, with id 27"},
		{"an id that the image gave is refused", image + "x:x:20500:\n", []api.GroupID{lab}, "", `group id 20500 to "x"`},
		{"a last line without its end is one", strings.TrimSuffix(image, "\n"), []api.GroupID{lab}, image + "lab:*:20500:alice\n", ""},
	} {
		t.Run(c.claim, func(t *testing.T) {
			t.Parallel()
			got, err := withMember(c.text, "alice", c.groups)
			if c.fault != "" {
				if err == nil || !strings.Contains(err.Error(), c.fault) {
					t.Errorf("%v", err)
				}
				return
			}
			if err != nil || got != c.want {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
}

func TestTail(t *testing.T) {
	t.Parallel()
	var s tail
	for range 1000 {
		s.add([]byte("0123456789 and more\n"))
	}
	s.add([]byte("the end\n"))
	if got := s.String(); len(got) > tailBytes || !strings.HasSuffix(got, "more\nthe end") {
		t.Errorf("%d bytes, %q", len(got), got)
	}
}
