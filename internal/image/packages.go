package image

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/dspool/dspool"
)

// What images leave out: documents that nobody reads on a machine that lives for
// hours. Licences stay.
var dpkgOptions = []string{
	"force-unsafe-io", // the whole tree is synced once at the end
	"path-exclude=/usr/share/man/*",
	"path-exclude=/usr/share/info/*",
	"path-exclude=/usr/share/locale/*",
	"path-include=/usr/share/locale/locale.alias",
	"path-exclude=/usr/share/doc/*",
	"path-include=/usr/share/doc/*/copyright",
}

// Always installed: what any machine needs to be logged into and to run tasks.
var machinePackages = []string{"login", "mount", "passwd"}

const buildAptConf = "/etc/apt/apt.conf.d/00dspool-build"

func (b *build) mirror() Mirror {
	if b.recipe.Mirror != (Mirror{}) {
		return b.recipe.Mirror
	}
	return b.store.opts.Mirror
}

// debootstrap makes the first layer. Its apt runs on the host, its dpkg in the image.
func (b *build) debootstrap(ctx context.Context) error {
	if _, err := exec.LookPath("mmdebstrap"); err != nil {
		return dspool.Errorf(dspool.Unavailable, "mmdebstrap is not installed").WithHint("apt-get install mmdebstrap debian-archive-keyring")
	}
	if b.mirror() == (Mirror{}) {
		return dspool.Errorf(dspool.Unavailable, "nothing says where Debian packages come from: the host's apt names no archive of Debian's").
			WithHint("give the recipe a mirror:, or the host an apt source")
	}
	conf := filepath.Join(b.dir, "apt.conf")
	if err := os.WriteFile(conf, []byte(hostAptConf(ctx)), 0o600); err != nil {
		return err
	}
	args := []string{"mmdebstrap", "--mode=root", "--format=directory", "--variant=apt", "--verbose",
		"--include=" + strings.Join(slices.Concat(machinePackages, b.recipe.Packages), ","),
		// Not --aptopt: that would stay in the image, and with it a proxy's password.
		"--setup-hook=cp " + shellQuote(conf) + ` "$1"` + buildAptConf}
	for _, o := range dpkgOptions {
		args = append(args, "--dpkgopt="+o)
	}
	args = append(args, b.recipe.Suite, b.box.root)
	args = append(args, b.mirror().sources(b.recipe.Suite)...)
	out := b.aptOutput()
	return aptError(b.box.hostCommand(ctx, nil, out, args...), out, b.mirror())
}

// aptInstall adds the packages of an upper layer with the image's own apt.
func (b *build) aptInstall(ctx context.Context) error {
	out := b.aptOutput()
	out.watch("I: running apt-get update")
	if err := b.box.rootCommand(ctx, nil, nil, out, "apt-get", "-q", "update", "--error-on=any"); err != nil {
		return aptError(err, out, Mirror{})
	}
	out.watch("I: installing remaining packages")
	args := append([]string{"apt-get", "-q", "-y", "--no-install-recommends", "install"}, b.recipe.Packages...)
	return aptError(b.box.rootCommand(ctx, nil, nil, out, args...), out, Mirror{})
}

// aptOutput logs and turns apt's lines into progress of the steps from here on.
func (b *build) aptOutput() *output {
	first := b.at
	w := &aptWatch{report: func(p aptPhase, what string, fraction float64) {
		if b.at = first + int(p); b.parent != "" && p >= phaseBase {
			b.at-- // upper layers have no step for the base system
		}
		b.report(what, fraction)
	}}
	return &output{log: b.log, watch: w.line}
}

// aptError says for people why packages could not be installed.
func aptError(err error, out *output, m Mirror) error {
	if err == nil || isContext(err) {
		return err
	}
	tail := strings.Join(out.tail(), "\n  ")
	if _, ok := out.has("No space left on device"); ok {
		return dspool.Errorf(dspool.Unavailable, "the disk is full\n  %s", tail).WithHint("make room, or remove old images")
	}
	if _, ok := out.has("Unable to locate package", "has no installation candidate", "was not found"); ok {
		return dspool.Errorf(dspool.Invalid, "a package is not in this suite\n  %s", tail).WithHint("correct packages: in the recipe")
	}
	if _, ok := out.has("NO_PUBKEY", "is not signed", "Missing key", "GPG error", "OpenPGP signature verification failed"); ok {
		return dspool.Errorf(dspool.Unavailable, "the package mirror's signature cannot be checked\n  %s", tail).
			WithHint("apt-get install --only-upgrade debian-archive-keyring")
	}
	if _, ok := out.has("Temporary failure resolving", "Could not resolve", "Could not connect", "Unable to connect", "Cannot initiate the connection",
		"Network is unreachable", "Connection timed out", "Connection failed", "Failed to fetch", "does not have a Release file"); ok {
		from := "the package mirror"
		if m.Archive != "" {
			from += " " + m.Archive
		}
		return dspool.Errorf(dspool.Unavailable, "packages cannot be fetched from %s\n  %s", from, tail).
			WithHint("check the network, set mirror: in the recipe, or set apt's proxy on the host (Acquire::http::Proxy in /etc/apt/apt.conf.d)")
	}
	return dspool.Errorf(dspool.Unavailable, "packages could not be installed: %v\n  %s", err, tail)
}

// hostAptConf returns the host's apt settings on how to fetch: proxies, retries,
// checks of dates. Those that name files of the host's, which an image lacks, are
// left out.
func hostAptConf(ctx context.Context) string {
	text, err := exec.CommandContext(ctx, "apt-config", "dump").Output()
	if err != nil {
		return ""
	}
	var out strings.Builder
	for line := range strings.Lines(string(text)) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok || value == `"";` || strings.HasPrefix(value, `"/`) {
			continue
		}
		for _, prefix := range []string{"Acquire::http", "Acquire::https", "Acquire::Retries", "Acquire::Check-", "Acquire::ForceIPv"} {
			if strings.HasPrefix(strings.ToLower(name), strings.ToLower(prefix)) {
				fmt.Fprintln(&out, name, value)
				break
			}
		}
	}
	return out.String()
}

func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
