package runc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// A machine's disk is a sparse file with an ext4 file system of its size, copied from
// a template made once per size: making one takes a second, copying it milliseconds.
// It has no journal: it never outlives the machine that wrote it.
const minDisk = 16 << 20

var templateMu sync.Mutex

// template returns the path of an empty file system of size bytes.
func template(ctx context.Context, cfg Config, size int64) (string, error) {
	file := filepath.Join(disksDir(cfg), "ext4-"+strconv.FormatInt(size, 10))
	templateMu.Lock()
	defer templateMu.Unlock()
	if _, err := os.Stat(file); err == nil {
		return file, nil
	}
	draft := file + ".new"
	if err := os.WriteFile(draft, nil, 0o600); err != nil {
		return "", err
	}
	if err := os.Truncate(draft, size); err != nil {
		return "", err
	}
	program, err := mkfs()
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, program, "-q", "-F", "-m", "0", "-O", "^has_journal,^resize_inode,sparse_super2",
		"-E", "lazy_itable_init=1,nodiscard", draft)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("make file system of %d bytes: %w: %s", size, err, firstLine(out))
	}
	return file, os.Rename(draft, file)
}

// mkfs finds the program, which lies outside the PATH of many a service.
func mkfs() (string, error) {
	for _, name := range []string{"mkfs.ext4", "/usr/sbin/mkfs.ext4", "/sbin/mkfs.ext4"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", errors.New("mkfs.ext4 is missing")
}

// makeDisk makes the machine's disk file.
func makeDisk(ctx context.Context, cfg Config, name string, size int64) error {
	from, err := template(ctx, cfg, max(size, minDisk)&^4095)
	if err != nil {
		return err
	}
	return copySparse(from, diskFile(cfg, name))
}

func diskFile(cfg Config, name string) string { return filepath.Join(machineDir(cfg, name), "disk") }

// copySparse copies a file without its holes.
func copySparse(from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	info, err := src.Stat()
	if err != nil {
		return err
	}
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer dst.Close()
	if err := dst.Truncate(info.Size()); err != nil {
		return err
	}
	for at := int64(0); ; {
		data, err := unix.Seek(int(src.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return dst.Close()
		}
		if err != nil {
			return err
		}
		hole, err := unix.Seek(int(src.Fd()), data, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		if _, err := dst.Seek(data, io.SeekStart); err != nil {
			return err
		}
		if _, err := io.Copy(dst, io.NewSectionReader(src, data, hole-data)); err != nil {
			return err
		}
		at = hole
	}
}

// mountDisk mounts the file system in file at target through a loop device that
// vanishes with the mount, or with this process before it.
func mountDisk(file, target string) error {
	disk, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer disk.Close()
	loop, err := attachLoop(disk)
	if err != nil {
		return err
	}
	defer loop.Close()
	// noinit_itable: the kernel would fill the sparse file with empty inodes.
	err = unix.Mount(loop.Name(), target, "ext4", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOATIME, "noinit_itable,discard")
	if err != nil {
		return fmt.Errorf("mount disk: %w", err)
	}
	return nil
}

func attachLoop(disk *os.File) (*os.File, error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("no loop devices: %w", err)
	}
	defer control.Close()
	config := unix.LoopConfig{Fd: uint32(disk.Fd())}
	config.Info.Flags = unix.LO_FLAGS_AUTOCLEAR
	// Another process may take the free one first.
	for range 1000 {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("get a loop device: %w", err)
		}
		loop, err := os.OpenFile("/dev/loop"+strconv.Itoa(n), os.O_RDWR, 0)
		if err != nil {
			return nil, fmt.Errorf("open loop device: %w", err)
		}
		err = unix.IoctlLoopConfigure(int(loop.Fd()), &config)
		if err == nil {
			return loop, nil
		}
		loop.Close()
		if !errors.Is(err, unix.EBUSY) {
			return nil, fmt.Errorf("set up loop device: %w", err)
		}
	}
	return nil, errors.New("get a loop device: others always took it first")
}
