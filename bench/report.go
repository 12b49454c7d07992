package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// report gathers rows as they are measured and prints them once all are there.
type report struct {
	o      options
	begun  time.Time
	others float64 // cores that other work took, at most, when nothing of this was running
	rows   []row
	notes  []string
	missed int
}

// row is one line of the table. Aims hold for the ratio, or for the value where there is none;
// a row without an aim is only told.
type row struct {
	what, dspool, peer, ratio, aim string
	met                            bool
}

func newReport(o options) *report {
	return &report{o: o, begun: time.Now(), others: othersUse()}
}

// look watches other work again, at a moment when nothing is measured.
func (r *report) look() { r.others = max(r.others, othersUse()) }

func (r *report) add(n row) {
	if n.aim != "" && !n.met {
		r.missed++
	}
	r.rows = append(r.rows, n)
}

func (r *report) note(format string, args ...any) {
	r.notes = append(r.notes, fmt.Sprintf(format, args...))
}

// finish prints the table and writes it to results.md; ok says that every aim was met.
func (r *report) finish() (ok bool, err error) {
	text := r.text()
	fmt.Print("\n", text)
	file := filepath.Join(r.o.out, "results.md")
	if err := os.WriteFile(file, []byte("```\n"+text+"```\n"), 0o644); err != nil {
		return false, err
	}
	fmt.Println("written to", file)
	return r.missed == 0, nil
}

func (r *report) text() string {
	var b bytes.Buffer
	fmt.Fprintf(&b, "dspool's speed against named peers, %s, in one run of %s\n", r.begun.Format(time.DateTime), seconds(time.Since(r.begun)))
	fmt.Fprintf(&b, "host: %d cores, %s; other work took up to %.2f cores between the parts", runtime.NumCPU(), kernel(), r.others)
	if r.others > 0.3 {
		b.WriteString(": BUSY, do not rely on these numbers")
	}
	b.WriteString("\n\n")
	w := tabwriter.NewWriter(&b, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "WHAT\tDSPOOL\tPEER\tRATIO\tAIM\t")
	for _, n := range r.rows {
		verdict := "ok"
		switch {
		case n.aim == "":
			verdict = "reported"
		case !n.met:
			verdict = "MISSED"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", n.what, n.dspool, n.peer, n.ratio, n.aim, verdict)
	}
	w.Flush()
	if len(r.notes) > 0 {
		fmt.Fprintf(&b, "\n%s\n", strings.Join(r.notes, "\n"))
	}
	return b.String()
}

// progress says what happens, for those who wait.
func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
}

func median(samples []time.Duration) time.Duration {
	s := slices.Sorted(slices.Values(samples))
	n := len(s)
	if n == 0 {
		return 0
	}
	return (s[(n-1)/2] + s[n/2]) / 2
}

// spread is the median with the fastest and the slowest, all in milliseconds.
func spread(samples []time.Duration) string {
	return fmt.Sprintf("%s (%s to %s)", millis(median(samples)), millis(slices.Min(samples)), millis(slices.Max(samples)))
}

func millis(d time.Duration) string {
	return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }

func times(ratio float64) string { return fmt.Sprintf("%.2f×", ratio) }

// othersUse is how many cores other work takes, watched for a second.
func othersUse() float64 {
	before, err1 := hostBusy()
	begun := time.Now()
	time.Sleep(time.Second)
	after, err2 := hostBusy()
	if err1 != nil || err2 != nil {
		return 0
	}
	return (after - before).Seconds() / time.Since(begun).Seconds()
}

func kernel() string {
	data, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return "Linux " + strings.TrimSpace(string(data))
}
