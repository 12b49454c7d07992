// Command bench measures dspool against named peers in one run: the batch queue against Slurm,
// the making of machines against bare runc, long queues against short ones, logins through the
// gateway against logins without it, a year of history against none, the web door against other proxies. It starts everything it measures,
// in directories and namespaces of its own, and leaves nothing behind.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// Parts in the order in which they run. Slurm goes first, while no dspool server is there to
// take its time; people have a server of their own, without a million tasks behind it.
var (
	batchParts  = []string{"tasks", "machines", "submit", "queue"}
	peopleParts = []string{"login", "keystroke", "bulk", "zero", "idle", "crowd"}
	parts       = slices.Concat([]string{"slurm", "web", "jupyterlab", "year"}, batchParts, peopleParts)
)

type options struct {
	dspool, runc, out string
	tasks             int
	only              []string
}

func (o options) wants(part string) bool { return slices.Contains(o.only, part) }

func main() {
	// What runs in processes or namespaces of its own is this program again.
	if len(os.Args) > 1 && webPrograms[os.Args[1]] != nil {
		if err := webPrograms[os.Args[1]](os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	if len(os.Args) > 2 {
		switch os.Args[1] {
		case "in-slurm":
			inNamespaces(inSlurm, os.Args[2])
		case "in-bare":
			inNamespaces(inBare, os.Args[2])
		}
	}
	var o options
	only := flag.String("only", strings.Join(parts, ","), "`PARTS` to run")
	flag.StringVar(&o.dspool, "dspool", "bin/dspool", "the dspool binary")
	flag.StringVar(&o.runc, "runc", "bin/runc", "the runc binary that dspool uses")
	flag.StringVar(&o.out, "out", "build/bench", "`DIR` for results.md and logs")
	flag.IntVar(&o.tasks, "tasks", 1000, "tasks of the array that runs")
	flag.Parse()
	o.only = strings.Split(*only, ",")
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	defer stop()
	ok, err := run(ctx, o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
	}
	if err != nil || !ok {
		os.Exit(1)
	}
}

// run measures and writes the report; ok says whether every aim was met.
func run(ctx context.Context, o options) (ok bool, err error) {
	if err := o.check(); err != nil {
		return false, err
	}
	if err := sweep(ctx); err != nil {
		return false, err
	}
	work, remove, err := workDir()
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, remove()) }()
	r := newReport(o)
	defer func() { // also of a run that broke off: what was measured was measured
		var all bool
		if len(r.rows)+len(r.notes) > 0 {
			var failed error
			all, failed = r.finish()
			err = errors.Join(err, failed)
		}
		ok = all && err == nil
	}()
	var slurm *slurmResult
	if o.wants("slurm") {
		if slurm, err = measureSlurm(ctx, o, filepath.Join(work, "slurm")); err != nil {
			return false, fmt.Errorf("measure slurm: %w", err)
		}
		r.slurm(*slurm)
	}
	if o.wants("web") {
		if err := measureWeb(ctx, o, filepath.Join(work, "web"), r); err != nil {
			return false, fmt.Errorf("measure the web door: %w", err)
		}
	}
	if o.wants("jupyterlab") {
		if err := measureLab(ctx, o, work, r); err != nil {
			return false, fmt.Errorf("measure JupyterLab: %w", err)
		}
	}
	if o.wants("year") {
		if err := measureYear(ctx, o, work, r); err != nil {
			return false, fmt.Errorf("measure a year: %w", err)
		}
	}
	if slices.ContainsFunc(batchParts, o.wants) {
		if err := measureBatch(ctx, o, filepath.Join(work, "batch"), slurm, r); err != nil {
			return false, err
		}
	}
	if slices.ContainsFunc(peopleParts, o.wants) {
		if err := measurePeople(ctx, o, work, r); err != nil {
			return false, err
		}
	}
	return true, nil
}

func (o *options) check() error {
	if os.Geteuid() != 0 {
		return errors.New("machines can only be made by root: run it as root")
	}
	for _, part := range o.only {
		if !slices.Contains(parts, part) {
			return fmt.Errorf("there is no part %q: choose from %s", part, strings.Join(parts, ","))
		}
	}
	if o.tasks < 1 || o.tasks > 1000 {
		return errors.New("-tasks must be from 1 to 1000, the longest array of an untuned Slurm")
	}
	for _, path := range []*string{&o.dspool, &o.runc, &o.out} {
		abs, err := filepath.Abs(*path)
		if err != nil {
			return err
		}
		*path = abs
	}
	for _, binary := range []string{o.dspool, o.runc} {
		if _, err := os.Stat(binary); err != nil {
			return fmt.Errorf("%w: run `make build` first", err)
		}
	}
	return os.MkdirAll(o.out, 0o755)
}
