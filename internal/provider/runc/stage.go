package runc

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"

	"github.com/dspool/dspool"
	"golang.org/x/sys/unix"
)

// A stage is where one machine's root file system is put together: the same empty
// directories for all machines, each with a mount namespace of its own.
type stage struct{ dir string }

func stageOf(cfg Config) stage { return stage{filepath.Join(cfg.HostDir, "stage")} }

func (s stage) image() string { return filepath.Join(s.dir, "image") } // lower layer: the id-mapped image
func (s stage) disk() string  { return filepath.Join(s.dir, "disk") }  // holds the upper layer
func (s stage) root() string  { return filepath.Join(s.dir, "root") }  // the overlay
func (s stage) run() string   { return filepath.Join(s.dir, "run") }   // the machine's /run
func (s stage) dev() string   { return filepath.Join(s.dir, "dev") }   // nodes of the machine's own
func (s stage) cover() string { return filepath.Join(s.dir, "cover") } // holds the empty directories, see mountCovers

// makeStage makes the empty directories. Machines' roots pass through them.
func makeStage(hostDir string) error {
	s := stageOf(Config{HostDir: hostDir})
	for _, dir := range []string{hostDir, s.dir, s.image(), s.disk(), s.root(), s.run(), s.dev(), s.cover()} {
		if err := errors.Join(os.MkdirAll(dir, 0o711), os.Chmod(dir, 0o711)); err != nil { // whatever our umask
			return fmt.Errorf("make host directory: %w", err)
		}
	}
	if real, err := filepath.EvalSymlinks(hostDir); err != nil || real != hostDir {
		return dspool.Errorf(dspool.Invalid, "host directory %s must not be reached through a link", dspool.Quote(hostDir))
	}
	return nil
}

// inMountNamespace runs fn on a thread with a mount namespace of its own, which goes
// when fn returns, but for what processes started by fn hold on to. fn starts no goroutine
// that touches files.
func inMountNamespace(fn func() error) error {
	var err error
	done := make(chan struct{})
	var onThread func()
	onThread = func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if unix.Gettid() == unix.Getpid() {
			// The first thread cannot end; hold it so that the next try gets another.
			go onThread()
			<-done
			runtime.UnlockOSThread()
			return
		}
		defer close(done)
		if err = unix.Unshare(unix.CLONE_NEWNS); err != nil {
			err = fmt.Errorf("make mount namespace: %w", err)
			return
		}
		// What the host mounts later appears below shares; what we mount stays ours.
		if err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
			err = fmt.Errorf("make mount namespace: %w", err)
			return
		}
		err = fn()
	}
	go onThread()
	<-done
	return err
}

// userNamespace is a machine's user namespace, kept until runc has joined it.
type userNamespace struct {
	cmd  *exec.Cmd
	hold io.Closer
}

func (u *userNamespace) path() string {
	return filepath.Join("/proc", strconv.Itoa(u.cmd.Process.Pid), "ns/user")
}

func (u *userNamespace) close() {
	u.hold.Close()
	_ = u.cmd.Wait()
}

// newUserNamespace makes the machine's user namespace. The machine's root owns it, so
// that the kernel counts its inotify instances and the like against the machine and
// not all machines' together against the host's root. One user gets at most a quarter of the
// machine's inotify instances, so that the next one still finds some. It is called on a locked thread.
func newUserNamespace(private int, users dspool.UIDRange) (*userNamespace, error) {
	cmd := exec.Command("/bin/sh", "-c", `cd /proc/sys/user && echo 0 >max_user_namespaces && echo $(($(cat ../fs/inotify/max_user_instances) / 4)) >max_inotify_instances && echo ready && read wait`)
	ids := idMap(private, users)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER,
		UidMappings: ids, GidMappings: ids, GidMappingsEnableSetgroups: true,
		Credential: &syscall.Credential{},
		Pdeathsig:  unix.SIGKILL,
	}
	hold, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := asOwner(private, cmd.Start); err != nil {
		return nil, fmt.Errorf("make user namespace: %w", err)
	}
	u := &userNamespace{cmd, hold}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		u.close()
		return nil, fmt.Errorf("set limits of user namespace: %w", errors.Join(err, errors.New(line)))
	}
	return u, nil
}

// asOwner calls fn with the thread's effective user id changed and its capabilities kept.
func asOwner(uid int, fn func() error) error {
	const secbitNoSetuidFixup = 1 << 2
	bits, err := unix.PrctlRetInt(unix.PR_GET_SECUREBITS, 0, 0, 0, 0)
	if err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_SECUREBITS, uintptr(bits|secbitNoSetuidFixup), 0, 0, 0); err != nil {
		return err
	}
	keep := ^uintptr(0)
	// The raw call changes this thread alone.
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, keep, uintptr(uid), keep); errno != 0 {
		return errno
	}
	err = fn()
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, keep, 0, keep); errno != 0 {
		return errors.Join(err, errno)
	}
	return errors.Join(err, unix.Prctl(unix.PR_SET_SECUREBITS, uintptr(bits), 0, 0, 0))
}

// mountImage mounts the image read-only with the machine's ids.
func (s stage) mountImage(image string, users *userNamespace) error {
	ns, err := os.Open(users.path())
	if err != nil {
		return fmt.Errorf("open user namespace: %w", err)
	}
	defer ns.Close()
	tree, err := unix.OpenTree(unix.AT_FDCWD, image, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fmt.Errorf("open image %s: %w", image, err)
	}
	defer unix.Close(tree)
	err = unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &unix.MountAttr{
		Attr_set:  unix.MOUNT_ATTR_IDMAP | unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NODEV,
		Userns_fd: uint64(ns.Fd()),
	})
	if err != nil {
		return fmt.Errorf("map ids of image %s (its file system must support id-mapped mounts, as ext4, xfs and btrfs do): %w", image, err)
	}
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, s.image(), unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount image: %w", err)
	}
	return nil
}

// mountRoot mounts the overlay; its writable layer is in s.disk, where something is mounted already.
func (s stage) mountRoot(private int) error {
	upper, work := filepath.Join(s.disk(), "upper"), filepath.Join(s.disk(), "work")
	for _, dir := range []string{upper, work} {
		if err := errors.Join(os.Mkdir(dir, 0o755), os.Chmod(dir, 0o755), os.Chown(dir, private, private)); err != nil {
			return fmt.Errorf("make writable layer: %w", err)
		}
	}
	// volatile: a machine does not outlive its host, so nothing it writes needs to reach the disk.
	options := "lowerdir=" + s.image() + ",upperdir=" + upper + ",workdir=" + work + ",volatile"
	if err := unix.Mount("overlay", s.root(), "overlay", unix.MS_NODEV, options); err != nil {
		return fmt.Errorf("mount overlay: %w", err)
	}
	return nil
}

// mountRun makes the machine's /run with what it finds there at its start, and its own
// device nodes. It returns the file that init's output goes to.
func (s stage) mountRun(private int, memory int64, boot []byte) (log *os.File, err error) {
	owner := fmt.Sprintf("mode=0755,uid=%d,gid=%d", private, private)
	if err := unix.Mount("tmpfs", s.run(), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, fmt.Sprintf("%s,size=%d", owner, max(memory/4, 4<<20))); err != nil {
		return nil, fmt.Errorf("mount /run: %w", err)
	}
	for dir, mode := range map[string]os.FileMode{"dspool": 0o755, "sshd": 0o755, "lock": 0o1777 | os.ModeSticky} {
		dir = filepath.Join(s.run(), dir)
		if err := errors.Join(os.Mkdir(dir, 0o755), os.Chmod(dir, mode), os.Chown(dir, private, private)); err != nil {
			return nil, fmt.Errorf("fill /run: %w", err)
		}
	}
	for file, content := range map[string][]byte{"dspool/boot.json": boot, "dspool/dspool": nil, "dspool/init.log": nil} {
		file = filepath.Join(s.run(), file)
		if err := errors.Join(os.WriteFile(file, content, 0o600), os.Chown(file, private, private)); err != nil {
			return nil, fmt.Errorf("fill /run: %w", err)
		}
	}
	if err := unix.Mount("tmpfs", s.dev(), "tmpfs", unix.MS_NOSUID|unix.MS_NOEXEC, "mode=0755,size=64k"); err != nil {
		return nil, fmt.Errorf("mount device nodes: %w", err)
	}
	// The host's own node is most often not for everybody.
	fuse := filepath.Join(s.dev(), "fuse")
	if err := unix.Mknod(fuse, unix.S_IFCHR|0o666, int(unix.Mkdev(10, 229))); err != nil {
		return nil, fmt.Errorf("make /dev/fuse: %w", err)
	}
	if err := os.Chmod(fuse, 0o666); err != nil {
		return nil, fmt.Errorf("make /dev/fuse: %w", err)
	}
	return os.OpenFile(filepath.Join(s.run(), "dspool/init.log"), os.O_WRONLY|os.O_APPEND, 0)
}

// writeEtc gives the root file system in dir its name and resolver. Links of the image are replaced, never followed.
func writeEtc(dir string, private int, files map[string]string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for name, content := range files {
		if err := root.Remove("etc/" + name); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("write /etc/%s: %w", name, err)
		}
		err := errors.Join(root.WriteFile("etc/"+name, []byte(content), 0o644), root.Chmod("etc/"+name, 0o644), root.Lchown("etc/"+name, private, private))
		if err != nil {
			return fmt.Errorf("write /etc/%s: %w", name, err)
		}
	}
	return nil
}

// bindDirectory mounts dir at the stage's disk, where there is no loop device to limit its size.
func (s stage) bindDirectory(dir string) error {
	if err := unix.Mount(dir, s.disk(), "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount writable layer: %w", err)
	}
	return unix.Mount("", s.disk(), "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_NODEV|unix.MS_NOSUID, "")
}
