package cli

import (
	"context"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/client"
)

func (a *app) usage() *cobra.Command {
	var form, by string
	var from, to time.Time
	type row = dspool.UsageRow
	cmd := command("usage", "Show who used what, and what it cost",
		`A task costs its largest share of the machine (cpu, memory or gpu) for the time
it ran; what nobody held of a machine is the line (idle). Costs are in whatever
money the sizes' prices count. Without --from it is the bill of this month, which
begins and ends in UTC, as days do; of what is longer ago than the retention of jobs
and sessions the bill is that of whole days.`,
		"dspool usage\ndspool usage --by pool --from 7d\ndspool usage --by job --from 2026-11-01 --to 2026-12-01 -o csv", positional(0, 0),
		a.with(func(ctx context.Context, c *client.Client, _ []string) error {
			u, err := c.Usage(ctx, by, from, to)
			if err != nil {
				return err
			}
			if form == "json" {
				return a.json(u)
			}
			most := 0.0
			for _, r := range u.Rows {
				most = max(most, r.Cost)
			}
			number := func(get func(row) float64) (func(row) string, func(row) string) {
				return func(r row) string { return hours(get(r)) }, func(r row) string { return rawFloat(get(r)) }
			}
			machine, rawMachine := number(func(r row) float64 { return r.MachineSeconds })
			cpu, rawCPU := number(func(r row) float64 { return r.CPUSeconds })
			gib, rawGiB := number(func(r row) float64 { return r.GiBSeconds })
			gpu, rawGPU := number(func(r row) float64 { return r.GPUSeconds })
			columns := []column[row]{
				{name: strings.ToUpper(by), text: func(r row) string { return r.Key }},
				{name: "MACHINE HOURS", text: machine, right: true},
				{name: "CPU HOURS", text: cpu, right: true},
				{name: "GIB HOURS", text: gib, right: true},
				{name: "GPU HOURS", text: gpu, right: true},
				{name: "TASKS", text: func(r row) string { return strconv.FormatInt(r.Tasks, 10) }, right: true},
				{name: "COST", text: func(r row) string { return spent(r.Cost) }, raw: func(r row) string { return rawFloat(r.Cost) }, right: true},
			}
			if form == "csv" {
				for i, c := range []struct {
					name string
					raw  func(row) string
				}{{"MACHINE SECONDS", rawMachine}, {"CPU SECONDS", rawCPU}, {"GIB SECONDS", rawGiB}, {"GPU SECONDS", rawGPU}} {
					columns[i+1].name, columns[i+1].raw = c.name, c.raw
				}
			} else {
				columns = append(columns, column[row]{name: " ", text: func(r row) string { return costBar(r.Cost, most) }, paint: func(row) string { return cyan }})
			}
			if err := list(a, form, u.Rows, "nothing was used", columns...); err != nil || form == "csv" {
				return err
			}
			if len(u.Rows) > 0 {
				month := ""
				if from.IsZero() && to.IsZero() {
					month = " this month,"
				}
				const form = "2006-01-02 15:04"
				a.printf("total cost %s%s from %s to %s\n", strings.TrimSpace(spent(u.Cost)), month, u.From.Local().Format(form), u.To.Local().Format(form))
			}
			return nil
		}))
	choice(cmd, &by, "by", "", "one line for each", "user", "pool", "job")
	flag(cmd, &from, "from", "time", "beginning, such as 24h (ago) or 2026-11-01 (default: this month)", a.moment)
	flag(cmd, &to, "to", "time", "end (default: now)", a.moment)
	return listOutput(cmd, &form)
}

// costBar draws a cost against the largest, in eighths of a character.
func costBar(cost, most float64) string {
	if most <= 0 {
		return " "
	}
	const width = 16
	eighths := int(math.Round(cost / most * width * 8))
	s := strings.Repeat("█", eighths/8)
	if r := eighths % 8; r > 0 {
		s += string([]rune("▏▎▍▌▋▊▉")[r-1])
	}
	if s == "" {
		return " "
	}
	return s
}
