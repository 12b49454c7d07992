package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/dspool/dspool"
)

func isContext(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// prepare puts in what later steps need and finish takes away again: name
// resolution, the host's way to fetch packages, and a rule against starting services.
func (b *build) prepare(ctx context.Context) error {
	resolv, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		resolv = nil // a host without name resolution; steps that need it say so
	}
	return b.put(ctx, []File{
		{Path: "/etc/resolv.conf", Mode: 0o644, Content: resolv},
		{Path: "/usr/sbin/policy-rc.d", Mode: 0o755, Content: []byte("#!/bin/sh\nexit 101\n")},
		{Path: buildAptConf, Mode: 0o644, Content: []byte(hostAptConf(ctx))},
	})
}

// files puts the recipe's own files in.
func (b *build) files(ctx context.Context) error { return b.put(ctx, b.recipe.Files) }

// put writes files inside the image, so that no link in it leads out of it.
func (b *build) put(ctx context.Context, files []File) error {
	packed, err := pack(files)
	if err != nil {
		return err
	}
	out := &output{log: b.log}
	if err := b.box.rootCommand(ctx, nil, packed, out, "tar", "-x", "-p", "--numeric-owner", "--no-overwrite-dir", "-C", "/", "-f", "-"); err != nil {
		if isContext(err) {
			return err
		}
		return dspool.Errorf(dspool.Invalid, "the files cannot be written: %v\n  %s", err, strings.Join(out.tail(), "\n  "))
	}
	return nil
}

// pack makes a tar of files that belong to root.
func pack(files []File) (*bytes.Buffer, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, f := range files {
		h := &tar.Header{Name: strings.TrimPrefix(f.Path, "/"), Mode: int64(f.Mode), Size: int64(len(f.Content)), ModTime: time.Unix(0, 0), Format: tar.FormatPAX}
		if err := errors.Join(w.WriteHeader(h), write(w, f.Content)); err != nil {
			return nil, fmt.Errorf("pack %s: %w", f.Path, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("pack files: %w", err)
	}
	return &buf, nil
}

func write(w *tar.Writer, p []byte) error {
	_, err := w.Write(p)
	return err
}

// runStep runs one shell step of the recipe as the image's root.
func (b *build) runStep(ctx context.Context, text string) error {
	out := &output{log: b.log}
	if err := b.box.rootCommand(ctx, nil, nil, out, "/bin/sh", "-e", "-c", "cd /root && "+"{\n"+text+"\n}"); err != nil {
		if isContext(err) {
			return err
		}
		return dspool.Errorf(dspool.Invalid, "%v\n  %s", err, strings.Join(out.tail(), "\n  "))
	}
	return nil
}

// finishScript takes away what the build needed, whatever would make machines alike
// that must differ, and what no machine needs.
const finishScript = `set -eu
rm -f /usr/sbin/policy-rc.d ` + buildAptConf + ` /etc/ssh/ssh_host_*
rm -rf /var/lib/apt/lists /var/cache/apt /var/log/apt /var/lib/dbus/machine-id /root/.cache /root/.bash_history
rm -f /var/log/*.log /var/log/lastlog /var/log/wtmp /var/log/btmp /var/log/faillog /var/cache/ldconfig/aux-cache /var/cache/debconf/*-old /var/lib/dpkg/*-old /var/lib/systemd/random-seed
rm -f /etc/resolv.conf /etc/hostname /etc/machine-id /etc/mtab
mkdir -p -m 0755 /var/lib/apt/lists /var/cache/apt/archives /var/log/apt /home /mnt
mkdir -p -m 0700 /var/lib/apt/lists/partial /var/cache/apt/archives/partial
if id -u _apt >/dev/null 2>&1; then chown _apt /var/lib/apt/lists/partial /var/cache/apt/archives/partial; fi
: >/etc/resolv.conf
: >/etc/machine-id
chmod 0444 /etc/machine-id
echo localhost >/etc/hostname
printf '127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n' >/etc/hosts
ln -s ../proc/self/mounts /etc/mtab
ln -sfn /usr/share/zoneinfo/Etc/UTC /etc/localtime
echo Etc/UTC >/etc/timezone
echo LANG=C.UTF-8 >/etc/locale.conf
mkdir -p /etc/default && echo LANG=C.UTF-8 >/etc/default/locale
if [ -e /usr/bin/python3 ] && ! [ -e /usr/bin/python ]; then ln -s python3 /usr/bin/python; fi
printf 'NAME=%s\nKEY=%s\n' "$1" "$2" >/etc/dspool-image
people=$(awk -F: '$3 >= 1000 && $3 != 65534 { printf " %s", $1 }' /etc/passwd)
if [ -n "$people" ]; then echo "E: the image has accounts of people:$people; users come to machines by dspool" >&2; exit 1; fi
`

func (b *build) finish(ctx context.Context) error {
	out := &output{log: b.log}
	if err := b.box.rootCommand(ctx, nil, nil, out, "/bin/sh", "-c", finishScript, "finish", b.recipe.Name, b.key); err != nil {
		if isContext(err) {
			return err
		}
		return dspool.Errorf(dspool.Invalid, "%v\n  %s", err, strings.Join(out.tail(), "\n  "))
	}
	if b.parent != "" {
		return nil
	}
	// mmdebstrap made device nodes; machines have a /dev of their own.
	dev := filepath.Join(b.box.root, "dev")
	entries, err := os.ReadDir(dev)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(dev, e.Name())); err != nil {
			return err
		}
	}
	return nil
}
