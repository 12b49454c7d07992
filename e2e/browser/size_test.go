package browser_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dspool/dspool"
)

// twoSizes makes the pool for people one of two sizes until the test ends.
func twoSizes(t *testing.T) {
	t.Helper()
	text, err := os.ReadFile(pool.config)
	if err != nil {
		t.Fatal(err)
	}
	for _, change := range [][2]string{
		{"  tiny: #", "  large:\n    cpus: 1\n    memory: 3GiB\n    disk: 10GiB\n    price: 0.2\n  tiny: #"},
		{"    sizes: [small]\n    min: 0\n    max: 4\n    spare: 0", "    sizes: [small, large]\n    min: 0\n    max: 4\n    spare: 0"},
	} {
		if bytes.Count(text, []byte(change[0])) != 1 {
			t.Fatalf("the example no longer says once %q", change[0])
		}
		text = bytes.Replace(text, []byte(change[0]), []byte(change[1]), 1)
	}
	file := filepath.Join(t.TempDir(), "two.yaml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		out, err := pool.command(context.Background(), "dspool", "apply", pool.config).CombinedOutput()
		if err != nil {
			t.Errorf("apply the example again: %v\n%s", err, out)
		}
	})
	pool.dspool(t, "apply", file)
}

func sizeOf(t *testing.T, machine string) string {
	t.Helper()
	var all []dspool.Machine
	if err := pool.list(&all, "machine", "list"); err != nil {
		t.Fatal(err)
	}
	for _, m := range all {
		if m.Name == machine {
			return m.Size
		}
	}
	t.Fatalf("there is no machine %s", machine)
	return ""
}

// TestChoiceOfSize has two people choose the size of their machine, by its price.
func TestChoiceOfSize(t *testing.T) {
	zero(t)
	twoSizes(t)
	p := visitor(t, "kim")
	p.claim("JupyterHub's page offers each size with its price", func(t *testing.T) {
		p.open(pool.hub + "/hub/spawn")
		p.logIn("kim")
		p.until("the choice", `document.querySelector("#pool-lab_large") && document.querySelector("#pool-lab_small")`)
		for _, want := range []string{"lab, small 1 core, 2 GiB, shared by up to 4 people · 0.0125 an hour", "lab, large 1 core, 3 GiB, shared by up to 4 people · 0.05 an hour"} {
			if text := strings.Join(strings.Fields(p.text()), " "); !strings.Contains(text, want) {
				t.Errorf("it does not say %q:\n%s", want, text)
			}
		}
		p.click(`#pool-lab_large`)
		p.click(`#spawn_form button[type=submit]`)
		p.labHere("kim")
		if size := sizeOf(t, machineOf(t, "kim")); size != "large" {
			t.Errorf("the machine is of size %s", size)
		}
	})
	p.claim("a session stays on its machine", func(t *testing.T) {
		p.open(pool.portal + "/terminal/open?pool=lab&size=small")
		p.until("why not", `(`+screen+`).replace(/\n/g, " ").includes("your session in pool lab is on `+machineOf(t, "kim")+`, of size large")`)
	})
	q := visitor(t, "lee")
	q.claim("the portal offers them too, and room on a machine of that size", func(t *testing.T) {
		q.open(pool.portal + "/")
		q.logIn("lee")
		q.until("the price", `document.querySelector(".offers").innerText.includes("0.05 an hour")`)
		q.click(`a[aria-label="JupyterLab on lab, size large"]`)
		q.labHere("lee")
		if got, want := machineOf(t, "lee"), machineOf(t, "kim"); got != want {
			t.Errorf("lee is on %s, and %s of the same size has room", got, want)
		}
	})
	for _, user := range []string{"kim", "lee"} {
		endSession(t, user)
	}
}
