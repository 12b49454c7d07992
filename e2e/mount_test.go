package e2e_test

import (
	"os"
	"os/exec"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

func cmdMount(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 2, "mount NAME SIZE")
	dir := ts.MkAbs(args[0])
	image := dir + ".img"
	ts.Check(os.Mkdir(dir, 0o755))
	for _, cmd := range [][]string{
		{"truncate", "-s", args[1], image},
		{"mkfs.ext4", "-q", "-m", "0", image},
		{"mount", "-o", "loop", image, dir},
	} {
		if out, err := exec.Command(cmd[0], cmd[1:]...).CombinedOutput(); err != nil {
			ts.Fatalf("%v: %v\n%s", cmd, err, out)
		}
	}
	ts.Defer(func() { ts.Check(unix.Unmount(dir, unix.MNT_DETACH)) })
}
