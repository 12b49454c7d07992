package usage_test

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/usage"
)

const gib = 1 << 30

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func at(seconds float64) time.Time {
	return start.Add(time.Duration(seconds * float64(time.Second)))
}

func res(cpus float64, gibs float64, gpus int) dspool.Resources {
	return dspool.Resources{CPUs: cpus, Memory: int64(gibs * gib), GPUs: gpus}
}

func machine(name, pool string, from, to float64) usage.Machine {
	return usage.Machine{Machine: name, Pool: pool, Resources: res(4, 16, 0), Price: 3600, From: at(from), To: at(to)}
}

func claim(m, user string, job int64, r dspool.Resources, from, to float64) usage.Claim {
	return usage.Claim{Machine: m, User: user, Job: job, Request: r, From: at(from), To: at(to)}
}

func TestCompute(t *testing.T) {
	t.Parallel()
	type row = dspool.UsageRow
	one := []usage.Machine{machine("batch-1", "batch", 0, 100)} // costs 1 a second
	for _, tt := range []struct {
		name     string
		machines []usage.Machine
		claims   []usage.Claim
		by       usage.By
		want     []row
	}{
		{name: "nothing costs nothing", want: []row{}},
		{
			name: "a machine that nobody claims is idle", machines: one,
			want: []row{{Key: "(idle)", MachineSeconds: 100, CPUSeconds: 400, GiBSeconds: 1600, Cost: 100}},
		},
		{
			name: "a claim costs its largest share", machines: one,
			claims: []usage.Claim{claim("batch-1", "ada", 1, res(1, 8, 0), 10, 30)},
			want: []row{
				{Key: "ada", User: "ada", MachineSeconds: 10, CPUSeconds: 20, GiBSeconds: 160, Tasks: 1, Cost: 10},
				{Key: "(idle)", MachineSeconds: 90, CPUSeconds: 380, GiBSeconds: 1440, Cost: 90},
			},
		},
		{
			name: "concurrent claims never cost more than the machine", machines: one,
			claims: []usage.Claim{
				claim("batch-1", "ada", 1, res(1, 16, 0), 0, 100), // all the memory
				claim("batch-1", "bob", 2, res(3, 1, 0), 50, 100), // three quarters of the cpus
			},
			want: []row{
				{Key: "ada", User: "ada", MachineSeconds: 50 + 50/1.75, CPUSeconds: 50 + 50/1.75, GiBSeconds: 16 * (50 + 50/1.75), Tasks: 1, Cost: 50 + 50/1.75},
				{Key: "bob", User: "bob", MachineSeconds: 50 * 0.75 / 1.75, CPUSeconds: 150 / 1.75, GiBSeconds: 50 / 1.75, Tasks: 1, Cost: 50 * 0.75 / 1.75},
				{Key: "(idle)", CPUSeconds: 400 - 50 - 200/1.75, GiBSeconds: 1600 - 800 - 850/1.75},
			},
		},
		{
			name: "by pool every pool has its idle row", by: usage.ByPool,
			machines: []usage.Machine{machine("batch-1", "batch", 0, 100), machine("lab-1", "lab", 0, 50)},
			claims: []usage.Claim{
				claim("lab-1", "bob", 2, res(4, 1, 0), 0, 40),
				claim("batch-1", "ada", 1, res(4, 1, 0), 0, 10),
				claim("batch-1", "bob", 3, res(4, 1, 0), 10, 20),
			},
			want: []row{
				{Key: "lab", Pool: "lab", MachineSeconds: 40, CPUSeconds: 160, GiBSeconds: 40, Tasks: 1, Cost: 40},
				{Key: "batch", Pool: "batch", MachineSeconds: 20, CPUSeconds: 80, GiBSeconds: 20, Tasks: 2, Cost: 20},
				{Key: "(idle)", Pool: "batch", MachineSeconds: 80, CPUSeconds: 320, GiBSeconds: 1580, Cost: 80},
				{Key: "(idle)", Pool: "lab", MachineSeconds: 10, CPUSeconds: 40, GiBSeconds: 760, Cost: 10},
			},
		},
		{
			name: "by job rows name user and pool, equal costs by job number", by: usage.ByJob, machines: one,
			claims: []usage.Claim{
				claim("batch-1", "ada", 10, res(4, 1, 0), 0, 50),
				claim("batch-1", "bob", 9, res(4, 1, 0), 50, 100),
			},
			want: []row{
				{Key: "9", Pool: "batch", User: "bob", MachineSeconds: 50, CPUSeconds: 200, GiBSeconds: 50, Tasks: 1, Cost: 50},
				{Key: "10", Pool: "batch", User: "ada", MachineSeconds: 50, CPUSeconds: 200, GiBSeconds: 50, Tasks: 1, Cost: 50},
				{Key: "(idle)", GiBSeconds: 1500},
			},
		},
		{
			name: "a session costs what a task costs, and is none", machines: one,
			claims: []usage.Claim{
				{Machine: "batch-1", User: "ada", Session: 3, Request: res(1, 4, 0), From: at(0), To: at(100)},
				claim("batch-1", "ada", 1, res(1, 4, 0), 0, 100),
			},
			want: []row{
				{Key: "ada", User: "ada", MachineSeconds: 50, CPUSeconds: 200, GiBSeconds: 800, Tasks: 1, Cost: 50},
				{Key: "(idle)", MachineSeconds: 50, CPUSeconds: 200, GiBSeconds: 800, Cost: 50},
			},
		},
		{
			name: "by job every session has its row, also beside a job of the same number", by: usage.ByJob, machines: one,
			claims: []usage.Claim{
				{Machine: "batch-1", User: "ada", Session: 10, Request: res(1, 4, 0), From: at(0), To: at(40)},
				{Machine: "batch-1", User: "ada", Session: 9, Request: res(1, 4, 0), From: at(0), To: at(40)},
				claim("batch-1", "ada", 9, res(1, 4, 0), 0, 80),
			},
			want: []row{
				{Key: "9", Pool: "batch", User: "ada", MachineSeconds: 20, CPUSeconds: 80, GiBSeconds: 320, Tasks: 1, Cost: 20},
				{Key: "session 9", Pool: "batch", User: "ada", MachineSeconds: 10, CPUSeconds: 40, GiBSeconds: 160, Cost: 10},
				{Key: "session 10", Pool: "batch", User: "ada", MachineSeconds: 10, CPUSeconds: 40, GiBSeconds: 160, Cost: 10},
				{Key: "(idle)", MachineSeconds: 60, CPUSeconds: 240, GiBSeconds: 960, Cost: 60},
			},
		},
		{
			name: "what lies outside the machine's time or on unknown machines costs nothing", machines: one,
			claims: []usage.Claim{
				claim("batch-1", "ada", 1, res(4, 1, 0), -50, 10),
				claim("batch-1", "ada", 1, res(4, 1, 0), 95, 500),
				claim("batch-1", "ada", 1, res(4, 1, 0), 20, 20),
				claim("batch-1", "ada", 1, res(4, 1, 0), 30, 25),
				claim("gone-1", "bob", 1, res(4, 1, 0), 0, 100),
			},
			want: []row{
				{Key: "ada", User: "ada", MachineSeconds: 15, CPUSeconds: 60, GiBSeconds: 15, Tasks: 4, Cost: 15},
				{Key: "(idle)", MachineSeconds: 85, CPUSeconds: 340, GiBSeconds: 1585, Cost: 85},
			},
		},
		{
			name:     "times of one machine that overlap are billed once",
			machines: []usage.Machine{machine("batch-1", "batch", 0, 60), machine("batch-1", "batch", 40, 100), machine("batch-1", "batch", 50, 55)},
			want:     []row{{Key: "(idle)", MachineSeconds: 100, CPUSeconds: 400, GiBSeconds: 1600, Cost: 100}},
		},
		{
			name:     "a claim larger than its machine costs the machine, and gpus count",
			machines: []usage.Machine{{Machine: "g-1", Pool: "g", Resources: res(8, 8, 2), Price: 36, From: at(0), To: at(100)}},
			claims: []usage.Claim{
				claim("g-1", "ada", 1, res(99, 1, 0), 0, 10),
				claim("g-1", "bob", 2, res(1, 1, 1), 50, 100),
			},
			want: []row{
				{Key: "bob", User: "bob", MachineSeconds: 25, CPUSeconds: 50, GiBSeconds: 50, GPUSeconds: 50, Tasks: 1, Cost: .25},
				{Key: "ada", User: "ada", MachineSeconds: 10, CPUSeconds: 80, GiBSeconds: 10, Tasks: 1, Cost: .1},
				{Key: "(idle)", MachineSeconds: 65, CPUSeconds: 670, GiBSeconds: 740, GPUSeconds: 150, Cost: .65},
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := usage.Compute(tt.machines, tt.claims).Rows(tt.by)
			for i := range got { // idle rows without time still say which parts were never used
				if got[i].Cost < 2e-6 {
					got[i].Cost, got[i].MachineSeconds = 0, 0
				}
			}
			if diff := cmp.Diff(tt.want, got, cmpopts.EquateApprox(0, 3e-6)); diff != "" {
				t.Errorf("bill (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseBy(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]usage.By{"": usage.ByUser, "user": usage.ByUser, "pool": usage.ByPool, "job": usage.ByJob} {
		if got, err := usage.ParseBy(in); err != nil || got != want {
			t.Errorf("ParseBy(%q) = %q, %v", in, got, err)
		}
	}
	if _, err := usage.ParseBy("week\n"); dspool.ErrorCode(err) != dspool.Invalid {
		t.Errorf("ParseBy of nonsense: %v", err)
	}
}

func drawInput(t *rapid.T) ([]usage.Machine, []usage.Claim) {
	second := rapid.Float64Range(0, 1000)
	var machines []usage.Machine
	for i := range rapid.IntRange(1, 4).Draw(t, "machines") {
		machines = append(machines, usage.Machine{
			Machine: fmt.Sprintf("m-%d", i), Pool: rapid.SampledFrom([]string{"batch", "lab"}).Draw(t, "pool"),
			Resources: res(float64(rapid.IntRange(1, 8).Draw(t, "cpus")), float64(rapid.IntRange(1, 32).Draw(t, "memory")), rapid.IntRange(0, 2).Draw(t, "gpus")),
			Price:     rapid.Float64Range(0, 10).Draw(t, "price"),
			From:      at(second.Draw(t, "from")), To: at(second.Draw(t, "to")),
		})
	}
	var claims []usage.Claim
	for range rapid.IntRange(0, 30).Draw(t, "claims") {
		from := second.Draw(t, "begin")
		job := rapid.Int64Range(1, 5).Draw(t, "job")
		c := usage.Claim{
			Machine: rapid.SampledFrom(machines).Draw(t, "on").Machine,
			User:    []string{"ada", "bob"}[job%2], Job: job,
			Request: res(rapid.Float64Range(0, 9).Draw(t, "cpus"), rapid.Float64Range(0, 40).Draw(t, "memory"), rapid.IntRange(0, 2).Draw(t, "gpus")),
			From:    at(from), To: at(from + rapid.Float64Range(-1, 500).Draw(t, "length")),
		}
		if rapid.Bool().Draw(t, "session") {
			c.Job, c.Session = 0, job
		}
		claims = append(claims, c)
	}
	return machines, claims
}

func TestBillProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		machines, claims := drawInput(t)
		by := rapid.SampledFrom([]usage.By{usage.ByUser, usage.ByPool, usage.ByJob}).Draw(t, "by")
		beforeM, beforeC := slices.Clone(machines), slices.Clone(claims)
		rows := usage.Compute(machines, claims).Rows(by)
		if !slices.Equal(beforeM, machines) || !slices.Equal(beforeC, claims) {
			t.Fatal("the input was modified")
		}
		if diff := cmp.Diff(rows, usage.Compute(machines, claims).Rows(by)); diff != "" {
			t.Fatalf("a second computation differs:\n%s", diff)
		}
		var want, sum dspool.UsageRow
		for _, m := range machines {
			if s := m.To.Sub(m.From).Seconds(); s > 0 {
				want.MachineSeconds += s
				want.Cost += s / 3600 * m.Price
				want.CPUSeconds += s * m.Resources.CPUs
				want.GiBSeconds += s * float64(m.Resources.Memory) / gib
				want.GPUSeconds += s * float64(m.Resources.GPUs)
			}
		}
		for i, r := range rows {
			if r.Cost < 0 || r.MachineSeconds < 0 || r.CPUSeconds < 0 || r.GiBSeconds < 0 || r.GPUSeconds < 0 {
				t.Fatalf("negative row %+v", r)
			}
			if i > 0 && rows[i-1].Key == usage.Idle && r.Key != usage.Idle {
				t.Fatalf("row %s after an idle row", r.Key)
			}
			if i > 0 && (rows[i-1].Key == usage.Idle) == (r.Key == usage.Idle) && rows[i-1].Cost < r.Cost {
				t.Fatal("rows are not in order of cost")
			}
			sum.MachineSeconds += r.MachineSeconds
			sum.Cost += r.Cost
			sum.CPUSeconds += r.CPUSeconds
			sum.GiBSeconds += r.GiBSeconds
			sum.GPUSeconds += r.GPUSeconds
			sum.Tasks += r.Tasks
		}
		tasks := int64(0)
		for _, c := range claims {
			if c.Session == 0 {
				tasks++
			}
		}
		if sum.Tasks != tasks {
			t.Fatalf("%d tasks on the bill, want %d", sum.Tasks, tasks)
		}
		sum.Tasks = 0
		if diff := cmp.Diff(want, sum, cmpopts.EquateApprox(1e-9, 5e-5)); diff != "" {
			t.Fatalf("the rows do not add up to the machines (-machines +rows):\n%s", diff)
		}
	})
}

// TestAgainstSlices compares with the definition: cut time at every edge and look at each slice.
func TestAgainstSlices(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		machines, claims := drawInput(t)
		want := map[string]float64{}
		for _, m := range machines {
			cuts := []time.Time{m.From, m.To}
			for _, c := range claims {
				cuts = append(cuts, c.From, c.To)
			}
			slices.SortFunc(cuts, time.Time.Compare)
			for i := 1; i < len(cuts); i++ {
				from, to := cuts[i-1], cuts[i]
				if from.Before(m.From) || to.After(m.To) {
					continue
				}
				shares, sum := map[string]float64{}, 0.0
				for _, c := range claims {
					if c.Machine == m.Machine && !c.From.After(from) && !c.To.Before(to) {
						s := c.Request.Share(m.Resources)
						shares[c.User] += s
						sum += s
					}
				}
				cost := to.Sub(from).Seconds() / 3600 * m.Price
				for user, s := range shares {
					want[user] += cost * s / max(1, sum)
				}
				want[usage.Idle] += cost * max(0, 1-sum)
			}
		}
		got := map[string]float64{}
		for _, r := range usage.Compute(machines, claims).Rows(usage.ByUser) {
			got[r.Key] = r.Cost
		}
		for _, key := range []string{"ada", "bob", usage.Idle} {
			if math.Abs(got[key]-want[key]) > 5e-5 { // every job and session is rounded to a millionth
				t.Fatalf("%s costs %v, want %v", key, got[key], want[key])
			}
		}
	})
}

func BenchmarkCompute200kClaims(b *testing.B) {
	for _, machines := range []int{1, 100} {
		b.Run(fmt.Sprintf("machines=%d", machines), func(b *testing.B) {
			var ms []usage.Machine
			for i := range machines {
				ms = append(ms, machine(fmt.Sprintf("m-%d", i), "batch", 0, 1e6))
			}
			var cs []usage.Claim
			for i := range 200_000 {
				cs = append(cs, claim(ms[i%machines].Machine, fmt.Sprintf("user%d", i%50), int64(i/100), res(1, 4, 0), float64(i), float64(i+5000)))
			}
			for b.Loop() {
				usage.Compute(ms, cs).Rows(usage.ByJob)
			}
		})
	}
}
