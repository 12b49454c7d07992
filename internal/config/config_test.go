package config_test

import (
	"bytes"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/config"
)

var update = flag.Bool("update", false, "write the golden files")

func golden(t *testing.T, path, got string) {
	t.Helper()
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

func example(t *testing.T) *config.Config {
	t.Helper()
	text, err := os.ReadFile("../../examples/team.yaml")
	if err != nil {
		t.Fatal(err)
	}
	c, problems := config.Parse("team.yaml", text, "/etc/dspool")
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	return c
}

func TestExampleIsWhatTheReadmePromises(t *testing.T) {
	t.Parallel()
	c := example(t)
	pool := func(name string, kind dspool.PoolKind, idle time.Duration) dspool.Pool {
		return dspool.Pool{Name: name, Kind: kind, Image: "UbuntuDSVM", Sizes: []string{"small"}, Min: 0, Max: 4, Internet: true,
			Shares: []string{"home", "team"}, Policy: dspool.PoolPolicy{IdleAfter: dspool.Duration(idle), StartTimeout: dspool.Duration(2 * time.Minute),
				SessionsPerMachine: 4, SessionIdle: dspool.Duration(time.Hour), KeepMost: dspool.Duration(24 * time.Hour)}}
	}
	hub := pool("hub", dspool.Service, 15*time.Minute)
	hub.Runs, hub.Image, hub.Sizes, hub.Shares = dspool.RunsJupyterHub, "JupyterHub", []string{"tiny"}, []string{"services"}
	hub.Min, hub.Max, hub.Internet, hub.Policy.SessionsPerMachine = 1, 1, false, 1
	if diff := cmp.Diff([]dspool.Pool{pool("batch", dspool.Batch, 30*time.Second), pool("lab", dspool.Interactive, 15*time.Minute), hub}, c.Pools); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]dspool.Size{{Name: "small", Resources: dspool.Resources{CPUs: 1, Memory: 2 << 30}, Disk: 10 << 30, Price: 0.05},
		{Name: "tiny", Resources: dspool.Resources{CPUs: 1, Memory: 1 << 30}, Disk: 10 << 30}}, c.Sizes); diff != "" {
		t.Error(diff)
	}
	if c.Defaults != (config.Defaults{User: "ada", Pool: "batch", JobsShare: "team"}) {
		t.Errorf("defaults %+v", c.Defaults)
	}
	c.SetStateDir("/state")
	if diff := cmp.Diff([]dspool.Share{{Name: "home", Kind: "dir", Path: "/state/shares/home", Mount: "/home"},
		{Name: "team", Kind: "dir", Path: "/state/shares/team", Mount: "/mnt/team"},
		{Name: "services", Kind: "dir", Path: "/state/shares/services", Mount: "/home"}}, c.Shares); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]dspool.Door{{Listen: "127.0.0.1:2222", Protocol: dspool.ProtocolSSH, Pool: "lab"},
		{Listen: "127.0.0.1:8000", Protocol: dspool.ProtocolWeb, Pool: "lab"}}, c.Doors); diff != "" {
		t.Error(diff)
	}
}

func TestReferencePageIsCurrent(t *testing.T) {
	t.Parallel()
	golden(t, "../../docs/config.md", config.Reference())
}

// Each testdata/bad-*.yaml has a .problems beside it.
func TestEveryProblemIsReportedAtOnceWithItsLine(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/bad-*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			c, problems := config.Parse(f, text, "/etc/dspool")
			if c != nil {
				t.Error("a file with problems gave a configuration")
			}
			var b strings.Builder
			for _, p := range problems {
				fmt.Fprintln(&b, p)
			}
			golden(t, strings.TrimSuffix(f, ".yaml")+".problems", b.String())
		})
	}
}

const tiny = "sizes: {s: {cpus: 1, memory: 1GiB}}\nshares: {team: {}}\npools: {p: {sizes: [s], shares: [team]}}\n"

func TestOneLineOfBadInput(t *testing.T) {
	t.Parallel()
	size := func(key, value string) string {
		return "sizes: {s: {cpus: 1, memory: 1GiB, " + key + ": " + value + "}}"
	}
	mem := func(value string) string { return "sizes: {s: {cpus: 1, memory: " + value + "}}" }
	for claim, tt := range map[string]struct{ text, want string }{
		"memory -1":           {mem("-1"), `team.yaml:1: memory of size s: "-1" is not an amount of bytes`},
		"memory 0":            {mem("0"), `memory of size s: 0 bytes of memory are not possible (from 4 MiB to 64 TiB)`},
		"memory 2^63":         {mem("9223372036854775808"), `"9223372036854775808" is not an amount of bytes`},
		"memory 1e99GB":       {mem("1e99GB"), `"1e99GB" is not an amount of bytes`},
		"memory over a limit": {mem("65TiB"), `are not possible (from 4 MiB to 64 TiB)`},
		"cpus NaN":            {"sizes: {s: {cpus: .nan, memory: 1GiB}}", `".nan" is not a number of cpus`},
		"price infinite":      {size("price", "Inf"), `"Inf" is not a price`},
		"price negative":      {size("price", "-0.1"), `is not a price`},
		"disk tiny":           {size("disk", "1"), `1 B of disk is too little`},
		"no internet, but public": {"sizes: {s: {cpus: 1, memory: 1GiB}}\npools: {p: {sizes: [s], internet: false, public_only: true}}",
			"team.yaml:2: pool p has no internet, so its machines reach no public address either (leave public_only or internet out)"},
		"a size without cpus": {"sizes: {s: {memory: 1GiB}}", `team.yaml:1: size s has no cpus (for example cpus: 1)`},
		"name with newline":   {`sizes: {"a\nb": {cpus: 1, memory: 1GiB}}`, `size name "a\nb" is not allowed`},
		"name with $()":       {`pools: {"$(id)": {}}`, `pool name "$(id)" is not allowed`},
		"name with ../":       {`shares: {"../x": {}}`, `share name "../x" is not allowed`},
		"name with NUL":       {"pools: {\"a\\0b\": {}}", `pool name "a\x00b" is not allowed`},
		"name of 1 MB":        {"pools: {" + strings.Repeat("a", 1000) + ": {}}", `"… is not allowed`},
		"image name with ;":   {`images: {"a;b": {}}`, `image name "a;b" is not allowed`},
		"user root":           {"users: {list: [root]}", "user name root is a system account's"},
		"uid below 20000":     {"users: {uid_range: 1000-2000}", "is not a range of user ids (FIRST-LAST within 20000-60000)"},
		"uid range reversed":  {"users: {uid_range: 30000-20000}", "is not a range of user ids"},
		"user twice":          {"users: {list: [ada, {name: ada}]}", "user ada is there twice (it is already in line 1)"},
		"share over /etc":     {"shares: {s: {path: /etc/ssh}}", "/etc/ssh belongs to the host's system"},
		"share by dots":       {"shares: {s: {path: /srv/../etc}}", "/etc belongs to the host's system"},
		"share of /":          {"shares: {s: {path: /}}", "/ is a whole tree of the host"},
		"mount over /usr":     {"shares: {s: {mount: /usr/lib}}", `"/usr/lib" is no place for a share`},
		"mount by dots":       {"shares: {s: {mount: /mnt/../etc}}", `"/mnt/../etc" is no place for a share`},
		"shares nested":       {"shares: {a: {path: /srv/x}, b: {path: /srv/x/y}}", "one inside the other"},
		"public subnet":       {"server: {subnet: 8.8.8.0/24}", "is not a private IPv4 network"},
		"subnet unmasked":     {"server: {subnet: 10.80.0.1/16}", "the network is 10.80.0.0/16"},
		"listen nonsense":     {"server: {listen: 8443}", `"8443" is not an address to listen at`},
		"listen port":         {"server: {listen: ':70000'}", "is not an address to listen at"},
		"key alone":           {"server: {key: k.pem}", "only one of certificate and key"},
		"duration":            {"pools: {p: {sizes: [s], policy: {idle_after: 5}}}", `idle_after of pool p: "5" is not a duration (for example 90s`},
		"unknown section":     {"pool: {}", `team.yaml:1: unknown key "pool" (did you mean pools?)`},
		"merge key":           {"sizes: {s: {<<: {cpus: 1}}}", "merge keys (<<) are not read here"},
		"a list of nothing":   {"- 1", "the file must hold keys and values, not a list"},
		"empty":               {"", "team.yaml: the file is empty"},
		"tab":                 {"a:\n\t- b", "team.yaml:2: not YAML: found character that cannot start any token"},
		"two documents":       {"sizes: {}\n---\nsizes: {}", "second document"},
		"too long":            {strings.Repeat("#", config.MaxBytes+1), "team.yaml: the file is 1 MiB long (at most 1 MiB)"},
		"no jobs share":       {"sizes: {s: {cpus: 1, memory: 1GiB}}\npools: {p: {sizes: [s]}}", "no share is named for the jobs' directories"},
		"unmounted jobs":      {strings.Replace(tiny, "[team]", "[]", 1), "team.yaml:3: pool p is for batch jobs but does not mount share team"},
		"jobs over homes":     {"sizes: {s: {cpus: 1, memory: 1GiB}}\nshares: {team: {mount: /mnt}, b: {}}\npools: {p: {sizes: [s], shares: [team, b]}}", "one over the other"},
	} {
		t.Run(claim, func(t *testing.T) {
			t.Parallel()
			_, problems := config.Parse("team.yaml", []byte(tt.text), "/etc/dspool")
			if got := fmt.Sprint(problems); !strings.Contains(got, tt.want) {
				t.Errorf("got %s\nwant %s", got, tt.want)
			}
		})
	}
}

func TestRelativePathsBeginAtTheFile(t *testing.T) {
	t.Parallel()
	text := []byte("server: {images: recipes}\nshares: {team: {path: ../data}}\nimages: {X: {recipe: x.yaml}}\n")
	c, problems := config.Parse("team.yaml", text, "/srv/conf/a")
	if problems != nil {
		t.Fatal(problems)
	}
	if c.Server.Images != "/srv/conf/a/recipes" || c.Shares[0].Path != "/srv/conf/data" || c.Images[0].Recipe != "/srv/conf/a/x.yaml" {
		t.Errorf("%+v", c)
	}
	if _, problems = config.Parse("team.yaml", text, ""); len(problems) != 3 || !strings.Contains(problems[0].Message, "relative path") {
		t.Errorf("without a directory: %v", problems)
	}
	if p := c.ProblemAt("image", "X", "no such recipe", ""); p.String() != "team.yaml:3: no such recipe" {
		t.Error(p)
	}
}

func TestAliasesWorkAndABombOfThemIsCheap(t *testing.T) {
	t.Parallel()
	c, problems := config.Parse("team.yaml", []byte(tiny+"images: {a: &i {recipe: /r.yaml}, b: *i}\n"), "")
	if problems != nil || c.Images[1].Recipe != "/r.yaml" {
		t.Fatal(problems)
	}
	var b bytes.Buffer
	b.WriteString("pools:\n  a: &a {")
	for i := range 2000 {
		fmt.Fprintf(&b, "k%d: 1, ", i)
	}
	b.WriteString("}\n")
	for i := range 2000 {
		fmt.Fprintf(&b, "  p%d: *a\n", i)
	}
	if _, problems := config.Parse("team.yaml", b.Bytes(), ""); len(problems) == 0 || len(problems) > 100 {
		t.Errorf("%d problems", len(problems))
	}
}

func TestDiff(t *testing.T) {
	t.Parallel()
	c := example(t)
	if d := config.Diff(c, example(t)); len(d) != 0 {
		t.Errorf("the same file twice differs: %v", d)
	}
	text, _ := os.ReadFile("../../examples/team.yaml")
	changed := strings.NewReplacer("8443", "9443", "lab:", "desk:", "pool: lab", "pool: desk", "max: 4\n    shares", "max: 8\n    shares", "price: 0.05", "price: 0.06",
		"  user: ada", "  user: grace", "    - name: ada\n", "    - name: bob\n").Replace(string(text))
	w, problems := config.Parse("team.yaml", []byte(changed), "/")
	if problems != nil {
		t.Fatal(problems)
	}
	var b strings.Builder
	for _, d := range config.Diff(c, w) {
		fmt.Fprintf(&b, "%s %s %s: %s\n", d.Action, d.Kind, d.Name, d.Detail)
	}
	b.WriteString("\nfrom nothing:\n")
	for _, d := range config.Diff(nil, c) {
		fmt.Fprintf(&b, "%s %s %s: %s\n", d.Action, d.Kind, d.Name, d.Detail)
	}
	golden(t, "testdata/diff.txt", b.String())
}

// Whatever the bytes, Parse neither panics nor hands out a configuration that its nouns refuse.
func FuzzParse(f *testing.F) {
	text, _ := os.ReadFile("../../examples/team.yaml")
	f.Add(string(text))
	f.Add(tiny)
	f.Add("a: &a [*a]")
	f.Fuzz(func(t *testing.T, text string) { sound(t, text) })
}

func TestGarbledExampleIsRefusedOrSound(t *testing.T) {
	t.Parallel()
	text, _ := os.ReadFile("../../examples/team.yaml")
	rapid.Check(t, func(r *rapid.T) {
		lines := strings.Split(string(text), "\n")
		for range rapid.IntRange(1, 4).Draw(r, "edits") {
			i := rapid.IntRange(0, len(lines)-1).Draw(r, "line")
			switch rapid.IntRange(0, 3).Draw(r, "edit") {
			case 0:
				lines = append(lines[:i:i], lines[i+1:]...)
			case 1:
				lines[i] += rapid.SampledFrom([]string{"x", ":", " [", "\x00", " -1", "\t", "&a *a", "{}"}).Draw(r, "tail")
			case 2:
				lines[i] = strings.TrimLeft(lines[i], " ")
			case 3:
				lines = append(lines[:i:i], append([]string{lines[rapid.IntRange(0, len(lines)-1).Draw(r, "copy")]}, lines[i:]...)...)
			}
			if len(lines) == 0 {
				return
			}
		}
		sound(r, strings.Join(lines, "\n"))
	})
}

func sound(t interface{ Errorf(string, ...any) }, text string) {
	c, problems := config.Parse("team.yaml", []byte(text), "/d")
	if (c == nil) != (len(problems) > 0) {
		t.Errorf("configuration %v with problems %v", c, problems)
	}
	if c == nil {
		return
	}
	for _, p := range c.Pools {
		if err := p.Check(); err != nil {
			t.Errorf("accepted a pool that its own check refuses: %v", err)
		}
	}
	for _, s := range c.Sizes {
		if dspool.CheckMemory(s.Memory) != nil || dspool.CheckCPUs(s.CPUs) != nil || math.IsNaN(s.Price) {
			t.Errorf("accepted size %+v", s)
		}
	}
}
