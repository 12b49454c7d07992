package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"syscall"
)

// pid1 is the first process of a peer's namespaces. bash stays there because it reaps what
// others leave behind, as Slurm's step daemons do.
const pid1 = `mount --make-rprivate / && mount -t proc proc /proc || exit 1; "$@"; exit $?`

// outside runs this program again as `bench verb` in mount and pid namespaces of its own, with
// flags for more, and decodes what it answers. Whatever happens to it or to this process, its
// processes and mounts end with it.
func outside[In, Out any](ctx context.Context, verb string, flags uintptr, in In) (out Out, err error) {
	self, err := os.Executable()
	if err != nil {
		return out, err
	}
	args, err := json.Marshal(in)
	if err != nil {
		return out, err
	}
	var answer bytes.Buffer
	cmd := exec.CommandContext(ctx, "/bin/bash", "-c", pid1, "bench", self, verb, string(args))
	cmd.Stdout, cmd.Stderr = &answer, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | flags,
		Pdeathsig:  syscall.SIGKILL,
	}
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return out, ctx.Err()
		}
		return out, fmt.Errorf("%s: %w", verb, err)
	}
	return out, json.Unmarshal(answer.Bytes(), &out)
}

// inNamespaces is the other side of outside; it does not return.
func inNamespaces[In, Out any](work func(context.Context, In) (Out, error), args string) {
	err := func() error {
		var in In
		if err := json.Unmarshal([]byte(args), &in); err != nil {
			return err
		}
		out, err := work(context.Background(), in)
		if err != nil {
			return err
		}
		return json.NewEncoder(os.Stdout).Encode(out)
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}
