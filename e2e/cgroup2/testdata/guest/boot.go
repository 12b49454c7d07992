package main

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Where things lie once the computer runs.
const (
	disk       = "/disk"
	imageCache = disk + "/cache"
	programs   = "/usr/local/bin"
)

// boot goes from the kernel's first root file system to a root that is a writable layer over
// the image on the disk, and becomes "first" in it.
func boot() error {
	for _, m := range [][3]string{{"devtmpfs", "/dev"}, {"proc", "/proc"}, {"sysfs", "/sys"}} {
		if err := mount(m[0], m[0], m[1], 0, ""); err != nil {
			return err
		}
	}
	if err := loadModules("/modules"); err != nil {
		return err
	}
	if err := mount("/dev/vda", "ext4", disk, unix.MS_NOATIME, ""); err != nil {
		return err
	}
	image := filepath.Join(imageCache, "images", argument("dspool.image"))
	if err := os.MkdirAll(image, 0o700); err != nil {
		return err
	}
	for _, part := range []string{"rootfs", "image.json"} {
		if err := os.Rename(filepath.Join(disk, part), filepath.Join(image, part)); err != nil {
			return err
		}
	}
	if err := mount("tmpfs", "tmpfs", "/layer", 0, "mode=755"); err != nil {
		return err
	}
	for _, dir := range []string{"/layer/upper", "/layer/work", "/root"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := mount("overlay", "overlay", "/root", 0, "lowerdir="+filepath.Join(image, "rootfs")+",upperdir=/layer/upper,workdir=/layer/work"); err != nil {
		return err
	}
	return enter("/root")
}

// enter makes root the root and starts there, with all that the programs expect.
func enter(root string) error {
	files := [][2]string{{"/guest", "/guest"}, {"/guest.yaml", "/etc/dspool/images/guest.yaml"}, {"/host_rsa", hostKey}}
	for _, program := range []string{"dspool", "runc", "runc.test", "inmate"} {
		files = append(files, [2]string{"/bin/" + program, filepath.Join(programs, program)})
	}
	for _, f := range files {
		data, err := os.ReadFile(f[0])
		if err == nil {
			err = os.MkdirAll(filepath.Dir(root+f[1]), 0o755)
		}
		if err == nil {
			err = os.WriteFile(root+f[1], data, 0o755)
		}
		if err == nil {
			err = os.Remove(f[0]) // it is memory
		}
		if err != nil {
			return err
		}
	}
	for _, m := range []string{"/dev", "/proc", "/sys", disk} {
		if err := os.MkdirAll(root+m, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m, root+m, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s: %w", m, err)
		}
	}
	if err := os.Chdir(root); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	for _, m := range [][4]string{
		{"tmpfs", "tmpfs", "/run", "mode=755"}, {"tmpfs", "tmpfs", "/tmp", "mode=1777"},
		{"devpts", "devpts", "/dev/pts", "gid=5,mode=620"}, {"tmpfs", "tmpfs", "/dev/shm", "mode=1777"},
		{"cgroup2", "cgroup2", groupRoot, ""},
	} {
		if err := mount(m[0], m[1], m[2], 0, m[3]); err != nil {
			return err
		}
	}
	// As systemd makes it: what is mounted later shows in namespaces made before.
	if err := unix.Mount("", "/", "", unix.MS_SHARED|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("share mounts: %w", err)
	}
	environment := []string{"PATH=" + programs + ":/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8", "DSPOOL_STATE_DIR="}
	return unix.Exec("/guest", []string{"/guest", "first"}, environment)
}

func mount(source, kind, target string, flags uintptr, options string) error {
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(source, target, kind, flags, options); err != nil {
		return fmt.Errorf("mount %s: %w", target, err)
	}
	return nil
}

// loadModules loads the files in dir in their names' order.
func loadModules(dir string) error {
	files, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, f := range files {
		data, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			return err
		}
		if err := unix.InitModule(data, ""); err != nil {
			return fmt.Errorf("load module %s: %w", f.Name(), err)
		}
	}
	return os.RemoveAll(dir)
}
