package config

import (
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/suggest"
)

// Parse reads the file of that name; relative paths in it begin at dir ("" refuses them).
// It returns every problem it can find, in order of line, and no Config when there is one.
func Parse(name string, text []byte, dir string) (*Config, []Problem) {
	file := filepath.Base(name)
	if _, err := parseText(file); err != nil || name == "" {
		file = "configuration"
	}
	r := &reader{file: file, dir: dir, lines: map[string]int{}, refused: map[any]bool{}}
	c := &Config{UIDs: DefaultUIDs, Server: Server{Listen: DefaultListen}, file: file, lines: r.lines}
	if root := r.document(text); root != nil {
		r.mapping(root, "", r.rootFields(c))
		c.finish(r)
	}
	if len(r.problems) > 0 {
		slices.SortStableFunc(r.problems, func(a, b Problem) int { return a.Line - b.Line })
		return nil, r.problems
	}
	return c, nil
}

// finish fills what depends on the whole file and checks that names name something.
func (c *Config) finish(r *reader) {
	for _, name := range []string{DefaultImage, HubImage} {
		needed := name == DefaultImage || slices.ContainsFunc(c.Pools, func(p dspool.Pool) bool { return p.Image == name })
		if needed && !slices.ContainsFunc(c.Images, func(i dspool.Image) bool { return i.Name == name }) {
			c.Images = append(c.Images, dspool.Image{Name: name, State: dspool.ImageMissing})
		}
	}
	if (c.Server.Certificate == "") != (c.Server.Key == "") {
		r.problem(nil, "give both or neither", "server has only one of certificate and key")
	}
	if n := c.UIDs.Last - c.UIDs.First + 1; len(c.Users) > n {
		r.problem(nil, "widen uid_range", "%d users do not fit into a uid_range of %d", len(c.Users), n)
	}
	users := names(c.Users, func(u User) string { return u.Name })
	sizes := names(c.Sizes, func(s dspool.Size) string { return s.Name })
	shares := names(c.Shares, func(s dspool.Share) string { return s.Name })
	images := names(c.Images, func(i dspool.Image) string { return i.Name })
	pools := names(c.Pools, func(p dspool.Pool) string { return p.Name })

	for _, p := range c.Pools {
		line := r.lines["pool "+p.Name]
		r.known(line, "pool "+p.Name, "image", p.Image, images)
		for _, s := range p.Sizes {
			r.known(line, "pool "+p.Name, "size", s, sizes)
		}
		for _, s := range p.Shares {
			r.known(line, "pool "+p.Name, "share", s, shares)
		}
		c.checkMounts(r, p)
	}
	c.checkSharePaths(r)
	for _, d := range c.Doors {
		r.known(r.lines["door "+d.Listen], "door "+d.Listen, "pool", d.Pool, pools)
		if d.Listen == c.Server.Listen && !strings.HasSuffix(d.Listen, ":0") { // 0 is whichever is free
			r.problem(nodeAt(r.lines["door "+d.Listen]), "give it another port", "a door listens at %s, where the server does", d.Listen)
		}
	}
	for _, u := range c.Users {
		if u.DefaultPool != "" {
			r.known(r.lines["user "+u.Name], "user "+u.Name, "pool", u.DefaultPool, pools)
		}
	}
	c.finishWeb(r)
	c.finishLogin(r)
	open := names(slices.DeleteFunc(slices.Clone(c.Pools), func(p dspool.Pool) bool { return p.Runs != "" }), func(p dspool.Pool) string { return p.Name })

	d := &c.Defaults
	for _, f := range []struct {
		key, kind string
		into      *string
		names     []string
		unless    string
	}{
		{"user", "user", &d.User, users, first(users)},
		{"pool", "pool", &d.Pool, pools, first(open)},
		{"jobs_share", "share", &d.JobsShare, shares, "team"},
	} {
		if *f.into != "" {
			r.known(r.lines["default "+f.key], "defaults", f.kind, *f.into, f.names)
		} else if f.unless != "" && slices.Contains(f.names, f.unless) {
			*f.into = f.unless
		}
	}
	c.checkHubs(r)
	if d.JobsShare == "" && len(open) > 0 {
		r.problem(nil, "name one under defaults, as jobs_share", "no share is named for the jobs' directories, and none is called team")
	}
	for _, p := range c.Pools {
		if p.Kind == dspool.Batch && slices.Contains(shares, d.JobsShare) && !slices.Contains(p.Shares, d.JobsShare) {
			r.problem(nodeAt(r.lines["pool "+p.Name]), "add "+d.JobsShare+" to its shares", "pool %s is for batch jobs but does not mount share %s, where jobs write", p.Name, d.JobsShare)
		}
	}
}

// nodeAt stands for a node of which only the line is kept.
func nodeAt(line int) *yaml.Node { return &yaml.Node{Line: line} }

func names[T any](list []T, name func(T) string) []string {
	var out []string
	for _, t := range list {
		out = append(out, name(t))
	}
	return out
}

func first(s []string) string {
	if len(s) == 0 {
		return ""
	}
	return s[0]
}

// known refuses a name that names nothing, with what was probably meant.
func (r *reader) known(line int, where, kind, name string, names []string) {
	if slices.Contains(names, name) {
		return
	}
	if _, there := r.lines[kind+" "+name]; there {
		return // it exists, with problems of its own
	}
	hint := "there is no " + kind + " yet"
	if s := suggest.Nearest(name, names); s != "" {
		hint = "did you mean " + s + "?"
	} else if len(names) > 0 && len(names) <= 10 {
		hint = "there is " + strings.Join(names, ", ")
	} else if len(names) > 0 {
		hint = ""
	}
	r.problem(nodeAt(line), hint, "%s names %s %s, which does not exist", where, kind, dspool.Quote(name))
}

// checkMounts refuses two shares of one pool at the same place or one inside another.
func (c *Config) checkMounts(r *reader, p dspool.Pool) {
	var mounted []dspool.Share
	for _, s := range c.Shares {
		if !slices.Contains(p.Shares, s.Name) {
			continue
		}
		for _, o := range mounted {
			if within(s.Mount, o.Mount) || within(o.Mount, s.Mount) {
				r.problem(nodeAt(r.lines["pool "+p.Name]), "give one of them another mount", "shares %s and %s of pool %s are mounted at %s and %s, one over the other",
					o.Name, s.Name, p.Name, o.Mount, s.Mount)
			}
		}
		mounted = append(mounted, s)
	}
}

// checkSharePaths refuses shares that lie inside one another on the host: whoever may
// use one would reach into the other past its rules.
func (c *Config) checkSharePaths(r *reader) {
	for i, s := range c.Shares {
		for _, o := range c.Shares[:i] {
			if s.Path != "" && o.Path != "" && (within(s.Path, o.Path) || within(o.Path, s.Path)) {
				r.problem(nodeAt(r.lines["share "+s.Name]), "give each its own directory", "shares %s and %s lie at %s and %s, one inside the other", o.Name, s.Name, o.Path, s.Path)
			}
		}
	}
}

func within(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }

var hostName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$`)

// hostOwn are directories of the host that are never a share: mounting them would hand
// the host to whoever writes on a machine.
var hostOwn = []string{"/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/proc", "/root", "/run", "/sbin", "/sys", "/usr"}

func (r *reader) parseSharePath(s string) (string, error) {
	p, err := r.parsePath(s)
	if err != nil {
		return "", err
	}
	for _, own := range hostOwn {
		if within(p, own) {
			return "", dspool.Errorf(dspool.Invalid, "%s belongs to the host's system", p).WithHint("choose a directory such as /srv/team")
		}
	}
	if strings.Count(p, "/") == 1 && slices.Contains([]string{"/", "/home", "/mnt", "/opt", "/srv", "/tmp", "/var"}, p) {
		return "", dspool.Errorf(dspool.Invalid, "%s is a whole tree of the host", p).WithHint("choose a directory in it, such as /srv/team")
	}
	return p, nil
}

// mountRoots are where a share may be seen on a machine without hiding its system.
var mountRoots = []string{"/home", "/mnt", "/srv", "/data", "/opt", "/media", "/scratch"}

func parseMount(s string) (string, error) {
	if _, err := parseText(s); err != nil {
		return "", err
	}
	for _, root := range mountRoots {
		if s == filepath.Clean(s) && within(s, root) && len(s) < 256 {
			return s, nil
		}
	}
	return "", dspool.Errorf(dspool.Invalid, "%s is no place for a share on a machine", dspool.Quote(s)).
		WithHint("an absolute path under %s", strings.Join(mountRoots, ", "))
}
