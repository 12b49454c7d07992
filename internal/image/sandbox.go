package image

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
)

// A sandbox runs the commands of one build, each in namespaces of its own.
type sandbox struct {
	root  string   // of the image being built
	lower string   // the parent's tree when root is an overlay; else ""
	upper string   // with lower
	work  string   // with lower
	lock  *os.File // the build's lock; see command
}

// hostScript runs a tool of the host's. The first process stays the shell, which
// reaps what the tool leaves behind; when it ends the kernel kills the rest.
const hostScript = `set -eu
umask 022
mount -t proc -o nosuid,nodev,noexec proc /proc
"$@"
exit $?`

// rootScript runs a command inside the image: $1 root, $2 to $4 overlay directories
// or nothing. The command gets no capability that reaches beyond files, so that a
// mistaken step cannot mount, load modules or set the clock of the host.
const rootScript = `set -eu
umask 022
root=$1 lower=$2 upper=$3 work=$4
shift 4
mount -t proc -o nosuid,nodev,noexec proc /proc
if [ -n "$lower" ]; then
	mount -t overlay -o "lowerdir=$lower,upperdir=$upper,workdir=$work,redirect_dir=off,metacopy=off,index=off" overlay "$root"
fi
for dir in proc dev tmp run; do
	if [ -L "$root/$dir" ] || ! [ -d "$root/$dir" ]; then echo "E: /$dir of the image is not a directory" >&2; exit 1; fi
done
mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
mount -t tmpfs -o nosuid,mode=0755 tmpfs "$root/dev"
for node in null zero full random urandom tty; do
	: >"$root/dev/$node"
	mount --bind "/dev/$node" "$root/dev/$node"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620,gid=5 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
ln -s fd/0 "$root/dev/stdin"
ln -s fd/1 "$root/dev/stdout"
ln -s fd/2 "$root/dev/stderr"
mount -t tmpfs -o nosuid,nodev,mode=1777 tmpfs "$root/dev/shm"
mount -t tmpfs -o nosuid,nodev,mode=1777 tmpfs "$root/tmp"
mount -t tmpfs -o nosuid,nodev,mode=0755 tmpfs "$root/run"
hostname image
setpriv --inh-caps=-all --bounding-set=-all,+chown,+dac_override,+dac_read_search,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap,+setfcap,+sys_chroot,+net_bind_service,+audit_write \
	chroot "$root" "$@"
exit $?`

// hostCommand runs a tool of the host's in namespaces of its own.
func (b sandbox) hostCommand(ctx context.Context, env []string, out io.Writer, args ...string) error {
	return b.command(ctx, env, nil, out, append([]string{"/bin/sh", "-c", hostScript, "image-build"}, args...))
}

// rootCommand runs a command inside the image.
func (b sandbox) rootCommand(ctx context.Context, env []string, in io.Reader, out io.Writer, args ...string) error {
	env = append([]string{"HOME=/root", "DEBIAN_FRONTEND=noninteractive"}, env...)
	return b.command(ctx, env, in, out, append([]string{"/bin/sh", "-c", rootScript, "image-build", b.root, b.lower, b.upper, b.work}, args...))
}

// command runs args as the first process of new namespaces and waits until nothing
// of it is left. When ctx ends, or this process dies, the kernel kills all of it. The
// build's lock stays taken until then, since the first process holds it too.
func (b sandbox) command(ctx context.Context, env []string, in io.Reader, out io.Writer, args []string) error {
	// A process that dies before its child has asked for its signal is not noticed by the child, which
	// therefore waits for a word first.
	hear, say, err := os.Pipe()
	if err != nil {
		return err
	}
	defer say.Close()
	defer hear.Close()
	cmd := exec.CommandContext(ctx, "/bin/sh", append([]string{"-c", `read -r word <&4 && exec 4<&- "$@"`, "image-build"}, args...)...)
	cmd.Dir = "/"
	cmd.Env = append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "LC_ALL=C.UTF-8", "TERM=dumb"}, env...)
	for _, name := range []string{"http_proxy", "https_proxy", "ftp_proxy", "no_proxy"} {
		for _, name := range []string{name, strings.ToUpper(name)} {
			if v := os.Getenv(name); v != "" {
				cmd.Env = append(cmd.Env, name+"="+v)
			}
		}
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, out
	cmd.ExtraFiles = []*os.File{b.lock, hear}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:   syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS,
		Unshareflags: syscall.CLONE_NEWNS, // Go makes its mounts private, too
		Pdeathsig:    syscall.SIGKILL,
		Setsid:       true, // no terminal: nothing may ask questions there
	}
	// The kernel sends Pdeathsig when the thread that started the child ends.
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := cmd.Start(); err != nil {
			done <- err
			return
		}
		_, err := say.WriteString("go\n")
		done <- errors.Join(cmd.Wait(), err)
	}()
	err = <-done
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
