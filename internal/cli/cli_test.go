package cli_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"github.com/dspool/dspool/internal/cli"
)

var update = flag.Bool("update", false, "write the golden files")

func golden(t *testing.T, path, got string) {
	t.Helper()
	path = filepath.Join("testdata", path)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("read golden file (go test -update writes it): %v", err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s differs (-want +got; go test -update accepts it):\n%s", path, diff)
	}
}

// now is when every test happens.
var now = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func TestMain(m *testing.M) {
	time.Local = time.UTC // goldens show local times
	os.Exit(m.Run())
}

// program is one run of dspool against a fake server.
type program struct {
	cli.Env
	out, err bytes.Buffer
	env      map[string]string
}

// start prepares a run; h answers its requests, one at a time.
func start(t *testing.T, h http.HandlerFunc) *program {
	t.Helper()
	p := &program{env: map[string]string{}}
	if h != nil {
		var one sync.Mutex
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !strings.HasSuffix(r.URL.Path, "/stream") && !strings.Contains(r.URL.Path, "/output/") {
				one.Lock()
				defer one.Unlock()
			}
			h(w, r)
		}))
		s.Config.ErrorLog = log.New(io.Discard, "", 0)
		s.Start()
		t.Cleanup(s.Close)
		p.env["DSPOOL_URL"] = s.URL
	}
	p.Env = cli.Env{Stdin: strings.NewReader(""), Stdout: &p.out, Stderr: &p.err, Now: func() time.Time { return now }, Version: "v1",
		LookupEnv: func(k string) (string, bool) { v, ok := p.env[k]; return v, ok }, Signals: make(chan os.Signal)}
	return p
}

func (p *program) run(t *testing.T, args ...string) int {
	t.Helper()
	return cli.Main(t.Context(), args, p.Env)
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

// Every command explains itself, with an example, and says so as it did before.
func TestHelp(t *testing.T) {
	t.Parallel()
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Name() == "completion" || c.Name() == "help" {
			return
		}
		path := c.CommandPath()
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			p := start(t, nil)
			if code := p.run(t, append(strings.Fields(path)[1:], "--help")...); code != 0 || p.err.Len() > 0 {
				t.Errorf("code %d: %s", code, p.err.String())
			}
			if c.Runnable() && !strings.Contains(p.out.String(), "Examples:\n  dspool") {
				t.Error("there is no example")
			}
			for line := range strings.Lines(p.out.String()) {
				if len(line) > 140 {
					t.Errorf("line of %d characters: %s", len(line), line)
				}
			}
			golden(t, filepath.Join("help", strings.ReplaceAll(path, " ", "-")+".txt"), p.out.String())
		})
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(cli.New(start(t, nil).Env))
}

func TestBadInputIsOneClearSentence(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"frobnicate":                            "dspool: dspool has no command frobnicate\nhint: see `dspool --help`\n",
		"jobb list":                             "dspool: dspool has no command jobb\nhint: did you mean `dspool job`?\n",
		"job lst":                               "dspool: dspool job has no command lst\nhint: did you mean `dspool job list`?\n",
		"job list --usr ada":                    "dspool: dspool job list has no flag --usr\nhint: did you mean --user?\n",
		"job list -x":                           "dspool: dspool job list has no flag -x\nhint: see `dspool job list --help`\n",
		"job list extra":                        "dspool: dspool job list takes no argument \"extra\"\nhint: see `dspool job list --help`\n",
		"job show":                              "dspool: dspool job show needs more: job show JOB [flags]\nhint: see `dspool job show --help`\n",
		"job show ../1":                         "dspool: \"../1\" is not a job's number\nhint: `dspool job list` shows them\n",
		"job list -o xml":                       "dspool: --output: \"xml\" is not possible\nhint: use table, json, csv\n",
		"job list --limit many":                 "dspool: --limit: \"many\" is not a whole number\n",
		"job list --user":                       "dspool: --user needs a value\nhint: see `dspool job list --help`\n",
		"run":                                   "dspool: dspool run needs more: run [flags] -- COMMAND [ARG...]\nhint: see `dspool run --help`\n",
		"run --memory -1 true":                  "dspool: --memory: \"-1\" is not an amount of bytes\nhint: for example 2GiB, 512MiB or 1073741824\n",
		"run --memory 0 true":                   "dspool: --memory: 0 bytes of memory are not possible\nhint: from 4 MiB to 64 TiB\n",
		"run --memory 9223372036854775808 true": "dspool: --memory: \"9223372036854775808\" is not an amount of bytes\nhint: for example 2GiB, 512MiB or 1073741824\n",
		"run --memory 1e99GB true":              "dspool: --memory: \"1e99GB\" is not an amount of bytes\nhint: for example 2GiB, 512MiB or 1073741824\n",
		"run --after x true":                    "dspool: --after: \"x\" is not a job's number\nhint: `dspool job list` shows them\n",
		"run --cpus NaN true":                   "dspool: --cpus: NaN cpus are not possible\nhint: from 0.001 to 4096 in steps of 0.001\n",
		"run --time-limit soon true":            "dspool: --time-limit: \"soon\" is not a duration\nhint: for example 90s, 10m, 2h30m or 1d\n",
		"run --env NOT_THERE true":              "dspool: --env: \"NOT_THERE\" is not set here\nhint: give it a value: --env NOT_THERE=VALUE\n",
		"job submit --array 1-1e18 true":        "dspool: --array: array \"1-1e18\" is not a set of task indices\nhint: for example 1-1000 or 1-10,20; indices from 0 to 2147483647\n",
		"job submit --array 1-99999999 true":    "dspool: --array: array \"1-99999999\" has 99999999 tasks\nhint: at most 10000000 in one job\n",
		"job logs 1 --task -4":                  "dspool: --task: \"-4\" is not a task's index\n",
		"pool resize batch":                     "dspool: nothing to change: give --min, --max or --spare\nhint: see `dspool pool resize --help`\n",
		"usage --from yesterday":                "dspool: --from: \"yesterday\" is not a time\nhint: for example 24h (ago), 2026-11-01 or 2026-11-01T08:00:00Z\n",
		"usage --by moon":                       "dspool: --by: \"moon\" is not possible\nhint: use user, pool, job\n",
		"events --limit 0":                      "dspool: --limit 0 is not possible: from 1 to 500\nhint: see `dspool events --help`\n",
		"events -f -o csv":                      "dspool: -f prints a table or json, not csv\nhint: see `dspool events --help`\n",
		"apply /nonexistent.yaml":               "dspool: the configuration cannot be read: open /nonexistent.yaml: no such file or directory\n",
		"pool show ..":                          "dspool: \"..\" cannot be a name or number of anything\n",
	} {
		t.Run(args, func(t *testing.T) {
			t.Parallel()
			p := start(t, func(http.ResponseWriter, *http.Request) { t.Error("the server was asked") })
			if code := p.run(t, strings.Fields(args)...); code != 2 || p.err.String() != want || p.out.Len() > 0 {
				t.Errorf("code %d, stdout %q\n got %swant %s", code, p.out.String(), p.err.String(), want)
			}
		})
	}
}

func TestExitCodesFollowTheServersCodes(t *testing.T) {
	t.Parallel()
	for code, want := range map[string]int{"invalid": 2, "not_found": 3, "forbidden": 4, "unauthenticated": 4, "unavailable": 5, "conflict": 6, "internal": 1} {
		t.Run(code, func(t *testing.T) {
			t.Parallel()
			p := start(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/problem+json")
				w.WriteHeader(418)
				_ = json.NewEncoder(w).Encode(map[string]string{"detail": "what\x1b[2J", "hint": "next", "code": code})
			})
			got := p.run(t, "user", "remove", "ada")
			if s := p.err.String(); got != want || s != "dspool: what\\x1b[2J\nhint: next\n" {
				t.Errorf("code %d, want %d: %q", got, want, s)
			}
		})
	}
	t.Run("no server", func(t *testing.T) {
		t.Parallel()
		p := start(t, nil)
		p.env["DSPOOL_STATE_DIR"] = "/nonexistent"
		if got := p.run(t, "status"); got != 5 || !strings.Contains(p.err.String(), "dspool: no dspool server answers at /nonexistent/dspool.sock\nhint: start one") {
			t.Errorf("code %d: %s", got, p.err.String())
		}
	})
}
