package image

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Progress is where a build stands.
type Progress struct {
	Image       string  // whose build it is: a parent's comes before its child's
	Step, Steps int     // from 1
	What        string  // for people, such as "download 12 of 69 packages"
	Fraction    float64 // of this step, 0 to 1; 0 where it cannot be known
}

// String is one line for people: "UbuntuDSVM 3/7: fetch 12 of 69 packages (17 %)".
func (p Progress) String() string {
	s := fmt.Sprintf("%s %d/%d: %s", p.Image, p.Step, p.Steps, p.What)
	if p.Fraction > 0 {
		s += fmt.Sprintf(" (%d %%)", int(p.Fraction*100))
	}
	return s
}

// aptWatch reads the output of apt, dpkg and mmdebstrap line by line and reports
// how far they are.
type aptWatch struct {
	report   func(phase aptPhase, what string, fraction float64)
	phase    aptPhase
	packages int // that this phase fetches and installs
	fetched  int
	moved    int // unpacked plus set up
}

type aptPhase int

const (
	phaseLists aptPhase = iota // lists of packages
	phaseBase                  // fetch and install the essential packages
	phaseFetch                 // fetch the recipe's packages
	phaseSetUp                 // install them
)

var newlyInstalled = regexp.MustCompile(`^\d+ upgraded, (\d+) newly installed`)

func (w *aptWatch) line(line string) {
	switch {
	case strings.HasPrefix(line, "I: running apt-get update"):
		w.enter(phaseLists, "fetch the lists of packages")
	case strings.HasPrefix(line, "I: downloading packages"):
		w.enter(phaseBase, "choose the base packages")
	case strings.HasPrefix(line, "I: installing remaining packages"):
		w.enter(phaseFetch, "choose the packages")
	case strings.HasPrefix(line, "I: cleaning package lists"):
		w.report(w.phase, "clean up", 1)
	case strings.HasPrefix(line, "Get:") && w.packages > 0:
		if w.fetched < w.packages {
			w.fetched++
		}
		share := float64(w.fetched) / float64(w.packages)
		if w.phase == phaseBase {
			share /= 3
		}
		w.report(w.phase, fmt.Sprintf("fetch %d of %d packages", w.fetched, w.packages), share)
	case strings.HasPrefix(line, "Unpacking ") || strings.HasPrefix(line, "Setting up "):
		w.install(line)
	default:
		if m := newlyInstalled.FindStringSubmatch(line); m != nil {
			w.packages, _ = strconv.Atoi(m[1])
			w.fetched, w.moved = 0, 0
		}
	}
}

func (w *aptWatch) enter(p aptPhase, what string) {
	w.phase, w.packages, w.fetched, w.moved = p, 0, 0, 0
	w.report(p, what, 0)
}

func (w *aptWatch) install(line string) {
	if w.phase == phaseFetch {
		w.phase = phaseSetUp
	}
	if w.moved < 2*w.packages {
		w.moved++
	}
	share := 0.0
	if w.packages > 0 {
		share = float64(w.moved) / float64(2*w.packages)
	}
	if w.phase == phaseBase {
		share = 1.0/3 + share*2/3
	}
	name, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(line, "Unpacking "), "Setting up "), " ")
	name, _, _ = strings.Cut(name, ":")
	verb := "unpack"
	if strings.HasPrefix(line, "Setting") {
		verb = "set up"
	}
	w.report(w.phase, fmt.Sprintf("%s %s", verb, name), share)
}
