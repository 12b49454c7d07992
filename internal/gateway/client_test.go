package gateway_test

import (
	"strings"
	"testing"
)

func TestOpenSSHClientWorksAsWithAnySSHServer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	t.Run("a command's output, error output and exit code arrive", func(t *testing.T) {
		out, errs, code := run(w.ssh("alice", "--", "echo out; echo err >&2; exit 7"), nil)
		if out != "out\n" || errs != "err\n" || code != 7 {
			t.Fatalf("out %q, err %q, code %d", out, errs, code)
		}
	})
	t.Run("the end of input reaches the command", func(t *testing.T) {
		if out := w.want(w.ssh("alice", "--", "wc -c"), strings.NewReader(strings.Repeat("x", 3<<20))); strings.TrimSpace(out) != "3145728" {
			t.Fatalf("got %q", out)
		}
	})
	t.Run("everybody is who they are on the machine", func(t *testing.T) {
		for user, uid := range map[string]string{"alice": "20001", "bob": "20002"} {
			if out := w.want(w.ssh(user, "--", "id -un; id -u"), nil); out != user+"\n"+uid+"\n" {
				t.Fatalf("%s is %q", user, out)
			}
		}
	})
}
