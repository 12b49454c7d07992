// Inmate is what runs in the machines of the provider's tests: as PID 1, and as the
// attacker. Every action prints one line; a refused system call is printed as its error.
package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
)

func main() {
	act, ok := actions[os.Args[1]]
	if !ok {
		fmt.Println("unknown action", os.Args[1])
		os.Exit(2)
	}
	if err := act(os.Args[2:]); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

var actions = map[string]func(args []string) error{
	"init": func([]string) error {
		fmt.Println("inmate is up")
		children := make(chan os.Signal, 16)
		signal.Notify(children, syscall.SIGCHLD)
		for range children {
			for {
				if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); pid <= 0 || err != nil {
					break
				}
			}
		}
		return nil
	},
	"die":   func([]string) error { fmt.Println("no \x1b[31mhope"); os.Exit(3); return nil },
	"nproc": func([]string) error { fmt.Println(runtime.NumCPU()); return nil },
	"ids":   func([]string) error { fmt.Println(os.Getuid(), os.Geteuid(), os.Getpid()); return nil },
	"touch": func(a []string) error { return os.WriteFile(a[0], []byte("x"), 0o644) },
	"read": func(a []string) error {
		data, err := os.ReadFile(a[0])
		fmt.Print(string(data))
		return err
	},
	"remove": func(a []string) error { return os.Remove(a[0]) },
	"setuid": func(a []string) error { // copies this program to a setuid file
		data, err := os.ReadFile("/proc/self/exe")
		if err != nil {
			return err
		}
		if err := os.WriteFile(a[0], data, 0o755); err != nil {
			return err
		}
		return syscall.Chmod(a[0], 0o4755)
	},
	"run": func(a []string) error {
		out, err := exec.Command(a[0], a[1:]...).CombinedOutput()
		fmt.Print(string(out))
		return err
	},
	"ping": func(a []string) error { // as ping does where it has no rights
		c, err := icmp.ListenPacket("udp4", "")
		if err != nil {
			return err
		}
		defer c.Close()
		echo := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{Seq: 1, Data: []byte("ping")}}
		packet, err := echo.Marshal(nil)
		if err != nil {
			return err
		}
		if _, err := c.WriteTo(packet, &net.UDPAddr{IP: net.ParseIP(a[0])}); err != nil {
			return err
		}
		if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			return err
		}
		_, from, err := c.ReadFrom(make([]byte, 1500))
		fmt.Println("answer from", from)
		return err
	},
	"fill": func(a []string) error { // writes until it is stopped or has written so many MiB
		most, _ := strconv.Atoi(a[1])
		f, err := os.Create(a[0])
		if err != nil {
			return err
		}
		chunk := make([]byte, 1<<20)
		for n := range most {
			if _, err := f.Write(chunk); err != nil {
				fmt.Println(n)
				return err
			}
		}
		return f.Sync()
	},
	"eat": func(a []string) error {
		most, _ := strconv.Atoi(a[0])
		b := make([]byte, most<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		fmt.Println("ate", most)
		return nil
	},
	"fork": func(a []string) error { // as many processes at once
		want, _ := strconv.Atoi(a[0])
		for n := range want {
			cmd := exec.Command("/proc/self/exe", "sleep")
			cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
			if err := cmd.Start(); err != nil {
				fmt.Println("stopped before", want)
				return fmt.Errorf("%d: %w", n, err)
			}
		}
		return nil
	},
	"sleep":   func([]string) error { time.Sleep(time.Hour); return nil },
	"mount":   func(a []string) error { return syscall.Mount(a[1], a[2], a[0], 0, "") },
	"remount": func(a []string) error { return syscall.Mount("", a[0], "", syscall.MS_REMOUNT|syscall.MS_BIND, "") },
	"umount":  func(a []string) error { return syscall.Unmount(a[0], 0) },
	"unshare": func([]string) error { return syscall.Unshare(syscall.CLONE_NEWUSER) },
	"mknod": func(a []string) error {
		major, _ := strconv.Atoi(a[1])
		minor, _ := strconv.Atoi(a[2])
		if err := syscall.Mknod(a[0], syscall.S_IFBLK|0o666, major<<8|minor); err != nil {
			return err
		}
		_, err := os.Open(a[0])
		return err
	},
	"chown": func(a []string) error {
		uid, _ := strconv.Atoi(a[1])
		return os.Chown(a[0], uid, uid)
	},
	"list": func(a []string) error {
		entries, err := os.ReadDir(a[0])
		for _, e := range entries {
			fmt.Print(e.Name(), " ")
		}
		return err
	},
	"rename": func(a []string) error { return os.Rename(a[0], a[1]) },
	"link":   func(a []string) error { return os.Symlink(a[0], a[1]) },
	"mkdir":  func(a []string) error { return os.Mkdir(a[0], 0o755) },
	"write": func(a []string) error { // to a file that exists
		f, err := os.OpenFile(a[0], os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteString(a[1])
		return err
	},
	"hostname": func([]string) error { name, err := os.Hostname(); fmt.Println(name); return err },
	"devices": func([]string) error {
		entries, err := os.ReadDir("/dev")
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		fmt.Println(strings.Join(names, " "))
		return err
	},
	"listen": func(a []string) error {
		l, err := net.Listen("tcp", a[0])
		if err != nil {
			return err
		}
		fmt.Println("listening")
		for {
			c, err := l.Accept()
			if err != nil {
				return err
			}
			c.Close()
		}
	},
	"dial": func(a []string) error {
		c, err := net.DialTimeout("tcp", a[0], 2*time.Second)
		if err != nil {
			return err
		}
		fmt.Println("connected")
		return c.Close()
	},
	"freeze": func([]string) error { // itself and its children, in a group of its own
		dir := "/sys/fs/cgroup/freezer/frozen"
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		cmd := exec.Command("/proc/self/exe", "sleep")
		if err := cmd.Start(); err != nil {
			return err
		}
		if err := os.WriteFile(dir+"/cgroup.procs", []byte(strconv.Itoa(cmd.Process.Pid)), 0); err != nil {
			return err
		}
		return os.WriteFile(dir+"/freezer.state", []byte("FROZEN"), 0)
	},
	"inotify": func(a []string) error { // takes as many instances as it gets, at most so many, then says so and holds them
		most, _ := strconv.Atoi(a[0])
		got := 0
		for got < most {
			if _, err := syscall.InotifyInit(); err != nil {
				break
			}
			got++
		}
		if len(a) > 1 {
			if err := os.WriteFile(a[1], []byte(strconv.Itoa(got)), 0o644); err != nil {
				return err
			}
			select {}
		}
		fmt.Println(got)
		return nil
	},
	"group": func([]string) error { // makes a group of its own in the memory hierarchy, with a limit
		dir := "/sys/fs/cgroup/memory"
		if _, err := os.Stat(dir); err != nil {
			dir = "/sys/fs/cgroup"
		}
		if err := os.Mkdir(dir+"/task", 0o755); err != nil {
			return err
		}
		for _, limit := range []string{"memory.limit_in_bytes", "memory.max"} {
			if _, err := os.Stat(dir + "/task/" + limit); err == nil {
				if err := os.WriteFile(dir+"/task/"+limit, []byte("8388608"), 0); err != nil {
					return err
				}
			}
		}
		return os.WriteFile(dir+"/task/cgroup.procs", []byte(strconv.Itoa(os.Getpid())), 0)
	},
}
