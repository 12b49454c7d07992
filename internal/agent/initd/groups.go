package initd

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
)

// join makes user a member of exactly these groups among those with an id of dspool's, and
// makes groups that are missing. Groups of the image stay as they are. Without a user it only makes groups.
func (a *accounts) join(user string, groups []api.GroupID) error {
	if user == "" && len(groups) == 0 {
		return nil
	}
	for _, g := range groups {
		if err := dspool.CheckName("group", g.Name); err != nil {
			return err
		}
		if g.GID < MinUID {
			return dspool.Errorf(dspool.Forbidden, "group %s has id %d: nobody joins a group with an id below %d", g.Name, g.GID, MinUID)
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	unlock, err := a.lock()
	if err != nil {
		return err
	}
	defer unlock()
	path := filepath.Join(a.dir, "group")
	old, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read groups: %w", err)
	}
	text, err := withMember(string(old), user, groups)
	if err != nil || text == string(old) {
		return err
	}
	if err := replaceFile(path, []byte(text), 0o644); err != nil {
		return fmt.Errorf("write groups: %w", err)
	}
	return nil
}

// withMember returns the text of a group file in which user is in groups.
func withMember(text, user string, groups []api.GroupID) (string, error) {
	var out strings.Builder
	missing := slices.Clone(groups)
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		f := strings.Split(line, ":")
		gid, err := strconv.Atoi(fieldOf(f, 2))
		if len(f) != 4 || err != nil {
			out.WriteString(line + "\n")
			continue
		}
		wanted := false
		for _, g := range groups {
			switch {
			case g.Name == f[0] && g.GID == gid:
				wanted = true
				missing = slices.DeleteFunc(missing, func(m api.GroupID) bool { return m == g })
			case g.Name == f[0]:
				return "", dspool.Errorf(dspool.Conflict, "the image has its own group %s, with id %d", g.Name, gid).
					WithHint("rename the group, or remove it from the image")
			case g.GID == gid:
				return "", dspool.Errorf(dspool.Conflict, "the image gives group id %d to %s", gid, dspool.Quote(f[0])).
					WithHint("ids from 20000 on are dspool's; remove that group from the image")
			}
		}
		members := strings.FieldsFunc(f[3], func(r rune) bool { return r == ',' })
		in := slices.Contains(members, user)
		switch {
		case wanted && !in && user != "":
			members = append(members, user)
		case !wanted && in && gid >= MinUID:
			members = slices.DeleteFunc(members, func(m string) bool { return m == user })
		}
		out.WriteString(strings.Join([]string{f[0], f[1], f[2], strings.Join(members, ",")}, ":") + "\n")
	}
	for _, g := range missing {
		fmt.Fprintf(&out, "%s:*:%d:%s\n", g.Name, g.GID, user)
	}
	return out.String(), nil
}

func fieldOf(f []string, i int) string {
	if i < len(f) {
		return f[i]
	}
	return ""
}
