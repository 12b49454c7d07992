package cgroup2_test

import (
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// wanted are the modules of the emulated computer, before those that they need: its disk, what
// machines are made of, and their network. Names that a kernel has built in are passed over.
var wanted = []string{
	"virtio_pci", "virtio_blk", "overlay", "loop", "fuse", "veth", "bridge", "br_netfilter",
	"nf_tables", "nft_chain_nat", "nft_ct", "nft_nat", "nft_masq", "nft_limit", "nft_connlimit", "nft_fib_inet",
	"nft_reject_inet", "nft_redir", "nft_log", "nft_meta_bridge", "nft_reject_bridge", "nf_conntrack_bridge", "nf_conntrack_netlink",
}

// kernel is an unpacked kernel package of Debian.
type kernel struct {
	image   string
	version string
	modules map[string]string // file by name
}

// debianKernel unpacks the host's own suite's kernel for virtual machines into the cache. It
// installs nothing.
func debianKernel(t *testing.T, cache string) kernel {
	t.Helper()
	dir, err := kernelDir(t, filepath.Join(cache, "kernels"))
	if err != nil {
		t.Skip("NOT TESTED: no kernel for the emulated computer: ", err)
	}
	k := kernel{modules: map[string]string{}}
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name := d.Name()
		if version, ok := strings.CutPrefix(name, "vmlinuz-"); ok {
			k.image, k.version = path, version
		}
		if module, _, ok := strings.Cut(name, ".ko"); ok {
			k.modules[moduleName(module)] = path
		}
		return nil
	})
	if err != nil || k.image == "" {
		t.Fatalf("%s holds no kernel: %v", dir, err)
	}
	return k
}

// kernelDir is where the kernel of the newest package that apt knows lies unpacked, else of
// any that was unpacked before.
func kernelDir(t *testing.T, kernels string) (string, error) {
	pkg, err := kernelPackage(t)
	if err == nil {
		dir := filepath.Join(kernels, pkg)
		if _, there := os.Stat(dir); there == nil {
			return dir, nil
		}
		if err = unpackKernel(t, pkg, dir); err == nil {
			return dir, nil
		}
	}
	if old, _ := filepath.Glob(filepath.Join(kernels, "linux-image-*")); len(old) > 0 {
		t.Log("an older kernel is used: ", err)
		return old[len(old)-1], nil
	}
	return "", err
}

// kernelPackage is what linux-image-cloud-amd64 depends on, such as linux-image-6.1.0-40-cloud-amd64.
func kernelPackage(t *testing.T) (string, error) {
	out, err := exec.CommandContext(t.Context(), "apt-cache", "depends", "--important", "linux-image-cloud-amd64").Output()
	if err != nil {
		return "", fmt.Errorf("ask apt for linux-image-cloud-amd64: %w", err)
	}
	for line := range strings.Lines(string(out)) {
		if _, name, ok := strings.Cut(strings.TrimSpace(line), "Depends: "); ok && strings.HasPrefix(name, "linux-image-") {
			return name, nil
		}
	}
	return "", errors.New("apt knows no linux-image-cloud-amd64: apt-get update")
}

func unpackKernel(t *testing.T, pkg, dir string) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), "tmp-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp) // nothing when it was renamed
	t.Log("fetching ", pkg)
	get := exec.CommandContext(t.Context(), "apt-get", "download", "-o", "APT::Sandbox::User=root", pkg)
	get.Dir = tmp
	if out, err := get.CombinedOutput(); err != nil {
		return fmt.Errorf("apt-get download: %w: %s", err, out)
	}
	debs, _ := filepath.Glob(filepath.Join(tmp, "*.deb"))
	if len(debs) != 1 {
		return fmt.Errorf("apt-get download left %d packages", len(debs))
	}
	if out, err := exec.CommandContext(t.Context(), "dpkg-deb", "-x", debs[0], tmp).CombinedOutput(); err != nil {
		return fmt.Errorf("dpkg-deb: %w: %s", err, out)
	}
	if err := os.Remove(debs[0]); err != nil {
		return err
	}
	return os.Rename(tmp, dir)
}

// load returns the wanted modules' files in an order in which each finds what it needs.
func (k kernel) load(t *testing.T) []string {
	t.Helper()
	var order []string
	seen := map[string]bool{}
	var add func(name string)
	add = func(name string) {
		file, ok := k.modules[moduleName(name)]
		if !ok || seen[file] {
			return
		}
		seen[file] = true
		needs, err := k.needs(t, file)
		if err != nil {
			t.Fatalf("read module %s: %v", name, err)
		}
		for _, n := range needs {
			add(n)
		}
		order = append(order, file)
	}
	for _, name := range wanted {
		add(name)
	}
	return order
}

// needs reads the names of modules that the module in file depends on.
func (k kernel) needs(t *testing.T, file string) ([]string, error) {
	data, err := moduleData(t, file)
	if err != nil {
		return nil, err
	}
	module, err := elf.NewFile(strings.NewReader(string(data)))
	if err != nil {
		return nil, err
	}
	section := module.Section(".modinfo")
	if section == nil {
		return nil, errors.New("it has no .modinfo")
	}
	info, err := section.Data()
	if err != nil {
		return nil, err
	}
	var needs []string
	for entry := range strings.SplitSeq(string(info), "\x00") {
		for _, key := range []string{"depends=", "softdep=pre: "} {
			if list, ok := strings.CutPrefix(entry, key); ok {
				needs = append(needs, strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' })...)
			}
		}
	}
	return needs, nil
}

// moduleData is the module as the kernel loads it.
func moduleData(t *testing.T, file string) ([]byte, error) {
	if strings.HasSuffix(file, ".xz") {
		return exec.CommandContext(t.Context(), "xz", "-dc", file).Output()
	}
	return os.ReadFile(file)
}

func moduleName(s string) string { return strings.ReplaceAll(s, "-", "_") }
