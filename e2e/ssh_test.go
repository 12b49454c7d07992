package e2e_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	_ "embed"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/crypto/ssh"

	"github.com/dspool/dspool/internal/gateway"
)

// labFile is the configuration of a lab whose script has none of its own. In it $DOOR is the
// address of the door, $USERS the list of users, $KEY_NAME a public key.
//
//go:embed testdata/lab.yaml
var labFile string

// doorTimeout is how long a gateway may take to open its door or to give it up.
const doorTimeout = 15 * time.Second

// clientTimeout is how long one OpenSSH client may run: a script must not hang with it.
const clientTimeout = 40 * time.Second

// cmdLab makes keys for these users, starts server main with a door for them, and sets the
// real OpenSSH clients up: `ssh USER` comes through the door as the user, and so do scp, sftp and
// rsync. The door has a loopback address of its own, $DOOR, port 2222. `api METHOD PATH [JSON]`
// asks the server, as root or, after `as USER`, as the user.
func cmdLab(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) > 0, "lab USER...")
	w := worldOf(ts)
	var where [2]byte
	_, _ = rand.Read(where[:])
	door := fmt.Sprintf("127.%d.%d.1", 64+where[0]%128, where[1])
	w.set(ts, "DOOR", door)
	names := map[string]string{"DOOR": door, "SOURCE": ts.Getenv("SOURCE")}
	var list strings.Builder
	for _, user := range args {
		line, err := writeKey(filepath.Join(w.work, "id_"+user), user)
		ts.Check(err)
		names["KEY_"+user] = line
		fmt.Fprintf(&list, "\n    - {name: %s, admin: %v, keys: [%q]}", user, user == "grace", line)
	}
	names["USERS"] = list.String()
	text := labFile
	if own, err := os.ReadFile(filepath.Join(w.work, "lab.yaml")); err == nil {
		text = string(own)
	}
	text = os.Expand(text, func(name string) string { return names[name] })
	ts.Check(os.WriteFile(filepath.Join(w.work, "team.yaml"), []byte(text), 0o644))
	ts.Check(w.writeClients(door, args))
	ts.Setenv("PATH", filepath.Join(w.work, "tools")+":"+ts.Getenv("PATH"))
	cmdServer(ts, false, []string{"start"})
	s := w.server("main")
	_, err := s.awaitGateway(func(g gateway.Status) bool { return len(g.Doors) > 0 && g.Doors[0].Address != "" })
	ts.Check(err)
	known, err := exec.Command("curl", "-sS", "--fail-with-body", "--unix-socket", filepath.Join(s.state, "dspool.sock"), "http://server/api/v1/ssh/known_hosts").Output()
	ts.Check(err)
	ts.Check(os.WriteFile(filepath.Join(w.work, "known_hosts"), known, 0o644))
}

// writeKey makes a key pair, of a kind that depends on the user.
func writeKey(file, user string) (line string, err error) {
	var private crypto.Signer
	switch user {
	case "bob":
		private, err = rsa.GenerateKey(rand.Reader, 2048)
	case "grace":
		private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	default:
		_, private, err = ed25519.GenerateKey(rand.Reader)
	}
	if err != nil {
		return "", err
	}
	block, err := ssh.MarshalPrivateKey(private, user)
	if err != nil {
		return "", err
	}
	public, err := ssh.NewPublicKey(private.Public())
	if err != nil {
		return "", err
	}
	line = strings.TrimSpace(string(ssh.MarshalAuthorizedKey(public))) + " " + user
	if err := os.WriteFile(file+".pub", []byte(line+"\n"), 0o644); err != nil {
		return "", err
	}
	return line, os.WriteFile(file, pem.EncodeToMemory(block), 0o600)
}

// writeClients sets OpenSSH's clients up. They run as the host's root, who keeps everybody's keys here.
func (w *world) writeClients(door string, users []string) error {
	tools := filepath.Join(w.work, "tools")
	if err := os.Mkdir(tools, 0o755); err != nil {
		return err
	}
	config := filepath.Join(w.work, "ssh_config")
	var b strings.Builder
	for _, u := range users {
		fmt.Fprintf(&b, "Host %s\n  User %s\n  IdentityFile %s\n", u, u, filepath.Join(w.work, "id_"+u))
	}
	fmt.Fprintf(&b, `Host %s lab
  HostName %s
  Port 2222
Host *
  UserKnownHostsFile %s
  GlobalKnownHostsFile none
  StrictHostKeyChecking yes
  IdentitiesOnly yes
  IdentityAgent none
  BatchMode yes
  ConnectTimeout 20
  LogLevel ERROR
`, strings.Join(users, " "), door, filepath.Join(w.work, "known_hosts"))
	files := map[string]string{config: b.String()}
	for _, tool := range []string{"ssh", "scp", "sftp"} {
		path, err := exec.LookPath(tool)
		if err != nil {
			return err
		}
		files[filepath.Join(tools, tool)] = fmt.Sprintf("#!/bin/sh\nexec timeout --foreground %d %s -F %s \"$@\"\n", int(clientTimeout.Seconds()), path, config)
	}
	files[filepath.Join(tools, "api")] = fmt.Sprintf(`#!/bin/sh
method=$1 path=$2
shift 2
[ $# = 0 ] || set -- -H "Content-Type: application/json" -d "$1"
if [ "$DSPOOL_TOKEN" ]; then
	set -- --cacert "$DSPOOL_CA" -H "Authorization: Bearer $DSPOOL_TOKEN" "$@" "$DSPOOL_URL/api/v1$path"
else
	set -- --unix-socket %s "$@" "http://server/api/v1$path"
fi
exec curl -sS --fail-with-body -X "$method" "$@"
`, filepath.Join(w.work, "main", "dspool.sock"))
	for name, text := range files {
		if err := os.WriteFile(name, []byte(text), 0o755); err != nil {
			return err
		}
	}
	return nil
}

// awaitGateway waits until the server's gateway is as wanted.
func (s *server) awaitGateway(ok func(gateway.Status) bool) (g gateway.Status, err error) {
	for deadline := time.Now().Add(doorTimeout); ; time.Sleep(pollEvery / 2) {
		g, err = gateway.ReadStatus(context.Background(), s.state)
		if err == nil && ok(g) {
			return g, nil
		}
		if time.Now().After(deadline) {
			return g, fmt.Errorf("after %s the gateway is still not as wanted: %+v (%v)", doorTimeout, g, err)
		}
	}
}

// cmdGateway looks at the gateway of server main.
//
//	gateway status    prints it as JSON
//	gateway kill      kills it with SIGKILL and waits for the next one, if a server runs
//	gateway upgrade   stops the server, puts a newer build of the program in its place and starts it; waits
//	                  for the newer gateway
func cmdGateway(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 1, "gateway status|kill|upgrade")
	w := worldOf(ts)
	s := w.server("main")
	now, err := gateway.ReadStatus(context.Background(), s.state)
	ts.Check(err)
	switch args[0] {
	case "status":
		text, err := json.Marshal(now)
		ts.Check(err)
		fmt.Fprintf(ts.Stdout(), "%s\n", text)
		return
	case "kill":
		ts.Check(syscall.Kill(now.PID, syscall.SIGKILL))
		if !s.running() {
			return
		}
	case "upgrade":
		ts.Check(s.end(syscall.SIGTERM))
		ts.Check(w.upgrade())
		ts.Check(w.start(s, false))
	default:
		usage(ts, false, "gateway status|kill|upgrade")
	}
	next, err := s.awaitGateway(func(g gateway.Status) bool { return g.PID != now.PID && len(g.Doors) > 0 && g.Doors[0].Address != "" })
	ts.Check(err)
	if args[0] == "upgrade" && next.Version == now.Version {
		ts.Fatalf("the gateway is still of build %s", now.Version)
	}
}

// upgrade makes the script's servers run another build from now on. Programs know a build by its
// file's time, so a copy is one.
func (w *world) upgrade() error {
	newer := filepath.Join(w.work, "newer")
	if err := os.Mkdir(newer, 0o755); err != nil {
		return err
	}
	for _, name := range []string{"dspool", "runc"} {
		program, err := os.ReadFile(filepath.Join(w.bin, name))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(newer, name), program, 0o755); err != nil {
			return err
		}
	}
	w.bin = newer
	return nil
}

// cmdMachines prints the names of the machines that live, of one pool or of all.
func cmdMachines(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) <= 1, "machines [POOL]")
	w := worldOf(ts)
	out, err := w.dspool(w.server("main"), "machine", "list", "-o", "json").Output()
	ts.Check(err)
	var list []struct{ Name, Pool string }
	ts.Check(json.Unmarshal(bytes.TrimSpace(out), &list))
	slices.SortFunc(list, func(a, b struct{ Name, Pool string }) int { return strings.Compare(a.Name, b.Name) })
	for _, m := range list {
		if len(args) == 0 || m.Pool == args[0] {
			fmt.Fprintln(ts.Stdout(), m.Name)
		}
	}
}
