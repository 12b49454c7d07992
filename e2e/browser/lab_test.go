package browser_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// train fits a classifier to the digits data set and shows what it makes of some.
const train = `from sklearn import datasets, svm
import matplotlib.pyplot as plt
digits = datasets.load_digits()
half = len(digits.data) // 2
model = svm.SVC(gamma=0.001).fit(digits.data[:half], digits.target[:half])
said = model.predict(digits.data[half:])
print(f"right: {(said == digits.target[half:]).mean():.1%}")
figure, axes = plt.subplots(1, 6, figsize=(9, 2))
for a, i, n in zip(axes, digits.images[half:], said): a.imshow(i, cmap="gray_r"); a.set_title(f"a {n}"); a.axis("off")`

// TestFromZero is the day of somebody who comes for the first time, to a pool without a machine for people.
func TestFromZero(t *testing.T) {
	zero(t)
	p := visitor(t, "ada")
	began := time.Now()
	lap := func(what string) { t.Logf("%6.2f s  %s", time.Since(began).Seconds(), what) }

	p.claim("the bare address leads to the portal's form", func(t *testing.T) {
		p.open("http://" + pool.web)
		p.until("the portal's form", `location.href.startsWith(`+quote(pool.portal+"/login")+`) && document.readyState == "complete"`)
		p.shot("login", desk)
		p.shot("login-phone", phone)
		lap("form")
	})

	p.claim("JupyterHub's progress page shows what happens", func(t *testing.T) {
		began = time.Now()
		p.logIn("ada")
		p.at(pool.hub + "/hub/spawn-pending/ada")
		lap("progress page after the login")
		// What the page shows is gone when the notebook comes: it is kept as it appears.
		var steps []string
		pictured := false
		err := eventually(labTimeout, func() error {
			now, err := eval[[]string](p.tab, `location.pathname.includes("/spawn-pending/") ? [...document.querySelectorAll(".progress-log-event")].map(e => e.textContent.trim()) : null`)
			for _, step := range now[min(len(steps), len(now)):] {
				lap(step)
				steps = append(steps, step)
			}
			if !pictured && len(steps) >= 5 {
				must[bool](p.tab, `document.querySelector("#progress-details").open = true`)
				p.shot("hub-progress", desk)
				pictured = true
			}
			if err == nil && now == nil {
				return nil
			}
			return errStill
		})
		if err != nil {
			t.Fatal("the start does not end: ", err)
		}
		all := strings.Join(steps, "\n")
		for _, want := range []string{"requested", "created", "starting", "Preparing", "Starting"} { // the last step may be gone with the page
			if !strings.Contains(all, want) {
				t.Errorf("no step says %q:\n%s", want, all)
			}
		}
		if slices.ContainsFunc(steps, func(s string) bool { return strings.Contains(strings.ToLower(s), "fail") }) {
			t.Errorf("a step says that something failed:\n%s", all)
		}
		if !pictured {
			t.Log("the start was too quick for a picture")
		}
	})

	p.claim("JupyterLab opens at an origin of the user's own", func(t *testing.T) {
		p.labHere("ada")
		lap("lab page")
	})

	p.claim("a cell trains on the digits data set and shows a plot", func(t *testing.T) {
		p.open(home("ada") + "/lab/tree/notebooks/remote")
		p.labHere("ada")
		p.notebook()
		p.cell(train)
		p.outputs("right: 9")
		p.within(cellTimeout, "a plot", `[...document.querySelectorAll(".jp-RenderedImage img")].some(i => i.src.startsWith("data:image/png") && i.naturalWidth > 300)`)
		p.save("digits.ipynb")
		if must[bool](p.tab, `!!document.querySelector(".Toastify__toast")`) {
			t.Error("JupyterLab asks something that nobody wants to know")
		}
		must[chromedp.Void](p.tab, `document.querySelectorAll(".cm-scroller").forEach(e => { e.scrollLeft = 0 })`)
		p.shot("jupyterlab", desk)
	})

	p.claim("the notebook is seen over SSH, with what it showed", func(t *testing.T) {
		if got := pool.ssh(t, "ada", `grep -c "image/png" notebooks/remote/digits.ipynb`); strings.TrimSpace(got) != "1" {
			t.Errorf("notebooks/remote/digits.ipynb has %q pictures over SSH", got)
		}
	})

	p.claim("SSH and JupyterLab are one session on one machine", func(t *testing.T) {
		machine := machineOf(t, "ada")
		p.cell(`import socket; print("this is", socket.gethostname())`)
		p.outputs("this is " + machine)
		if got := strings.TrimSpace(pool.ssh(t, "ada", "hostname")); got != machine {
			t.Errorf("over SSH the machine is %q, in the notebook %q", got, machine)
		}
		machineOf(t, "ada") // still one session
	})

	p.claim("a terminal runs in JupyterLab", func(t *testing.T) {
		p.open(home("ada") + "/lab?reset")
		p.labHere("ada")
		p.click(`.jp-LauncherCard[title="Start a new terminal session"]`)
		p.until("a terminal", `document.querySelector(".jp-Terminal .xterm-helper-textarea")`)
		must[chromedp.Void](p.tab, `document.querySelector(".jp-Terminal .xterm-helper-textarea").focus()`)
		p.typed("id -un >who.txt; expr 6 '*' 7 >>who.txt")
		p.keys(kb.Enter)
		wait(t, pageTimeout, func() error {
			got, err := pool.trySSH(t.Context(), "ada", "cat who.txt")
			if err == nil && got != "ada\n42\n" {
				return errStill
			}
			return err
		})
	})
}
