package image

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/provider"
)

// Check says what the host lacks to build images into the cache directory dir.
func Check(ctx context.Context, dir string) []provider.Finding {
	var out []provider.Finding
	tool := provider.Finding{Subject: "image builder", Fatal: true, Fix: "apt-get install mmdebstrap"}
	if p, err := exec.LookPath("mmdebstrap"); err != nil {
		tool.Detail = "mmdebstrap is not installed"
	} else if v, err := exec.CommandContext(ctx, p, "--version").Output(); err != nil {
		tool.Detail = fmt.Sprintf("%s does not run: %v", p, err)
	} else {
		tool.OK, tool.Fix, tool.Detail = true, "", firstLine(string(v))
	}
	out = append(out, tool)
	for _, name := range []string{"mount", "setpriv", "chroot", "hostname"} {
		if _, err := exec.LookPath(name); err != nil {
			out = append(out, provider.Finding{Subject: "image builder", Fatal: true, Detail: name + " is not installed", Fix: "apt-get install mount util-linux coreutils hostname"})
		}
	}
	keys := provider.Finding{Subject: "Debian's keys", OK: true, Fatal: true, Detail: keyring}
	if info, err := os.Stat(keyring); err != nil || info.Size() == 0 {
		keys.OK, keys.Detail, keys.Fix = false, keyring+" is missing, so packages cannot be verified", "apt-get install debian-archive-keyring"
	}
	out = append(out, keys)

	space := provider.Finding{Subject: "space for images", Fix: "make room, or choose another image cache"}
	at := dir
	for {
		if _, err := os.Stat(at); err == nil || at == "/" || at == "." {
			break
		}
		at = filepath.Dir(at)
	}
	if free, err := freeSpace(at); err != nil {
		space.Detail = err.Error()
	} else if space.Detail = fmt.Sprintf("%s free in %s", dspool.FormatBytes(free), dir); free >= spaceForBase {
		space.OK, space.Fix = true, ""
	} else {
		space.Detail += ", a build needs " + dspool.FormatBytes(spaceForBase)
	}
	out = append(out, space)
	if os.Geteuid() != 0 {
		out = append(out, provider.Finding{Subject: "image builder", Fatal: true, Detail: "only root can build images", Fix: "run the server as root"})
	}
	return out
}
