package e2e_test

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// commands of scripts. CMD is a program and its arguments; `as USER CMD` runs it as an ordinary
// account of the host that has a token of the user and talks over TLS.
//
//	server start|stop|kill [NAME]    NAME is "main" unless given; its configuration NAME.yaml, else team.yaml
//	server kept [NAME]               starts it without a configuration
//	server move NAME NEWNAME         moves the state of one that does not run: it is called so from now on
//	dspool ARG...                    as the host's root over the socket; ! wants it to fail
//	as USER CMD...
//	code N CMD...                    wants that exit code
//	eventually DURATION REGEXP CMD...  repeats CMD until it succeeds and its stdout matches
//	within DURATION CMD...           wants CMD to succeed in that time; ! to fail in it
//	parses json|csv FILE             wants all of FILE to be that, and not empty
//	terminal N PLAY CMD...           runs CMD on a terminal (terminal_test.go)
//	listen NAME                      opens port $NAME on all addresses of the host; `reached NAME` wants a connection
//	mount NAME SIZE                  makes a file system of that size, such as 51M, in a directory NAME
//	chaos DURATION                   kills and starts server main and kills agents at random
//	lab USER...                      starts server main with a door for SSH (ssh_test.go)
//	gateway status|kill|upgrade      looks at the process that keeps the doors (ssh_test.go)
//	machines [POOL]                  prints the names of machines
//	halfopen N                       opens N connections to the door that never get on (ssh_attack_test.go)
//	knock NAME KEYFILE               logs in with a name that ssh would not send; ! wants it refused
//	say TEXT                         sends bytes to the door and prints its answer
//	resident MIB                     wants the gateway to hold at most that much memory
//	kill9 init|agent FILE            kills that part of the machine of server main that FILE names
//	mute init|agent FILE             stops it, so that it lives and says nothing
var commands = map[string]func(*testscript.TestScript, bool, []string){
	"server": cmdServer,
	"dspool": func(ts *testscript.TestScript, neg bool, args []string) {
		run(ts, neg, append([]string{"dspool"}, args...))
	},
	"as": func(ts *testscript.TestScript, neg bool, args []string) {
		run(ts, neg, append([]string{"as"}, args...))
	},
	"code":       cmdCode,
	"eventually": cmdEventually,
	"within":     cmdWithin,
	"parses":     cmdParses,
	"terminal":   cmdTerminal,
	"listen":     cmdListen,
	"reached":    cmdReached,
	"kill9":      cmdKill9,
	"mute":       cmdMute,
	"mount":      cmdMount,
	"chaos":      cmdChaos,
	"lab":        cmdLab,
	"gateway":    cmdGateway,
	"machines":   cmdMachines,
	"halfopen":   cmdHalfOpen,
	"knock":      cmdKnock,
	"say":        cmdSay,
	"resident":   cmdResident,
}

// set makes a variable for the script and for what it runs.
func (w *world) set(ts *testscript.TestScript, key, value string) {
	w.variables = append(w.variables, key)
	ts.Setenv(key, value)
}

func usage(ts *testscript.TestScript, ok bool, text string) {
	if !ok {
		ts.Fatalf("usage: %s", text)
	}
}

func cmdServer(ts *testscript.TestScript, neg bool, args []string) {
	if !neg && len(args) == 3 && args[0] == "move" {
		ts.Check(worldOf(ts).move(args[1], args[2]))
		return
	}
	usage(ts, !neg && (len(args) == 1 || len(args) == 2), "server start|kept|stop|kill [NAME]")
	w, name := worldOf(ts), "main"
	if len(args) == 2 {
		name = args[1]
	}
	s := w.server(name)
	switch args[0] {
	case "start", "kept":
		ts.Check(w.start(s, args[0] == "kept"))
		prefix := ""
		if name != "main" {
			prefix = strings.ToUpper(name) + "_"
		}
		w.set(ts, prefix+"INSTALLATION", s.installation)
		w.set(ts, prefix+"GATEWAY", s.gateway())
		w.set(ts, prefix+"URL", s.url)
	case "stop":
		ts.Check(s.end(syscall.SIGTERM))
		if code := s.cmd.ProcessState.ExitCode(); code != 0 {
			ts.Fatalf("server %s ended with %d after SIGTERM", name, code)
		}
	case "kill":
		ts.Check(s.end(syscall.SIGKILL))
	default:
		usage(ts, false, "server start|kept|stop|kill [NAME]")
	}
}

// outsider is the account of the host that `as` uses: no rights, no home.
const outsider = 65534

// prepare makes the command that a script's words name.
func prepare(ts *testscript.TestScript, args []string) *exec.Cmd {
	usage(ts, len(args) > 0, "CMD [ARG...]")
	w := worldOf(ts)
	var env []string
	var attr *syscall.SysProcAttr
	if args[0] == "as" {
		usage(ts, len(args) > 2, "as USER CMD [ARG...]")
		s := w.server("main")
		token, err := w.token(s, args[1])
		ts.Check(err)
		ca := filepath.Join(w.work, "ca.pem")
		if _, err := os.Stat(ca); err != nil {
			pem, err := w.dspool(s, "ca").Output()
			ts.Check(err)
			ts.Check(os.WriteFile(ca, pem, 0o644))
		}
		env = []string{"DSPOOL_URL=" + s.url, "DSPOOL_TOKEN=" + token, "DSPOOL_CA=" + ca, "DSPOOL_STATE_DIR=/nonexistent"}
		attr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: outsider, Gid: outsider}}
		args = args[2:]
	}
	program := args[0]
	if program == "dspool" {
		program = filepath.Join(w.bin, "dspool")
	} else if tool := filepath.Join(w.work, "tools", program); isFile(tool) {
		program = tool
	}
	cmd := exec.Command(program, args[1:]...)
	cmd.SysProcAttr = attr
	cmd.Dir = ts.MkAbs(".")
	for _, k := range append(w.variables, "PATH", "HOME", "WORK", "DSPOOL_STATE_DIR", "DSPOOL_URL", "DSPOOL_TOKEN", "DSPOOL_CA", "SHARE", "HOMES") {
		if v := ts.Getenv(k); v != "" {
			cmd.Env = append(cmd.Env, k+"="+v)
		}
	}
	cmd.Env = append(cmd.Env, env...)
	return cmd
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// capture runs a command, shows what it printed, and returns its exit code.
func capture(ts *testscript.TestScript, cmd *exec.Cmd) int {
	cmd.Stdout, cmd.Stderr = ts.Stdout(), ts.Stderr()
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		ts.Fatalf("%v", err)
	}
	return cmd.ProcessState.ExitCode()
}

func run(ts *testscript.TestScript, neg bool, args []string) {
	if code := capture(ts, prepare(ts, args)); (code != 0) != neg {
		ts.Fatalf("exit code %d", code)
	}
}

func cmdCode(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) > 1, "code N CMD [ARG...]")
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	if code := capture(ts, prepare(ts, args[1:])); code != want {
		ts.Fatalf("exit code %d, not %d", code, want)
	}
}

const pollEvery = 100 * time.Millisecond

func cmdEventually(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) > 2, "eventually DURATION REGEXP CMD [ARG...]")
	most, err := time.ParseDuration(args[0])
	ts.Check(err)
	want, err := regexp.Compile("(?m)" + args[1])
	ts.Check(err)
	var stdout, stderr bytes.Buffer
	for deadline := time.Now().Add(most); ; time.Sleep(pollEvery) {
		stdout.Reset()
		stderr.Reset()
		cmd := prepare(ts, args[2:])
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		if err := cmd.Run(); err == nil && want.Match(stdout.Bytes()) {
			ts.Stdout().Write(stdout.Bytes())
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("after %s the output of %v still does not match %q:\n%s%s", most, args[2:], args[1], &stdout, &stderr)
		}
	}
}

func cmdWithin(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, len(args) > 1, "within DURATION CMD [ARG...]")
	most, err := time.ParseDuration(args[0])
	ts.Check(err)
	cmd, began := prepare(ts, args[1:]), time.Now()
	timer := time.AfterFunc(most, func() {
		if p := cmd.Process; p != nil {
			_ = p.Kill()
		}
	})
	code := capture(ts, cmd)
	timer.Stop()
	if took := time.Since(began); took > most || (code != 0) != neg {
		ts.Fatalf("exit code %d after %s of at most %s", code, took, most)
	}
}

func cmdParses(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 2, "parses json|csv FILE")
	text := ts.ReadFile(args[1])
	if !strings.HasSuffix(text, "\n") || strings.HasSuffix(text, "\n\n") {
		ts.Fatalf("it does not end with one newline: %q", text[max(0, len(text)-80):])
	}
	switch args[0] {
	case "json":
		var v any
		ts.Check(json.Unmarshal([]byte(text), &v))
	case "csv":
		rows, err := csv.NewReader(strings.NewReader(text)).ReadAll() // also: all rows have as many fields as the first
		ts.Check(err)
		if len(rows) < 2 {
			ts.Fatalf("there is no row below the head: %q", text)
		}
	default:
		usage(ts, false, "parses json|csv FILE")
	}
}

// cmdKill9 kills a part of a machine from the host, as a crash or the kernel's memory killer would.
func cmdKill9(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 2, "kill9 init|agent FILE")
	signalMachine(ts, args, syscall.SIGKILL)
}

// cmdMute stops a part of a machine, which lives and says nothing.
func cmdMute(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 2, "mute init|agent FILE")
	signalMachine(ts, args, syscall.SIGSTOP)
}

func signalMachine(ts *testscript.TestScript, args []string, signal syscall.Signal) {
	s := worldOf(ts).server("main")
	machine := strings.TrimSpace(ts.ReadFile(args[1]))
	group := fmt.Sprintf("/dspool-%s/%s", s.installation, machine)
	for _, pid := range processes() {
		cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		cgroup, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		if words := bytes.Split(cmdline, []byte{0}); len(words) > 1 && string(words[1]) == args[0] && bytes.Contains(cgroup, []byte(group)) {
			ts.Check(syscall.Kill(pid, signal))
			return
		}
	}
	ts.Fatalf("machine %s has no process %s", machine, args[0])
}
