package dspool

import (
	"encoding/json"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the golden files")

// example is a reason of a code with every parameter that its sentence uses.
func example(code ReasonCode) Reason {
	r := Reason{Code: code}
	for _, p := range placeholders(sentences[code].pattern) {
		name, _, _ := strings.Cut(p, "?")
		name, _, _ = strings.Cut(name, ":")
		switch name {
		case "user":
			r.User = "bob"
		case "job":
			r.Job, r.User = 71, "bob"
		case "by":
			r.By = "grace"
		case "pool":
			r.Pool = "lab"
		case "machine":
			r.Machine = "lab-3"
		case "size":
			r.Size = "large"
		case "name", "name quoted":
			r.Name = "python3"
		case "terminal":
			r.Terminal = "pts/3"
		case "count":
			r.Count = 2
		case "limit":
			r.Limit = 4
		case "port":
			r.Port = 8888
		case "bytes":
			r.Bytes = 1 << 30
		case "time":
			r.Time = Duration(90 * time.Second)
		case "within":
			r.Within = Duration(time.Minute)
		case "since":
			r.Since = time.Date(2026, 12, 1, 9, 30, 0, 0, time.UTC)
		case "request":
			r.Request = Resources{CPUs: 1, Memory: 1 << 30}
		case "used.cpus", "used.memory", "used.gpus":
			r.Used = Resources{CPUs: 2, Memory: 3 << 30, GPUs: 1}
		case "capacity", "capacity.cpus", "capacity.memory", "capacity.gpus":
			r.Capacity = Resources{CPUs: 2, Memory: 4 << 30, GPUs: 1}
		case "detail":
			r.Detail = "no space left on /home/bob"
		case "because", "first", "rest":
			r.Because = []Reason{{Code: WhyMachineKept, ReasonParams: ReasonParams{Machine: "lab-1", User: "bob"}}, {Code: WhyLoadTasks, ReasonParams: ReasonParams{Count: 1}}}
		}
	}
	return r
}

func codes() []ReasonCode { return slices.Sorted(maps.Keys(sentences)) }

// A code without a row would be an empty sentence, and would escape the tests that walk the rows.
func TestEveryCodeHasASentence(t *testing.T) {
	t.Parallel()
	file, err := parser.ParseFile(token.NewFileSet(), "reasons.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	ast.Inspect(file, func(node ast.Node) bool {
		spec, ok := node.(*ast.ValueSpec)
		if !ok || len(spec.Values) != 1 {
			return true
		}
		if kind, ok := spec.Type.(*ast.Ident); ok && kind.Name == "ReasonCode" {
			code := ReasonCode(strings.Trim(spec.Values[0].(*ast.BasicLit).Value, `"`))
			if n++; sentences[code].pattern == "" {
				t.Errorf("%s (%s) has no sentence", spec.Names[0].Name, code)
			}
		}
		return true
	})
	if n != len(sentences) {
		t.Errorf("%d codes, and %d sentences", n, len(sentences))
	}
}

// Whatever a code is about, somebody else reads no name, no job and no detail in it.
func TestNobodyIsNamedToWhomTheyAreHidden(t *testing.T) {
	t.Parallel()
	for _, code := range codes() {
		r := example(code)
		for _, v := range []Viewer{{User: "ada"}, {}} {
			seen := r.For(v)
			raw, err := json.Marshal(seen)
			if err != nil {
				t.Fatal(err)
			}
			for _, hidden := range []string{"bob", "71", "no space left"} {
				if strings.Contains(string(raw), hidden) {
					t.Errorf("%s shows %s to %q: %s", code, hidden, v.User, raw)
				}
			}
			if seen.Text == "" || strings.ContainsAny(seen.Text, "{}[]#") || strings.Contains(seen.Text, "  ") {
				t.Errorf("%s reads %q to %q", code, seen.Text, v.User)
			}
			if again := seen.For(Viewer{Admin: true}); again.Text != seen.Text {
				t.Errorf("%s reads %q, and %q once it was hidden: what is hidden is still there", code, seen.Text, again.Text)
			}
		}
	}
}

func TestAdministratorsAndTheUserReadAllOfIt(t *testing.T) {
	t.Parallel()
	for _, code := range codes() {
		r := example(code)
		for _, p := range []struct {
			v    Viewer
			mine bool
		}{{Viewer{User: "grace", Admin: true}, true}, {Viewer{User: "bob"}, r.User == "bob"}} {
			seen := r.For(p.v)
			if !p.mine {
				continue
			}
			if seen.Text = ""; !seen.Equal(r) {
				t.Errorf("%s becomes %+v for %+v", code, seen, p.v)
			}
		}
		// Without its parameters a code still reads as a sentence.
		if bare := (Reason{Code: code}).For(Viewer{Admin: true}); strings.ContainsAny(bare.Text, "{}[]#") {
			t.Errorf("%s without parameters reads %q", code, bare.Text)
		}
	}
}

// By names whoever did something to everybody's things: administrators, who are no secret. Of a
// user's own thing it may name that user.
func TestWhoDidSomethingOfAUserIsHiddenWithThem(t *testing.T) {
	t.Parallel()
	r := Reason{Code: WhyClosedBy, ReasonParams: ReasonParams{By: "bob"}}.Of("bob")
	if got := r.For(Viewer{User: "ada"}).Text; got != "closed" {
		t.Errorf("ada reads %q", got)
	}
	if got := r.For(Viewer{User: "bob"}).Text; got != "closed by bob" {
		t.Errorf("bob reads %q", got)
	}
}

func TestSentences(t *testing.T) {
	t.Parallel()
	of := func(code ReasonCode, p ReasonParams, because ...Reason) Reason {
		return Reason{Code: code, ReasonParams: p, Because: because}
	}
	three := Resources{CPUs: 1, Memory: 512 << 20}
	for _, c := range []struct {
		r          Reason
		ada, grace string
	}{
		{Reason{}, "", ""},
		{of(WhyJobWaits, ReasonParams{Job: 7, User: "bob", Count: 2, Request: three}), "another user's job waits with 2 tasks of 1 cpu, 512 MiB", "job 7 of bob waits with 2 tasks of 1 cpu, 512 MiB"},
		{of(WhyJobWaits, ReasonParams{Job: 7, User: "ada", Count: 1, Request: three}), "job 7 of ada waits with 1 task of 1 cpu, 512 MiB", "job 7 of ada waits with 1 task of 1 cpu, 512 MiB"},
		{of(WhyUsersWait, ReasonParams{User: "bob", Count: 1}), "somebody and 1 other wait to log in", "bob and 1 other wait to log in"},
		{of(WhyMakesRoomUser, ReasonParams{User: "bob", Size: "big", Pool: "lab"}), "makes room for a machine of size big in pool lab, for which somebody waits",
			"makes room for a machine of size big in pool lab, for which bob waits"},
		{of(WhyPoolMax, ReasonParams{Pool: "lab", Limit: 1}, of(WhyCountBusy, ReasonParams{Count: 1}), of(WhyCountGoing, ReasonParams{Count: 2})),
			"pool lab is at its max of 1 machine: 1 busy, 2 being removed", "pool lab is at its max of 1 machine: 1 busy, 2 being removed"},
		{of(WhyPoolMaxBusy, ReasonParams{Pool: "lab", Limit: 2, Count: 2}), "pool lab is at its max of 2 machines and all are busy", "pool lab is at its max of 2 machines and all are busy"},
		{of(WhyDeadline, ReasonParams{}, of(WhyDrainedBy, ReasonParams{By: "root"}), of(WhyLoadTasks, ReasonParams{Count: 1}), of(WhyLoadSessions, ReasonParams{Count: 2})),
			"drained by root; its deadline has passed with 1 task and 2 sessions on it", "drained by root; its deadline has passed with 1 task and 2 sessions on it"},
		{of(WhyBackoff, ReasonParams{Time: Duration(3 * time.Second)}, of(WhyNotCreated, ReasonParams{Detail: "runc: no such file"})),
			"creating machines failed: it could not be created; next try in 3s", "creating machines failed: it could not be created: runc: no such file; next try in 3s"},
		{of(WhyNoSize, ReasonParams{Pool: "lab"}), "pool lab has no size", "pool lab has no size"},
		{of(WhyNoCommand, ReasonParams{Name: "a\tb"}), `command "a\tb" does not exist on the machine`, `command "a\tb" does not exist on the machine`},
		{of(WhySucceeded, ReasonParams{Count: 1}), "its task succeeded", "its task succeeded"},
		{of(WhyExitCode, ReasonParams{}), "exit code 0", "exit code 0"},
		{of(WhyTasksNot, ReasonParams{Limit: 5}, of(WhyCountFailed, ReasonParams{Count: 2}), of(WhyCountLost, ReasonParams{Count: 1})), "2 failed of 5 tasks, 1 lost", "2 failed of 5 tasks, 1 lost"},
	} {
		if got := c.r.For(Viewer{User: "ada"}).String(); got != c.ada {
			t.Errorf("ada reads %q, not %q", got, c.ada)
		}
		if got := c.r.For(Viewer{User: "grace", Admin: true}).String(); got != c.grace {
			t.Errorf("an administrator reads %q, not %q", got, c.grace)
		}
	}
}

func TestAReasonSurvivesJSON(t *testing.T) {
	t.Parallel()
	for _, code := range codes() {
		r := example(code)
		raw, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		var back Reason
		if err := json.Unmarshal(raw, &back); err != nil || !back.Equal(r) {
			t.Errorf("%s became %+v, %v", raw, back, err)
		}
	}
}

// TestReasonsAreDocumented keeps docs/reasons.md: go test . -run TestReasonsAreDocumented -update.
func TestReasonsAreDocumented(t *testing.T) {
	t.Parallel()
	var doc strings.Builder
	doc.WriteString("# Reasons\n\n" +
		"Everything that dspool decides or notices has a reason: a **code** for programs, **parameters**, and a sentence\n" +
		"(`text`) for whoever asks. The API gives all three (`\"reason\": {\"code\": \"job_waits\", \"job\": 71, …, \"text\": \"…\"}`).\n" +
		"The reasons behind a reason are its `because`. Codes and parameters stay; sentences may change.\n\n" +
		"Other people are never named: they, their jobs and the details of their things are left out, and the sentence says\n" +
		"*somebody* or *another user's job*. Administrators read everything.\n")
	source, err := os.ReadFile("reasons.go")
	if err != nil {
		t.Fatal(err)
	}
	behind := strings.NewReplacer("|", `\|`, "machine lab-1 is kept for bob, who waits to log in", "*reason*", "no space left on /home/bob", "*detail*")
	title, written := "", map[ReasonCode]bool{}
	for line := range strings.Lines(string(source)) {
		line = strings.TrimSpace(line)
		if after, ok := strings.CutPrefix(line, "// "); ok {
			title = strings.TrimSuffix(after, ".")
		}
		_, quoted, ok := strings.Cut(line, "ReasonCode = ")
		if !ok {
			continue
		}
		code := ReasonCode(strings.Trim(quoted, `"`))
		if title != "" && len(written) > 0 || len(written) == 0 {
			fmt.Fprintf(&doc, "\n## %s\n\n| code | parameters | as its user or an administrator reads it | what to do |\n| --- | --- | --- | --- |\n", title)
		}
		title, written[code] = "", true
		row := sentences[code]
		do := row.do
		if do == "" {
			do = "Nothing."
		}
		fmt.Fprintf(&doc, "| `%s` | %s | %s | %s |\n", code, parameters(row.pattern), behind.Replace(example(code).For(Viewer{Admin: true}).Text), do)
	}
	if len(written) != len(sentences) {
		t.Errorf("%d of %d codes are documented", len(written), len(sentences))
	}
	const path = "docs/reasons.md"
	if *update {
		if err := os.WriteFile(path, []byte(doc.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != doc.String() {
		t.Errorf("%s is not what the codes say (%v): go test . -run %s -update", path, err, t.Name())
	}
}

// parameters lists what the sentence of a pattern uses, as JSON names it.
func parameters(pattern string) string {
	var list []string
	for _, p := range placeholders(pattern) {
		p = p[:strings.IndexAny(p+" ", ":?. ")]
		if p == "first" || p == "rest" {
			p = "because"
		}
		if p = "`" + p + "`"; !slices.Contains(list, p) {
			list = append(list, p)
		}
	}
	return strings.Join(list, " ")
}
