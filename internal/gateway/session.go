package gateway

import (
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"
)

// failedStatus is what a command seems to exit with when the gateway, not the command, failed.
const failedStatus = 254

// session is a channel on which a shell, a command or a subsystem runs.
type session struct {
	c    *conn
	near ssh.Channel
	reqs <-chan *ssh.Request

	mu       sync.Mutex // held while something is written to the person
	recorder *recorder
	finished bool

	pty        atomic.Bool
	term       string
	cols, rows atomic.Uint32
	started    bool
	passing    sync.Mutex // held until the answer to a request has been passed back
	exitMu     sync.Mutex
	exited     chan struct{} // closed when an exit status was seen or made
	gate       gate
	begun      sync.Once
	running    chan struct{} // closed when the machine was asked to run something, or never will be
}

// request is one that was answered while there was no machine yet.
type request struct {
	kind    string
	payload []byte
}

// serveSession carries a session channel. Without a machine yet it is accepted all the same, so that
// its person can be told what they wait for.
func (c *conn) serveSession(ch ssh.NewChannel, opened func()) {
	s := &session{c: c, exited: make(chan struct{}), running: make(chan struct{})}
	s.gate = gate{opened: make(chan struct{}), cancel: make(chan struct{}), byHand: s.isTerminal}
	var far ssh.Channel
	var farReqs <-chan *ssh.Request
	var err error
	direct := c.isPlaced() && c.inner != nil
	if direct {
		far, farReqs, err = c.inner.OpenChannel("session", ch.ExtraData())
		opened()
		if err != nil {
			reject(ch, err)
			return
		}
	}
	if s.near, s.reqs, err = ch.Accept(); err != nil {
		if far != nil {
			far.Close()
			ssh.DiscardRequests(farReqs)
		}
		return
	}
	c.register(s, true)
	defer c.register(s, false)

	var there sync.WaitGroup
	there.Go(s.input)
	// Whatever is left of the person's requests is taken until they close the channel.
	defer there.Wait()
	defer s.begin()
	defer s.discardRequests()
	defer s.gate.give(nil)

	var answered []request
	var queued []*ssh.Request
	if !direct {
		var ok bool
		if answered, queued, ok = s.wait(); !ok {
			s.refuse(queued)
			return
		}
		far, farReqs, err = c.inner.OpenChannel("session", ch.ExtraData())
		opened()
		if err != nil {
			s.refuse(queued)
			s.finish("the machine opens no session: "+err.Error(), failedStatus)
			return
		}
	}
	s.run(far, farReqs, answered, queued, &there)
}

// run carries a session whose machine is there.
func (s *session) run(far ssh.Channel, farReqs <-chan *ssh.Request, answered []request, queued []*ssh.Request, there *sync.WaitGroup) {
	for _, r := range answered {
		far.SendRequest(r.kind, false, r.payload)
	}
	s.gate.give(far)
	var back, both sync.WaitGroup
	back.Go(func() { carry(&personWriter{s: s, w: s.near, record: true}, far, s.c.wentOut) })
	back.Go(func() { carry(&personWriter{s: s, w: s.near.Stderr()}, far.Stderr(), s.c.wentOut) })
	allOut, farGone := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(allOut)
		back.Wait()
		s.machineClosed(farGone)
		s.mu.Lock() // finish may do the same now
		defer s.mu.Unlock()
		s.near.CloseWrite()
	}()
	both.Go(func() {
		for req := range farReqs {
			if req.Type == "exit-status" || req.Type == "exit-signal" {
				if wasKilled(req) {
					if why := s.c.killed(); !why.IsZero() {
						s.say(sentence(why))
					}
				}
				s.exit()
			}
			if req.Type == endOfWrite && !isOpenSSH(s.c.outer.ClientVersion()) {
				req.Reply(false, nil) // as sshd: others do not expect it
				continue
			}
			ok, err := s.near.SendRequest(req.Type, req.WantReply, req.Payload)
			req.Reply(ok && err == nil, nil)
		}
		close(farGone)
		<-allOut
		s.c.settle()     // a client that learns host keys does not wait for their proof once its command has ended
		s.passing.Lock() // clients take an end before the answer for a refusal
		defer s.passing.Unlock()
		s.near.Close()
	})
	for _, req := range queued {
		s.pass(far, req)
	}
	for req := range s.reqs {
		s.pass(far, req)
	}
	s.begin()
	there.Wait()
	far.Close()
	both.Wait()
	s.endRecording()
}

// exitWait is how long after the last output an exit status is waited for; sshd sends it at once.
const exitWait = 200 * time.Millisecond

// machineClosed tells the person when the machine, and not the command, has ended the output.
func (s *session) machineClosed(farGone <-chan struct{}) {
	t := time.NewTimer(exitWait)
	defer t.Stop()
	select {
	case <-s.exited:
		return
	case <-farGone:
	case <-t.C:
	}
	select {
	case <-s.exited:
		return
	case <-s.c.ctx.Done():
		return
	case <-s.c.inner.done: // known a moment after its channels are closed
		s.finish(s.c.lostText(), failedStatus)
	case <-t.C:
	}
}

// exit notes that the person has an exit status; it returns whether they had none.
func (s *session) exit() bool {
	s.exitMu.Lock()
	defer s.exitMu.Unlock()
	select {
	case <-s.exited:
		return false
	default:
		close(s.exited)
		return true
	}
}

// pass hands a request on, if the login permits it.
func (s *session) pass(far ssh.Channel, req *ssh.Request) {
	r, ok := s.admit(req)
	if !ok {
		req.Reply(false, nil)
		return
	}
	if s.pty.Load() && s.c.record && (r.kind == "shell" || r.kind == "exec") {
		s.beginRecording()
	}
	s.passing.Lock()
	done, err := far.SendRequest(r.kind, req.WantReply, r.payload)
	req.Reply(done && err == nil, nil)
	s.passing.Unlock()
	switch r.kind {
	case "window-change":
		s.resizeRecording()
	case "shell", "exec", "subsystem":
		s.begin()
	}
}

// begin lets the end of what the person sends pass to the machine.
func (s *session) begin() {
	s.begun.Do(func() { close(s.running) })
}

// admit says whether the login permits a request, and what becomes of it.
func (s *session) admit(req *ssh.Request) (r request, ok bool) {
	r = request{req.Type, req.Payload}
	switch req.Type {
	case "pty-req":
		if !s.c.permits("permit-pty") {
			return r, false
		}
		var p struct {
			Term       string
			Cols, Rows uint32
			Rest       []byte `ssh:"rest"`
		}
		if ssh.Unmarshal(req.Payload, &p) != nil {
			return r, false
		}
		s.term = p.Term
		s.cols.Store(p.Cols)
		s.rows.Store(p.Rows)
		s.pty.Store(true)
	case "window-change":
		var p struct {
			Cols, Rows uint32
			Rest       []byte `ssh:"rest"`
		}
		if ssh.Unmarshal(req.Payload, &p) == nil {
			s.cols.Store(p.Cols)
			s.rows.Store(p.Rows)
		}
	case "x11-req":
		return r, s.c.permits("permit-X11-forwarding")
	case "auth-agent-req@openssh.com":
		return r, s.c.permits("permit-agent-forwarding")
	case "shell", "exec", "subsystem":
		s.started = true
		return s.forced(r), true
	}
	return r, true
}

// forced puts the command that a certificate forces in the place of what was asked for.
func (s *session) forced(r request) request {
	if s.c.login.cert == nil {
		return r
	}
	force, ok := s.c.login.cert.CriticalOptions[optionForce]
	if !ok {
		return r
	}
	if force == "internal-sftp" {
		return request{"subsystem", ssh.Marshal(struct{ Name string }{"sftp"})}
	}
	var asked struct{ Command string }
	if r.kind != "shell" && ssh.Unmarshal(r.payload, &asked) == nil && asked.Command != "" && !strings.ContainsRune(asked.Command, 0) {
		force = "SSH_ORIGINAL_COMMAND=" + shellQuote(asked.Command) + "; export SSH_ORIGINAL_COMMAND; " + force
	}
	return request{"exec", ssh.Marshal(struct{ Command string }{force})}
}

func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// input hands on what the person sends, and keeps it until there is a machine. Its end goes only
// after the command: sshd takes an end that overtakes it for that of nothing, and the command would
// wait for one for ever. (No data overtakes it, because sshd's window is empty until then.)
func (s *session) input() {
	if carry(&s.gate, s.near, s.c.cameIn) {
		<-s.running
		s.gate.CloseWrite()
	}
}

func (s *session) refuse(queued []*ssh.Request) {
	for _, req := range queued {
		req.Reply(false, nil)
	}
}

func (s *session) discardRequests() {
	s.near.Close()
	ssh.DiscardRequests(s.reqs)
}

func (s *session) isTerminal() bool { return s.pty.Load() }

// say writes a text of the gateway's on the terminal, else on standard error.
func (s *session) say(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.write(text)
}

// write does it; s.mu is held.
func (s *session) write(text string) {
	if s.finished {
		return
	}
	text = printable(text)
	if s.pty.Load() {
		io.WriteString(s.near, "\r\n*** dspool: "+text+"\r\n")
		return
	}
	io.WriteString(s.near.Stderr(), "dspool: "+text+"\n")
}

// finish ends the session with a text and an exit status.
func (s *session) finish(text string, status uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.finished {
		return
	}
	s.write(text)
	s.finished = true
	if s.exit() {
		s.near.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{status}))
	}
	s.near.CloseWrite()
	s.near.Close()
}

// printable keeps a text from doing anything to a terminal but to appear.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n':
			return ' '
		case r < 0x20 || r >= 0x7f && r < 0xa0 || r >= 0x2028 && r <= 0x202e || r >= 0x2066 && r <= 0x2069:
			return -1
		}
		return r
	}, s)
}

// personWriter keeps the machine's output and the gateway's own words apart.
type personWriter struct {
	s      *session
	w      io.Writer
	record bool
}

func (p *personWriter) Write(b []byte) (int, error) {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	if p.s.finished {
		return 0, io.EOF
	}
	n, err := p.w.Write(b)
	if p.record && p.s.recorder != nil {
		p.s.recorder.output(b[:n])
	}
	return n, err
}

func (c *conn) register(s *session, there bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if there {
		c.sessions[s] = struct{}{}
	} else {
		delete(c.sessions, s)
	}
}
