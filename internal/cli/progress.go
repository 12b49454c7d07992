package cli

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	progressAfter = time.Second // what is over sooner shows nothing
	progressEvery = 100 * time.Millisecond
)

// progress is one line on a terminal's stderr that says what is being waited for. On
// anything else it is silent.
type progress struct {
	a     *app
	began time.Time
	mu    sync.Mutex
	text  string
	shown bool
	stop  chan struct{}
	done  sync.WaitGroup
}

// progress begins a line; Stop ends and removes it.
func (a *app) progress() *progress {
	p := &progress{a: a, began: time.Now(), stop: make(chan struct{})}
	if a.StderrTTY {
		p.done.Go(p.spin)
	}
	return p
}

// Set changes what the line says.
func (p *progress) Set(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.text = text
}

// Stop removes the line. It may be called again.
func (p *progress) Stop() {
	p.mu.Lock()
	select {
	case <-p.stop:
		p.mu.Unlock()
		return
	default:
		close(p.stop)
	}
	p.mu.Unlock()
	p.done.Wait()
	if p.shown {
		fmt.Fprint(p.a.Stderr, "\r\x1b[K")
	}
}

func (p *progress) spin() {
	frames := []rune("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏")
	t := time.NewTicker(progressEvery)
	defer t.Stop()
	for i := 0; ; i++ {
		select {
		case <-p.stop:
			return
		case <-t.C:
		}
		elapsed := time.Since(p.began)
		p.mu.Lock()
		text := clean(p.text)
		p.mu.Unlock()
		if elapsed < progressAfter || text == "" {
			continue
		}
		width := 80
		if p.a.Width != nil {
			if w := p.a.Width(); w > 20 {
				width = w
			}
		}
		p.shown = true
		fmt.Fprintf(p.a.Stderr, "\r\x1b[K%c %s", frames[i%len(frames)], cut(fmt.Sprintf("%s%s (%s)", bar(text), text, short(elapsed)), width-3))
	}
}

var fraction = regexp.MustCompile(`\b(\d{1,6})(?:/| of )(\d{1,6})\b|\b(\d{1,3})%`)

// bar draws how far a text such as "step 3 of 9" or "42%" says that something came.
func bar(text string) string {
	m := fraction.FindStringSubmatch(text)
	if m == nil {
		return ""
	}
	part, whole := m[1], m[2]
	if m[3] != "" {
		part, whole = m[3], "100"
	}
	n, _ := strconv.Atoi(part)
	of, _ := strconv.Atoi(whole)
	if of == 0 || n > of {
		return ""
	}
	const width = 20
	full := n * width / of
	return strings.Repeat("█", full) + strings.Repeat("░", width-full) + " "
}
