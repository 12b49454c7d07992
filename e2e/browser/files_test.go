package browser_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/dom"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"

	"github.com/dspool/dspool/internal/gateway"
)

const (
	bigFile = 1 << 30
	// bigTimeout is how long it may take one way; the browser itself turns it into base64 in pieces of 1 MiB.
	bigTimeout = 5 * time.Minute
	// flat is how much more memory the door and the server may hold at the peak, in bytes: much less than the file.
	flat = 128 << 20
)

// TestGigabyte carries a large file both ways as JupyterLab's file browser does.
func TestGigabyte(t *testing.T) {
	t.Parallel()
	file, sum := makeFile(t, "big.bin", bigFile)
	p := inLab(t, "ivan")
	dir := p.downloads()
	g, err := gateway.ReadStatus(t.Context(), pool.state)
	if err != nil {
		t.Fatal(err)
	}
	processes := map[string]int{"gateway": g.PID, "server": pool.cmd.Process.Pid}
	before := map[string]int{}
	for name, pid := range processes {
		resetPeak(t, pid)
		before[name] = peak(t, pid)
	}

	p.claim("a file of 1 GiB is uploaded", func(t *testing.T) {
		began := time.Now()
		p.choose(`jp-button[data-command="filebrowser:upload"], [data-jp-item-name="upload"] jp-button, button[title="Upload Files"], jp-button[title="Upload Files"]`, file)
		p.until("the question about its size", `document.querySelector(".jp-Dialog .jp-mod-accept")`)
		p.click(`.jp-Dialog .jp-mod-accept`)
		err := eventually(bigTimeout, func() error {
			got, err := pool.trySSH(t.Context(), "ivan", "stat -c %s big.bin")
			if err == nil && strings.TrimSpace(got) != strconv.Itoa(bigFile) {
				return errStill
			}
			return err
		})
		if err != nil {
			t.Fatal("the upload does not end: ", err)
		}
		t.Logf("uploaded in %.1f s", time.Since(began).Seconds())
		if got := strings.Fields(pool.ssh(t, "ivan", "sha256sum big.bin"))[0]; got != sum {
			t.Errorf("over SSH its sum is %s, not %s", got, sum)
		}
	})

	p.claim("it is downloaded", func(t *testing.T) {
		began := time.Now()
		p.until("the file in the list", `document.querySelector('.jp-DirListing-item[title*="Name: big.bin"]')`)
		p.menu(`.jp-DirListing-item[title*="Name: big.bin"]`, "filebrowser:download")
		got := filepath.Join(dir, "big.bin")
		err := eventually(bigTimeout, func() error {
			if info, err := os.Stat(got); err != nil || info.Size() != bigFile {
				return errStill
			}
			return nil
		})
		if err != nil {
			left, _ := os.ReadDir(dir)
			t.Fatalf("the download does not end: %v (%v)", err, left)
		}
		t.Logf("downloaded in %.1f s", time.Since(began).Seconds())
		if got := sumOf(t, got); got != sum {
			t.Errorf("its sum is %s, not %s", got, sum)
		}
	})

	p.claim("the door and the server hold no more memory for it", func(t *testing.T) {
		for name, pid := range processes {
			after := peak(t, pid)
			t.Logf("the %s held %d MiB before and %d MiB at most", name, before[name]>>20, after>>20)
			if after-before[name] > flat {
				t.Errorf("the %s grew from %d to %d MiB", name, before[name]>>20, after>>20)
			}
		}
	})
}

// makeFile writes bytes that no piece of repeats.
func makeFile(t *testing.T, name string, size int64) (file, sum string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), name)
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.CopyN(io.MultiWriter(f, h), rand.NewChaCha8([32]byte{}), size); err != nil {
		t.Fatal(err)
	}
	return file, hex.EncodeToString(h.Sum(nil))
}

func sumOf(t *testing.T, file string) string {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// choose clicks on a button that asks for a file, and chooses one.
func (b *tab) choose(button, file string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, pageTimeout)
	defer cancel()
	asked := chromedp.Events(ctx, page.FileChooserOpened)
	if err := call(ctx, page.SetInterceptFileChooserDialog, page.SetInterceptFileChooserDialogParams{Enabled: true}); err != nil {
		b.t.Fatal("wait for the question for a file: ", err)
	}
	b.click(button)
	for e, err := range asked {
		if err == nil {
			err = call(ctx, dom.SetFileInputFiles, dom.SetFileInputFilesParams{Files: []string{file}, BackendNodeID: e.BackendNodeID})
		}
		if err != nil {
			b.t.Fatal("choose a file: ", err)
		}
		return
	}
}

// menu picks a command of the menu that a right click on something opens.
func (b *tab) menu(selector, command string) {
	b.t.Helper()
	middle := func(selector string) (x, y float64) {
		b.until(selector, `document.querySelector(`+quote(selector)+`)?.getClientRects().length`)
		at := must[[2]float64](b, `(() => { const r = document.querySelector(`+quote(selector)+`).getBoundingClientRect(); return [r.x + Math.min(40, r.width / 2), r.y + r.height / 2] })()`)
		return at[0], at[1]
	}
	x, y := middle(selector)
	b.do("right click", chromedp.MouseClickXY(x, y, chromedp.ButtonType(input.MouseButtonRight)))
	x, y = middle(`.lm-Menu-item[data-command="` + command + `"]`)
	// A menu takes what the mouse has moved to.
	b.do("pick "+command, chromedp.MouseEvent(input.DispatchMouseEventTypeMouseMoved, x-1, y), chromedp.MouseEvent(input.DispatchMouseEventTypeMouseMoved, x, y), chromedp.MouseClickXY(x, y))
}

var peakLine = regexp.MustCompile(`VmHWM:\s+(\d+) kB`)

// peak is the most memory that a process held since resetPeak, in bytes.
func peak(t *testing.T, pid int) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	m := peakLine.FindSubmatch(status)
	if m == nil {
		t.Fatalf("the kernel does not say what process %d holds:\n%s", pid, bytes.TrimSpace(status))
	}
	kib, _ := strconv.Atoi(string(m[1]))
	return kib << 10
}

func resetPeak(t *testing.T, pid int) {
	t.Helper()
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0); err != nil {
		t.Fatal(err)
	}
}
