package gateway

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"golang.org/x/crypto/ssh"
)

const (
	quiet       = 300 * time.Millisecond // a wait shorter than this is not worth a word
	beat        = time.Second            // how often the line of progress is written anew
	mostWaiting = 256                    // requests of one channel that wait for a machine
	mostTyped   = 64 << 10               // bytes that are read ahead while there is no machine
	eraseLine   = "\r\x1b[K"
)

// answeredAtOnce are requests that nearly always succeed; clients may wait for their answers before
// they ask for a shell, so these do not wait for a machine.
var answeredAtOnce = []string{"pty-req", "env", "window-change", "x11-req", "auth-agent-req@openssh.com", "signal", endOfWrite}

// wait keeps a session's person informed until the machine is there. It returns what was answered
// already and what is still to be; ok is false when there will be no machine.
func (s *session) wait() (answered []request, queued []*ssh.Request, ok bool) {
	began := time.Now()
	t := time.NewTimer(quiet)
	defer t.Stop()
	shown := false
	show := func() {
		if s.pty.Load() && s.started && time.Since(began) >= quiet {
			step, _ := s.c.waitingFor()
			s.mu.Lock()
			io.WriteString(s.near, eraseLine+progressLine(step, time.Since(began), int(s.cols.Load())))
			s.mu.Unlock()
			shown = true
		}
	}
	hide := func() {
		if shown {
			s.mu.Lock()
			io.WriteString(s.near, eraseLine)
			s.mu.Unlock()
		}
	}
	reqs := s.reqs
	for {
		_, stepped := s.c.waitingFor()
		select {
		case req, open := <-reqs:
			switch {
			case !open:
				return answered, queued, false
			case len(queued) == 0 && slices.Contains(answeredAtOnce, req.Type):
				r, may := s.admit(req)
				req.Reply(may, nil)
				if may && len(answered) < mostWaiting {
					answered = append(answered, r)
				}
			case len(queued) < mostWaiting:
				if req.Type == "shell" || req.Type == "exec" || req.Type == "subsystem" {
					s.started = true
				}
				queued = append(queued, req)
			default:
				return answered, queued, false
			}
		case <-s.c.placed:
			if s.c.inner == nil {
				return s.noMachine(answered, queued, hide)
			}
			hide()
			return answered, queued, true
		case <-s.gate.cancel:
			hide()
			s.finish("you stopped waiting", 130)
			return answered, queued, false
		case <-stepped:
			show()
		case <-t.C:
			t.Reset(beat)
			show()
		case <-s.c.ctx.Done():
			return answered, queued, false
		}
	}
}

// noMachine ends a session that never gets one, once its client is ready to hear it.
func (s *session) noMachine(answered []request, queued []*ssh.Request, hide func()) ([]request, []*ssh.Request, bool) {
	t := time.NewTimer(lingering)
	defer t.Stop()
	for i := 0; ; i++ {
		var req *ssh.Request
		if i < len(queued) {
			req = queued[i]
		} else {
			select {
			case r, open := <-s.reqs:
				if !open {
					return answered, nil, false
				}
				req = r
			case <-t.C:
				return answered, nil, false
			case <-s.c.ctx.Done():
				return answered, nil, false
			}
		}
		s.admit(req)
		req.Reply(true, nil)
		if s.started {
			hide()
			s.finish(s.c.failed.Error(), failedStatus)
			if i+1 < len(queued) {
				return answered, queued[i+1:], false
			}
			return answered, nil, false
		}
	}
}

// progressLine says in one line what somebody waits for: what changes comes first, because a narrow
// terminal cuts the end.
func progressLine(step api.SessionStep, waited time.Duration, columns int) string {
	var facts []string
	if step.Position > 0 {
		facts = append(facts, fmt.Sprintf("place %d in the queue", step.Position))
	}
	if left := time.Duration(step.Estimate); left > 0 {
		facts = append(facts, "about "+seconds(left)+" to go")
	}
	facts = append(facts, "waited "+seconds(waited))
	line := []rune(strings.Join(facts, ", ") + ": " + printable(sentence(step.Reason.Or(dspool.Reason{Code: dspool.WhyLooking}))))
	if columns == 0 {
		columns = 80 // unknown
	}
	if columns = min(max(columns, 20), 200); len(line) >= columns {
		line = append(line[:columns-2], '…')
	}
	return string(line)
}

func seconds(d time.Duration) string {
	return dspool.Duration(max(d.Round(time.Second), time.Second)).String()
}

// gate stands before the machine's side of a session: what is typed waits there.
type gate struct {
	mu        sync.Mutex
	far       ssh.Channel
	typed     []byte
	given     bool
	opened    chan struct{} // closed when there is a machine, or never will be
	cancel    chan struct{} // closed when somebody types Ctrl-C while they wait
	cancelled bool
	byHand    func() bool // whether a person types
}

// Write keeps what comes while there is no machine; a lot of it has to wait at the sender's.
func (g *gate) Write(p []byte) (int, error) {
	g.mu.Lock()
	if !g.given {
		if !g.cancelled && g.byHand() && bytes.IndexByte(p, 3) >= 0 {
			g.cancelled = true
			close(g.cancel)
		}
		if len(g.typed)+len(p) <= mostTyped {
			g.typed = append(g.typed, p...)
			g.mu.Unlock()
			return len(p), nil
		}
		g.mu.Unlock()
		<-g.opened
		g.mu.Lock()
	}
	far := g.far
	g.mu.Unlock()
	if far == nil {
		return 0, io.EOF
	}
	return far.Write(p)
}

// CloseWrite passes the end of what the person sends.
func (g *gate) CloseWrite() {
	<-g.opened
	g.mu.Lock()
	far := g.far
	g.mu.Unlock()
	if far != nil {
		far.CloseWrite()
	}
}

// give opens the gate; nil says that there will be no machine. Only the first call counts. It does
// not wait: a machine takes nothing before its command has been started.
func (g *gate) give(far ssh.Channel) {
	g.mu.Lock()
	if g.given {
		g.mu.Unlock()
		return
	}
	typed := g.typed
	g.given, g.far, g.typed = true, far, nil
	close(g.opened)
	if far == nil || len(typed) == 0 {
		g.mu.Unlock()
		return
	}
	go func() { // what comes next waits for the mutex
		defer g.mu.Unlock()
		far.Write(typed)
	}()
}

// sentence writes a reason for whoever is connected: the server has left out what they may not read.
func sentence(r dspool.Reason) string { return r.For(dspool.Viewer{Admin: true}).Text }
