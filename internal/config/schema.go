package config

import (
	"cmp"
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/dspool/dspool"
)

// Defaults of single values; the reference page shows them.
const (
	DefaultListen       = "127.0.0.1:8443"
	DefaultDisk         = 10 << 30
	DefaultStartTimeout = dspool.Duration(2 * time.Minute)

	DefaultSessionsPerMachine = 4
	DefaultSessionIdle        = dspool.Duration(time.Hour)
	DefaultKeepMost           = dspool.Duration(24 * time.Hour)

	FirstUID = 20000 // lower ids are the host's own
	LastUID  = 60000 // higher ones are nobody's, or beyond a machine's map
)

// DefaultUIDs is the range of users unless the file gives one.
var DefaultUIDs = dspool.UIDRange{First: 20000, Last: 29999}

// DefaultIdleAfter is how long a machine of a pool of that kind stays without a claim.
func DefaultIdleAfter(k dspool.PoolKind) dspool.Duration {
	if k == dspool.Batch {
		return dspool.Duration(time.Minute)
	}
	return dspool.Duration(15 * time.Minute)
}

// rootFields is the whole file: reading and the reference page both follow it.
func (r *reader) rootFields(c *Config) []field {
	section := func(key, doc string, inner []field) field {
		return field{key: key, doc: doc, inner: inner, read: func(n *yaml.Node) { r.mapping(n, key, inner) }}
	}
	return []field{
		section("server", "How the server runs. Changes take effect at its next start.", r.serverFields(&c.Server)),
		section("defaults", "What is used where a command names nothing.", r.defaultFields(&c.Defaults)),
		section("users", "Accounts. A user leaves by `dspool user remove`, never by vanishing from the file.", r.usersFields(c)),
		named(r, "sizes", "size", "Shapes of machines, each with a name.", &c.Sizes, r.sizeFields, (*reader).checkSize),
		named(r, "shares", "share", "File trees that machines mount, each with a name.", &c.Shares, r.shareFields, nil),
		named(r, "images", "image", "Root file systems that machines start from, each with a name. "+DefaultImage+" and "+HubImage+" are known without being listed.", &c.Images, r.imageFields, nil),
		named(r, "pools", "pool", "Sets of like machines, each with a name.", &c.Pools, r.poolFields, (*reader).checkPool),
		{key: "doors", form: "list of doors", unless: "none", doc: "Places where people come in.", inner: doorFields(r, new(dspool.Door)),
			read: func(n *yaml.Node) { r.items(n, "doors", func(n *yaml.Node) { r.door(c, n) }) }},
		r.retentionSection(c),
		section("ssh", "How people prove who they are at doors for SSH, beside their keys, their passwords and the certificates of `dspool login`.", r.sshFields(&c.SSH)),
		section("web", "How browsers reach the portal and JupyterHub through web doors.", r.webFields(&c.Web)),
		section("login", "How people prove who they are in a browser. `dspool login --web` uses it for tokens and SSH certificates too.", r.loginFields(&c.Login)),
	}
}

// named makes the field of a section whose keys are the names of nouns.
func named[T any](r *reader, key, kind, doc string, into *[]T,
	fields func(*T, string) []field, check func(*reader, *T, *yaml.Node, string)) field {
	var model T
	return field{key: key, doc: doc, inner: fields(&model, "NAME"), named: true, read: func(n *yaml.Node) {
		r.entries(n, key, func(name, value *yaml.Node) {
			if err := checkName(kind, name.Value); err != nil {
				r.refuse(name, "", err)
				return
			}
			var t T
			all := fields(&t, name.Value)
			r.mapping(value, kind+" "+name.Value, all)
			r.lines[kind+" "+name.Value] = name.Line
			if check != nil {
				check(r, &t, name, kind+" "+name.Value)
			}
			*into = append(*into, t)
		})
	}}
}

func checkName(kind, name string) error {
	if kind == "image" {
		return dspool.CheckImageName(name)
	}
	return dspool.CheckName(kind, name)
}

func (r *reader) serverFields(s *Server) []field {
	names := func(n string) error {
		if net.ParseIP(n) != nil || len(n) <= 253 && hostName.MatchString(n) {
			return nil
		}
		return dspool.Errorf(dspool.Invalid, "%s is neither a host name nor an address", dspool.Quote(n))
	}
	return []field{
		{key: "listen", form: "HOST:PORT", unless: DefaultListen, doc: "Where the API is served, over TLS.",
			read: scalar(r, &s.Listen, "listen of server", parseListen)},
		{key: "subnet", form: "private IPv4 prefix", unless: "one that is free on the host", doc: "Addresses of the machines.",
			read: scalar(r, &s.Subnet, "subnet of server", parseSubnet)},
		{key: "images", form: "path", unless: "`images/` beside the file, else the recipes inside the binary", doc: "Directory of image recipes.",
			read: scalar(r, &s.Images, "images of server", r.parsePath)},
		{key: "certificate", form: "path", unless: "made, signed by the server's own authority", doc: "PEM file; with `key`.",
			read: scalar(r, &s.Certificate, "certificate of server", r.parsePath)},
		{key: "key", form: "path", doc: "PEM file; with `certificate`.", read: scalar(r, &s.Key, "key of server", r.parsePath)},
		{key: "names", form: "list of host names and addresses", doc: "In the certificate that is made, beside the host's own.",
			read: words(r, &s.Names, "names of server", names)},
	}
}

func (r *reader) defaultFields(d *Defaults) []field {
	// Whether these exist is checked once the whole file is read.
	set := func(key string, into *string) func(*yaml.Node) {
		return func(n *yaml.Node) {
			r.lines["default "+key] = n.Line
			scalar(r, into, key+" of defaults", parseText)(n)
		}
	}
	return []field{
		{key: "user", form: "name of a user", unless: "the first", doc: "Whom an administrator's job runs as without `--as`.", read: set("user", &d.User)},
		{key: "pool", form: "name of a pool", unless: "the first", doc: "Where a job runs without `--pool`.", read: set("pool", &d.Pool)},
		{key: "jobs_share", form: "name of a share", unless: "team", doc: "Keeps the jobs' directories and output.", read: set("jobs_share", &d.JobsShare)},
	}
}

func (r *reader) usersFields(c *Config) []field {
	user := func(u *User) []field {
		return []field{
			{key: "name", form: "name", doc: "For people, files and machines; the same everywhere.", read: scalar(r, &u.Name, "name of a user", parseText)},
			{key: "admin", form: "true or false", unless: "false", doc: "May do everything, also as others.", read: scalar(r, &u.Admin, "admin of a user", parseBool)},
			{key: "keys", form: "list of lines of .pub files", unless: "none", doc: "Public keys to log in with, beside those added by hand.",
				read: words(r, &u.Keys, "keys of a user", func(s string) error { _, err := parseText(s); return err })},
			{key: "groups", form: "list of names", unless: "none", doc: "Groups the user is in, in sessions and tasks alike; made when missing.", read: words(r, &u.Groups, "groups of a user", dspool.CheckUserName)},
			{key: "pool", form: "name of a pool", unless: "the door's", doc: "Where the user's logins land that name no pool.", read: scalar(r, &u.DefaultPool, "pool of a user", parseText)},
		}
	}
	one := func(n *yaml.Node) {
		var u User
		if n.Kind == yaml.ScalarNode {
			u.Name = n.Value
		} else {
			r.mapping(n, "a user", user(&u))
		}
		if err := dspool.CheckUserName(u.Name); err != nil {
			r.refuse(n, "", err)
			return
		}
		if first, twice := r.lines["user "+u.Name]; twice {
			r.problem(n, fmt.Sprintf("it is already in line %d", first), "user %s is there twice", u.Name)
			return
		}
		r.lines["user "+u.Name] = n.Line
		c.Users = append(c.Users, u)
	}
	return []field{
		{key: "uid_range", form: "FIRST-LAST", unless: fmt.Sprintf("%d-%d", DefaultUIDs.First, DefaultUIDs.Last),
			doc:  fmt.Sprintf("Ids that users get, the same on the host, machines and shares; from %d to %d.", FirstUID, LastUID),
			read: scalar(r, &c.UIDs, "uid_range of users", parseUIDs)},
		{key: "list", form: "list of users", doc: "Each a name, or the keys below.", inner: user(new(User)),
			read: func(n *yaml.Node) { r.items(n, "list of users", one) }},
	}
}

func (r *reader) sshFields(s *SSH) []field {
	read := words(r, &s.UserAuthorities, "user_authorities of ssh", func(s string) error { _, err := parseText(s); return err })
	return []field{{key: "user_authorities", form: "list of lines of .pub files", unless: "none",
		doc: "Public keys of the team's own certificate authorities: their user certificates let in the users whom they name as principals, as OpenSSH's sshd would. " +
			"Whoever holds such a key can come in as anybody. Of a name that was given again, only certificates count that are good from a later time.",
		read: func(n *yaml.Node) {
			r.lines["ssh user_authorities"] = n.Line
			read(n)
		}}}
}

func (r *reader) sizeFields(s *dspool.Size, name string) []field {
	s.Name, s.Disk = name, DefaultDisk
	where := func(key string) string { return key + " of size " + name }
	return []field{
		{key: "cpus", form: "cores", doc: "In steps of 0.001.", read: scalar(r, &s.CPUs, where("cpus"), dspool.ParseCPUs)},
		{key: "memory", form: "bytes", doc: "Such as 2GiB.", read: scalar(r, &s.Memory, where("memory"), dspool.ParseMemory)},
		{key: "disk", form: "bytes", unless: "10GiB", doc: "What a machine may write outside its shares.", read: scalar(r, &s.Disk, where("disk"), parseDisk)},
		{key: "gpus", form: "whole number", unless: "0", doc: "Whole GPUs.", read: scalar(r, &s.GPUs, where("gpus"), parseInt(0, 64))},
		{key: "price", form: "number", unless: "0", doc: "Cost of one machine for an hour.", read: scalar(r, &s.Price, where("price"), parsePrice)},
	}
}

func (r *reader) checkSize(s *dspool.Size, n *yaml.Node, where string) {
	// A value that was refused is a problem of its own already.
	if s.CPUs == 0 && !r.refused[&s.CPUs] {
		r.problem(n, "for example cpus: 1", "%s has no cpus", where)
	}
	if s.Memory == 0 && !r.refused[&s.Memory] {
		r.problem(n, "for example memory: 2GiB", "%s has no memory", where)
	}
}

func (r *reader) shareFields(s *dspool.Share, name string) []field {
	s.Name, s.Kind, s.Mount = name, "dir", "/mnt/"+name
	where := func(key string) string { return key + " of share " + name }
	return []field{
		{key: "kind", form: "dir", unless: "dir", doc: "`dir` is a directory of the server's host.", read: scalar(r, &s.Kind, where("kind"), parseWord("dir"))},
		{key: "path", form: "path", unless: "STATE-DIR/shares/NAME", doc: "Where the tree lies on the host. Everybody makes folders there; programs of users have the umask 0022. One for a group: `mkdir F; chgrp GROUP F; chmod 2770 F`, and `setfacl -d -m g::rwX F` where members also change each other's files.", read: scalar(r, &s.Path, where("path"), r.parseSharePath)},
		{key: "mount", form: "absolute path", unless: "/mnt/NAME", doc: "Where machines see it. The share at `" + dspool.HomeMount + "` holds the homes.",
			read: scalar(r, &s.Mount, where("mount"), parseMount)},
	}
}

func (r *reader) imageFields(i *dspool.Image, name string) []field {
	i.Name, i.State = name, dspool.ImageMissing
	return []field{
		{key: "recipe", form: "path", unless: "NAME.yaml in the directory of recipes", doc: "What the image is built from.",
			read: scalar(r, &i.Recipe, "recipe of image "+name, r.parsePath)},
	}
}

func (r *reader) poolFields(p *dspool.Pool, name string) []field {
	p.Name, p.Min, p.Max, p.Internet = name, -1, 1, true // checkPool fills the rest
	p.Policy = dspool.PoolPolicy{
		IdleAfter: -1, StartTimeout: DefaultStartTimeout,
		SessionIdle: DefaultSessionIdle, KeepMost: DefaultKeepMost,
	}
	p.Sizes, p.Shares = []string{}, []string{}
	where := func(key string) string { return key + " of pool " + name }
	anyWord := func(s string) error { _, err := parseText(s); return err }
	kind := func(s string) (dspool.PoolKind, error) {
		w, err := parseWord(string(dspool.Batch), string(dspool.Interactive), string(dspool.Service))(s)
		return dspool.PoolKind(w), err
	}
	policy := []field{
		{key: "idle_after", form: "duration", unless: fmt.Sprintf("%s for batch, else %s", DefaultIdleAfter(dspool.Batch), DefaultIdleAfter(dspool.Interactive)),
			doc:  "How long a machine beyond min and spare stays without work.",
			read: scalar(r, &p.Policy.IdleAfter, where("idle_after"), parseDuration(0, 30*24*time.Hour))},
		{key: "start_timeout", form: "duration", unless: DefaultStartTimeout.String(), doc: "How long a created machine may take to join before it counts as failed.",
			read: scalar(r, &p.Policy.StartTimeout, where("start_timeout"), parseDuration(time.Second, time.Hour))},
		{key: "sessions_per_machine", form: "whole number", unless: fmt.Sprint(DefaultSessionsPerMachine), doc: "People on one machine; each holds that part of it. They reach each other's ports there, on 127.0.0.1 too: a firewall cannot tell whose a listener is. 1 gives each a machine.",
			read: scalar(r, &p.Policy.SessionsPerMachine, where("sessions_per_machine"), parseInt(1, 100))},
		{key: "session_idle", form: "duration", unless: DefaultSessionIdle.String(), doc: "How long a session stays with nobody connected and nothing alive in it.",
			read: scalar(r, &p.Policy.SessionIdle, where("session_idle"), parseDuration(time.Second, 30*24*time.Hour))},
		{key: "keep_most", form: "duration", unless: DefaultKeepMost.String(), doc: "The longest that people may keep a session or put off a drain.",
			read: scalar(r, &p.Policy.KeepMost, where("keep_most"), parseDuration(0, 90*24*time.Hour))},
		{key: "sudo", form: "true or false", unless: "false", doc: "People become root on its machines. Each machine is then for one person for its life: one session, no jobs, and of homes, jobs and notebooks only that person's are mounted. Whatever lies in other folders of its shares root reads and changes as anybody.",
			read: scalar(r, &p.Policy.Sudo, where("sudo"), parseBool)},
		{key: "record", form: "true or false", unless: "false", doc: "Whether terminals are recorded, as asciicast files in the state directory; people are told. Administrators play them with `dspool recording`.",
			read: scalar(r, &p.Policy.Record, where("record"), parseBool)},
	}
	return []field{
		{key: "kind", form: "batch, interactive or service", unless: "batch", doc: "Defaults of the policy; any pool takes jobs and people, but one that runs an app.", read: scalar(r, &p.Kind, where("kind"), kind)},
		{key: "runs", form: dspool.RunsJupyterHub, unless: "nothing", doc: "The app that runs on its machine: JupyterHub, with its database in `STATE-DIR/shares/NAME/jupyterhub` of a share mounted at `" + dspool.HomeMount + "` that no other pool has. Only for kind service, which is then the default, and for one pool; min, max and people on a machine are 1.",
			read: scalar(r, &p.Runs, where("runs"), parseWord(dspool.RunsJupyterHub))},
		{key: "image", form: "name of an image", unless: DefaultImage + "; " + HubImage + " with `runs: " + dspool.RunsJupyterHub + "`", doc: "What its machines start from.", read: scalar(r, &p.Image, where("image"), parseText)},
		{key: "sizes", form: "list of names of sizes", doc: "Sizes that its machines may have; the first is the default. People ask for another with USER+POOL+SIZE@HOST, or USER++SIZE@HOST.", read: words(r, &p.Sizes, where("sizes"), anyWord)},
		{key: "min", form: "whole number", unless: "0; 1 with `runs`", doc: "Machines kept even when nobody needs them.", read: scalar(r, &p.Min, where("min"), parseInt(0, dspool.MaxMachines))},
		{key: "max", form: "whole number", unless: "1", doc: "Machines never exceeded.", read: scalar(r, &p.Max, where("max"), parseInt(1, dspool.MaxMachines))},
		{key: "spare", form: "whole number", unless: "0", doc: "Idle machines kept ready beyond those in use.", read: scalar(r, &p.Spare, where("spare"), parseInt(0, dspool.MaxMachines))},
		{key: "shares", form: "list of names of shares", unless: "none", doc: "Mounted on its machines.", read: words(r, &p.Shares, where("shares"), anyWord)},
		{key: "internet", form: "true or false", unless: "true", doc: "Whether its machines reach other networks, by NAT. Metadata services of clouds they never reach. Like `public_only`, for machines made from then on.", read: scalar(r, &p.Internet, where("internet"), parseBool)},
		{key: "public_only", form: "true or false", unless: "false", doc: "Whether its machines reach only the public internet, and nothing of the private networks that the host reaches: 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, 100.64.0.0/10 and the like. Networks of the site with public addresses stay open.",
			read: scalar(r, &p.PublicOnly, where("public_only"), parseBool)},
		{key: "policy", doc: "How the pool grows and shrinks.", inner: policy, read: func(n *yaml.Node) { r.mapping(n, "policy of pool "+name, policy) }},
	}
}

func (r *reader) checkPool(p *dspool.Pool, n *yaml.Node, where string) {
	if p.Runs != "" {
		r.checkRuns(p, n, where)
	}
	p.Kind, p.Image, p.Min = cmp.Or(p.Kind, dspool.Batch), cmp.Or(p.Image, DefaultImage), max(p.Min, 0)
	if p.Policy.IdleAfter < 0 {
		p.Policy.IdleAfter = DefaultIdleAfter(p.Kind)
	}
	switch one := p.Policy.SessionsPerMachine; {
	case p.Policy.Sudo && one > 1:
		r.problem(n, "leave sessions_per_machine out", "%s gives sudo, so a machine of it is for one person, not for %d", where, one)
	case p.Policy.Sudo && p.Kind == dspool.Batch:
		r.problem(n, "say kind: interactive", "%s gives sudo, so it takes no jobs", where)
	case p.Policy.Sudo:
		p.Policy.SessionsPerMachine = 1
	case one == 0:
		p.Policy.SessionsPerMachine = DefaultSessionsPerMachine
	}
	if len(p.Sizes) == 0 && !r.refused[&p.Sizes] {
		r.problem(n, "name at least one, for example sizes: [small]", "%s has no sizes", where)
		return
	}
	if p.PublicOnly && !p.Internet {
		r.problem(n, "leave public_only or internet out", "%s has no internet, so its machines reach no public address either", where)
	}
	if p.Min > p.Max {
		r.problem(n, "raise max or lower min", "%s has min %d above max %d", where, p.Min, p.Max)
	}
	if p.Spare > p.Max {
		r.problem(n, "raise max or lower spare", "%s has spare %d above max %d", where, p.Spare, p.Max)
	}
}

func doorFields(r *reader, d *dspool.Door) []field {
	d.Protocol = dspool.ProtocolSSH
	protocol := func(s string) (dspool.Protocol, error) {
		w, err := parseWord(string(dspool.ProtocolSSH), string(dspool.ProtocolWeb))(s)
		return dspool.Protocol(w), err
	}
	return []field{
		{key: "listen", form: "HOST:PORT", doc: "Where people come in, such as :2222 or 127.0.0.1:8000.", read: scalar(r, &d.Listen, "listen of a door", parseListen)},
		{key: "protocol", form: "ssh or web", unless: "ssh", doc: "How they come in: by SSH, or with a browser.", read: scalar(r, &d.Protocol, "protocol of a door", protocol)},
		{key: "pool", form: "name of a pool", doc: "Where people land who name no other with USER+POOL@HOST.", read: scalar(r, &d.Pool, "pool of a door", parseText)},
	}
}

func (r *reader) door(c *Config, n *yaml.Node) {
	var d dspool.Door
	r.mapping(n, "a door", doorFields(r, &d))
	switch {
	case d.Listen == "" && !r.refused[&d.Listen]:
		r.problem(n, "for example listen: :2222", "a door has no listen")
	case d.Pool == "" && !r.refused[&d.Pool]:
		r.problem(n, "for example pool: lab", "the door %s has no pool", d.Listen)
	case slices.ContainsFunc(c.Doors, func(o dspool.Door) bool { return o.Listen == d.Listen }):
		r.problem(n, "give it another port", "two doors listen at %s", d.Listen)
	default:
		r.lines["door "+d.Listen] = n.Line
		c.Doors = append(c.Doors, d)
	}
}

func parseListen(s string) (string, error) {
	host, port, err := net.SplitHostPort(s)
	n, perr := strconv.ParseUint(port, 10, 16)
	if err != nil || perr != nil || host != "" && net.ParseIP(host) == nil && !hostName.MatchString(host) {
		return "", dspool.Errorf(dspool.Invalid, "%s is not an address to listen at", dspool.Quote(s)).
			WithHint("HOST:PORT, for example %s, or :8443 for every address of the host", DefaultListen)
	}
	return net.JoinHostPort(host, strconv.FormatUint(n, 10)), nil
}

func parseSubnet(s string) (netip.Prefix, error) {
	if s == "" {
		return netip.Prefix{}, nil
	}
	p, err := netip.ParsePrefix(s)
	private := p.Addr().IsPrivate() || netip.MustParsePrefix("100.64.0.0/10").Contains(p.Addr())
	if err != nil || !p.Addr().Is4() || !private || p.Bits() < 12 || p.Bits() > 28 {
		return netip.Prefix{}, dspool.Errorf(dspool.Invalid, "%s is not a private IPv4 network", dspool.Quote(s)).
			WithHint("from /12 to /28, for example 10.80.0.0/16")
	}
	if p != p.Masked() {
		return netip.Prefix{}, dspool.Errorf(dspool.Invalid, "%s is an address inside a network", dspool.Quote(s)).WithHint("the network is %s", p.Masked())
	}
	return p, nil
}

func parseUIDs(s string) (dspool.UIDRange, error) {
	a, b, _ := strings.Cut(s, "-")
	first, err1 := strconv.Atoi(strings.TrimSpace(a))
	last, err2 := strconv.Atoi(strings.TrimSpace(b))
	if err1 != nil || err2 != nil || first < FirstUID || last > LastUID || last < first {
		return dspool.UIDRange{}, dspool.Errorf(dspool.Invalid, "%s is not a range of user ids", dspool.Quote(s)).
			WithHint("FIRST-LAST within %d-%d", FirstUID, LastUID)
	}
	return dspool.UIDRange{First: first, Last: last}, nil
}

func parseDisk(s string) (int64, error) {
	n, err := dspool.ParseBytes(s)
	if err == nil && n < 64<<20 {
		err = dspool.Errorf(dspool.Invalid, "%s of disk is too little for a machine to start", dspool.FormatBytes(n)).WithHint("at least 64 MiB")
	}
	return n, err
}

func parsePrice(s string) (float64, error) {
	p, err := strconv.ParseFloat(s, 64)
	if err != nil || !(p >= 0 && p <= 1e6) || math.IsNaN(p) {
		return 0, dspool.Errorf(dspool.Invalid, "%s is not a price for an hour", dspool.Quote(s)).WithHint("from 0 to 1000000, for example 0.05")
	}
	return p, nil
}

func parseDuration(low, high time.Duration) func(string) (dspool.Duration, error) {
	return func(s string) (dspool.Duration, error) {
		d, err := dspool.ParseDuration(s)
		if err == nil && (time.Duration(d) < low || time.Duration(d) > high) {
			err = dspool.Errorf(dspool.Invalid, "%s is too short or too long", d).WithHint("from %s to %s", dspool.Duration(low), dspool.Duration(high))
		}
		return d, err
	}
}
