package cli_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"crypto/rand"

	"golang.org/x/crypto/ssh"

	"github.com/dspool/dspool"
)

// in is a person with a saved login at an office, whose ssh is only written down.
func (o *office) in(t *testing.T, home string, ran *[]string) *program {
	t.Helper()
	p := o.at(t, home)
	p.env["DSPOOL_URL"], p.env["DSPOOL_TOKEN"], p.env["DSPOOL_CA"] = o.URL, "dspool_SECRET", filepath.Join(home, "ca.pem")
	if err := os.WriteFile(p.env["DSPOOL_CA"], o.ca, 0o600); err != nil {
		t.Fatal(err)
	}
	p.Exec = func(argv []string) error { *ran = argv; return nil }
	return p
}

// byName makes the office reachable as localhost, for which its doors have a certificate.
func (o *office) byName() { o.URL = strings.Replace(o.URL, "127.0.0.1", "localhost", 1) }

func TestSSHIsGivenAddressUserAndKeys(t *testing.T) {
	t.Parallel()
	for claim, tt := range map[string]struct {
		args []string
		want string
	}{
		"the default pool":                       {[]string{"ssh"}, "-p 2222 -l ada localhost"},
		"a pool with a door of its own":          {[]string{"ssh", "batch"}, "-p 2223 -l ada+batch localhost"},
		"a pool behind another's door":           {[]string{"ssh", "gpu"}, "-p 2222 -l ada+gpu localhost"},
		"a size of machine":                      {[]string{"ssh", "gpu", "--size", "large"}, "-p 2222 -l ada+gpu+large localhost"},
		"a size in the default pool":             {[]string{"ssh", "--size", "large"}, "-p 2222 -l ada++large localhost"},
		"ssh's own options and a command":        {[]string{"ssh", "lab", "--", "-L", "8888:localhost:8888", "sh", "-c", "exit 3"}, "-p 2222 -l ada+lab localhost -L 8888:localhost:8888 sh -c exit 3"},
		"only a command":                         {[]string{"ssh", "--", "nvidia-smi"}, "-p 2222 -l ada localhost nvidia-smi"},
		"another user, for who has the key":      {[]string{"ssh", "--user", "grace"}, "-p 2222 -l grace localhost"},
		"another name for which there is a cert": {[]string{"ssh", "--address", "pool.example.org"}, "-p 2222 -l ada pool.example.org"},
	} {
		t.Run(claim, func(t *testing.T) {
			t.Parallel()
			o, home := openOffice(t), t.TempDir()
			o.byName()
			var ran []string
			o.in(t, home, &ran).must(t, tt.args...)
			want := "ssh -o UserKnownHostsFile=\"" + home + "/.config/dspool/known_hosts\" -o StrictHostKeyChecking=yes " + tt.want
			if got := strings.Join(ran, " "); got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		})
	}
	t.Run("a door at one address is met there", func(t *testing.T) {
		t.Parallel()
		for listen, want := range map[string]string{"127.9.9.9:2222": "127.9.9.9", "[::1]:2222": "::1", "192.0.2.7:2222": "192.0.2.7", "0.0.0.0:2222": "localhost"} {
			o := openOffice(t)
			o.byName()
			o.doors[0].Listen = listen
			var ran []string
			o.in(t, t.TempDir(), &ran).must(t, "ssh")
			if ran[len(ran)-1] != want {
				t.Errorf("%s: %v", listen, ran)
			}
		}
	})
	t.Run("an address without a certificate is checked by a name that has one", func(t *testing.T) {
		t.Parallel()
		o, home := openOffice(t), t.TempDir()
		var ran []string
		o.in(t, home, &ran).must(t, "ssh", "lab")
		if !slices.Contains(ran, "HostKeyAlias=pool.example.org") || !slices.Contains(ran, "127.0.0.1") {
			t.Error(ran)
		}
		if text, _ := os.ReadFile(home + "/.config/dspool/known_hosts"); string(text) != o.knownFor("pool.example.org") {
			t.Errorf("%s", text)
		}
	})
	t.Run("the key that login keeps in files", func(t *testing.T) {
		t.Parallel()
		o, home := openOffice(t), filepath.Join(t.TempDir(), "100%")
		if err := os.Mkdir(home, 0o700); err != nil {
			t.Fatal(err)
		}
		var ran []string
		p := o.in(t, home, &ran)
		p.typed("", "correct horse")
		p.must(t, "login", "--file", "--save")
		if err := os.WriteFile(home+"/.ssh/id_rsa", nil, 0o600); err != nil {
			t.Fatal(err)
		}
		named := func(name string) bool {
			return slices.Contains(ran, "IdentityFile=\""+strings.ReplaceAll(home, "%", "%%")+"/.ssh/"+name+"\"")
		}
		p.must(t, "ssh")
		if !named("dspool-ed25519") || !named("id_rsa") || named("id_ed25519") {
			t.Error(ran)
		}
		p.Now = func() time.Time { return o.expires }
		p.must(t, "ssh")
		if named("dspool-ed25519") || named("id_rsa") {
			t.Errorf("with an expired certificate: %v", ran)
		}
	})
	t.Run("--print shows a line for a shell", func(t *testing.T) {
		t.Parallel()
		o := openOffice(t)
		o.byName()
		var ran []string
		p := o.in(t, t.TempDir(), &ran)
		p.must(t, "ssh", "--print", "--", "echo 'x'")
		if ran != nil || !strings.HasSuffix(p.out.String(), ` -p 2222 -l ada localhost 'echo '\''x'\'''`+"\n") {
			t.Error(p.out.String(), ran)
		}
	})
}

func TestNothingStrangeReachesSSH(t *testing.T) {
	t.Parallel()
	for claim, tt := range map[string]struct {
		spoil func(*office, *program)
		args  string
		text  string
	}{
		"an option as a pool":                {nil, "ssh|-oProxyCommand=x", "has no flag"},
		"ssh's own option before --":         {nil, "ssh|-L|1:x:2", "dspool ssh has no flag -L\nhint: ssh's own options come after --"},
		"an option as a pool after a dash":   {nil, "ssh-config|--|-oProxyCommand=x", "pool name \"-oProxyCommand=x\" is not allowed"},
		"an option as a size":                {nil, "ssh|--size|-oProxyCommand=x", "size name \"-oProxyCommand=x\" is not allowed"},
		"a size with another hidden in it":   {nil, "ssh-config|lab|--size|a+b", "size name"},
		"two pools":                          {nil, "ssh|lab|uptime", "\"uptime\" and what follows it belong after --"},
		"a user with an option":              {nil, "ssh|--user|-oProxyCommand=x", "user name"},
		"a user with a pool hidden in it":    {nil, "ssh|--user|ada+root", "user name"},
		"an address with a blank":            {nil, "ssh|--address|a ProxyCommand x", "host name"},
		"an address with a line":             {nil, "ssh-config|--address|a\nProxyCommand x", "host name"},
		"an address that is an option":       {nil, "ssh|--address|-oProxyCommand=x", "host name"},
		"an alias with a line":               {nil, "ssh-config|--host|x\nProxyCommand y", "--host: \"x\\nProxyCommand y\" is not a name for a Host block"},
		"an alias for every host":            {nil, "ssh-config|--host|*", "is not a name for a Host block"},
		"an alias with two names":            {nil, "ssh-config|--host|a b", "is not a name for a Host block"},
		"a negated alias":                    {nil, "ssh-config|--host|!a", "is not a name for a Host block"},
		"a door at no port":                  {func(o *office, _ *program) { o.doors[0].Listen = ":22\nProxyCommand x" }, "ssh-config", "port \"22\\nProxyCommand x\""},
		"a door at no address":               {func(o *office, _ *program) { o.doors[0].Listen = "x" }, "ssh", "which is no address"},
		"a known_hosts line that is none":    {func(o *office, _ *program) { o.known = "[localhost]:2222 ssh-ed25519 AAAA\n" }, "ssh", "known_hosts lines cannot be read"},
		"no known_hosts lines":               {func(o *office, _ *program) { o.known = "" }, "ssh", "does not say yet by which key"},
		"lines for other ports only":         {func(o *office, _ *program) { o.known = o.knownFor("[localhost]:9") }, "ssh", "does not say yet by which key"},
		"a certified name that is an option": {func(o *office, _ *program) { o.known = o.knownFor("[-oProxyCommand=x]:2222") }, "ssh", "host name \"-oProxyCommand=x\""},
		"no door":                            {func(o *office, _ *program) { o.doors = nil }, "ssh", "has no door for SSH"},
		"a home with a quote":                {func(_ *office, p *program) { p.env["HOME"] = "/tmp/a\" b" }, "ssh", "holds characters that ssh's configuration cannot"},
		"a home with a variable":             {func(_ *office, p *program) { p.env["HOME"] = "/tmp/${X}" }, "ssh-config", "holds characters that ssh's configuration cannot"},
		"no home":                            {func(_ *office, p *program) { delete(p.env, "HOME") }, "ssh", "set HOME"},
	} {
		t.Run(claim, func(t *testing.T) {
			t.Parallel()
			o := openOffice(t)
			var ran []string
			p := o.in(t, t.TempDir(), &ran)
			if tt.spoil != nil {
				tt.spoil(o, p)
			}
			p.refused(t, tt.text, strings.Split(tt.args, "|")...)
			if ran != nil || p.out.Len() > 0 {
				t.Errorf("ssh ran with %q, stdout %q", ran, p.out.String())
			}
		})
	}
}

func TestSSHConfigIsWhatSSHReads(t *testing.T) {
	t.Parallel()
	o, home := openOffice(t), filepath.Join(t.TempDir(), "with 100% blanks")
	if err := os.Mkdir(home, 0o700); err != nil {
		t.Fatal(err)
	}
	o.byName()
	var ran []string
	p := o.in(t, home, &ran)
	p.must(t, "ssh-config", "lab", "--host", "mine")
	config := filepath.Join(home, "config")
	if err := os.WriteFile(config, p.out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("ssh", "-G", "-F", config, "mine").Output()
	if errors.Is(err, exec.ErrNotFound) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"hostname localhost", "port 2222", "user ada+lab", "stricthostkeychecking true", "userknownhostsfile " + home + "/.ssh/dspool_known_hosts"} {
		if !slices.Contains(strings.Split(string(out), "\n"), want) {
			t.Errorf("ssh -G does not say %q", want)
		}
	}
}

func TestInstallingTheHostBlockAgainChangesNothing(t *testing.T) {
	t.Parallel()
	o, home := openOffice(t), t.TempDir()
	o.byName()
	path := filepath.Join(home, ".ssh/config")
	install := func(args ...string) *program {
		var ran []string
		p := o.in(t, home, &ran)
		p.must(t, append([]string{"ssh-config", "--install"}, args...)...)
		return p
	}
	read := func(path string) string {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	install()
	first := read(path)
	if !strings.HasPrefix(first, "# dspool begin dspool\nHost dspool\n    HostName localhost\n    Port 2222\n    User ada\n") || !strings.HasSuffix(first, "# dspool end dspool\n") {
		t.Errorf("%s", first)
	}
	install()
	if read(path) != first {
		t.Errorf("changed to %s", read(path))
	}
	// In the middle of somebody's own, behind a link, and with other modes.
	own := "Host *\n  User me\n\n" + first + "Host other\n  Port 1" // without a last newline
	kept := filepath.Join(home, "dotfiles-config")
	if err := errors.Join(os.Remove(path), os.WriteFile(kept, []byte(own), 0o644), os.Symlink(kept, path)); err != nil {
		t.Fatal(err)
	}
	install("lab")
	if want := strings.Replace(own, "User ada\n", "User ada+lab\n", 1); read(kept) != want {
		t.Errorf("got %s\nwant %s", read(kept), want)
	}
	install("lab", "--size", "large")
	if want := strings.Replace(own, "User ada\n", "User ada+lab+large\n", 1); read(kept) != want {
		t.Errorf("got %s\nwant %s", read(kept), want)
	}
	install("lab")
	install("batch", "--host", "second")
	if text := read(kept); !strings.Contains(text, "  Port 1\n\n# dspool begin second\nHost second\n") || !strings.Contains(text, "User ada+lab\n") {
		t.Errorf("%s", text)
	}
	if info, err := os.Lstat(path); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Error("the link became a file")
	}
	if info, err := os.Stat(kept); err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("mode %v", info.Mode())
	}
	if keys := read(filepath.Join(home, ".ssh/dspool_known_hosts")); keys != o.knownFor("[localhost]:2222")+o.knownFor("[localhost]:2223") {
		t.Errorf("%s", keys)
	}
	for claim, text := range map[string]string{
		"has a Host mine of its own": "Host a mine\n", "without \"# dspool end mine\"": "# dspool begin mine\nHost mine\nHost x\n", "without \"# dspool begin mine\"": "# dspool end mine\n",
	} {
		if err := os.WriteFile(kept, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		var ran []string
		o.in(t, home, &ran).refused(t, claim, "ssh-config", "--install", "--host", "mine")
		if read(kept) != text {
			t.Errorf("%s: changed to %s", claim, read(kept))
		}
	}
}

// The whole way with the real programs: login into ssh-agent, a Host block, ssh with the certificate to a door
// that shows a host certificate.
func TestOpenSSHComesInWithWhatLoginAndSSHConfigGive(t *testing.T) {
	t.Parallel()
	client, err := exec.LookPath("ssh")
	if err != nil {
		t.Skip("ssh is not installed")
	}
	o, home := openOffice(t), t.TempDir()
	socket, _ := startAgent(t)
	door := openDoor(t, o)
	_, port, _ := net.SplitHostPort(door)
	o.doors = []dspool.Door{{Listen: ":" + port, Protocol: dspool.ProtocolSSH, Pool: "lab"}}
	o.known = o.knownFor("[localhost]:"+port) + o.knownFor("[pool.example.org]:"+port)
	config := filepath.Join(home, ".ssh/config")
	come := func(args ...string) (string, error) {
		cmd := exec.Command(client, append([]string{"-o", "BatchMode=yes"}, append(args, "whoami")...)...)
		cmd.Env = []string{"SSH_AUTH_SOCK=" + socket, "PATH=" + os.Getenv("PATH")}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	login := o.at(t, home)
	login.env["SSH_AUTH_SOCK"] = socket
	login.typed("", "correct horse")
	login.must(t, "login", "--url", o.URL, "--fingerprint", o.fingerprint, "--save")
	login = o.at(t, home)
	login.typed("", "correct horse")
	login.must(t, "login", "--file")
	for claim, address := range map[string]string{"by an address that is certified under another name": "127.0.0.1", "by a certified name": "localhost"} {
		t.Run(claim, func(t *testing.T) {
			p := o.at(t, home)
			p.must(t, "ssh-config", "lab", "--install", "--address", address)
			if text, err := os.ReadFile(config); err != nil || !strings.Contains(string(text), "IdentityFile \""+home+"/.ssh/dspool-ed25519\"") {
				t.Errorf("%v: %s", err, text)
			}
			if out, err := come("-F", config, "dspool"); err != nil || out != "ada+lab with certificate 7\n" {
				t.Errorf("%v: %s", err, out)
			}
			var ran []string
			p.Exec = func(argv []string) error { ran = argv; return nil }
			p.must(t, "ssh", "--address", address)
			if out, err := come(append([]string{"-F", "none"}, ran[1:]...)...); err != nil || out != "ada with certificate 7\n" {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	t.Run("with the files alone, without an agent", func(t *testing.T) {
		socket = "/nonexistent"
		if out, err := come("-F", config, "dspool"); err != nil || out != "ada+lab with certificate 7\n" {
			t.Errorf("%v: %s", err, out)
		}
	})
	t.Run("a door with another host key is refused", func(t *testing.T) {
		_, port, _ := net.SplitHostPort(openDoor(t, &office{hostCA: newSigner(t), userCA: o.userCA}))
		out, err := come("-F", config, "-p", port, "dspool")
		if err == nil || !strings.Contains(out, "Host key verification failed") {
			t.Errorf("%v: %s", err, out)
		}
	})
}

// openDoor starts an SSH server with a host certificate by the office's authority; it tells everybody who has a
// certificate by the office's authority of users who they are.
func openDoor(t *testing.T, o *office) (address string) {
	t.Helper()
	key := newSigner(t)
	cert := &ssh.Certificate{Key: key.PublicKey(), CertType: ssh.HostCert, ValidPrincipals: []string{"localhost", "pool.example.org"}, ValidAfter: uint64(time.Now().Add(-time.Minute).Unix()), ValidBefore: ssh.CertTimeInfinity}
	if err := cert.SignCert(rand.Reader, o.hostCA); err != nil {
		t.Fatal(err)
	}
	host, err := ssh.NewCertSigner(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	checker := &ssh.CertChecker{IsUserAuthority: func(k ssh.PublicKey) bool { return bytes.Equal(k.Marshal(), o.userCA.PublicKey().Marshal()) }}
	config := &ssh.ServerConfig{PublicKeyCallback: func(c ssh.ConnMetadata, k ssh.PublicKey) (*ssh.Permissions, error) {
		cert, ok := k.(*ssh.Certificate)
		if !ok || !checker.IsUserAuthority(cert.SignatureKey) {
			return nil, errors.New("no certificate")
		}
		name, _, _ := strings.Cut(c.User(), "+")
		return nil, checker.CheckCert(name, cert)
	}}
	config.AddHostKey(host)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go answer(conn, config)
		}
	}()
	return l.Addr().String()
}

func answer(conn net.Conn, config *ssh.ServerConfig) {
	defer conn.Close()
	server, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	for c := range channels {
		channel, requests, err := c.Accept()
		if err != nil {
			return
		}
		go func() {
			for r := range requests {
				_ = r.Reply(r.Type == "exec", nil)
				if r.Type == "exec" {
					_, _ = io.WriteString(channel, server.User()+" with certificate 7\n")
					_, _ = channel.SendRequest("exit-status", false, []byte{0, 0, 0, 0})
					channel.Close()
				}
			}
		}()
	}
}
