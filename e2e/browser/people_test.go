package browser_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/dspool/dspool"
)

// labTimeout is how long the way from a click to JupyterLab may take, a machine's birth included.
const labTimeout = 2 * time.Minute

// cellTimeout is how long a cell may run, on a shared core.
const cellTimeout = 90 * time.Second

// logIn fills the portal's form, which must be there or come.
func (b *tab) logIn(user string) {
	b.t.Helper()
	b.until("the portal's form", `location.href.startsWith(`+quote(pool.portal+"/login")+`) && document.readyState == "complete"`)
	b.fill(`input[name=user]`, user)
	b.fill(`input[name=password]`, password)
	b.click(`main form button`)
}

// home is where a user's notebook server is.
func home(user string) string {
	return strings.Replace(pool.hub, "//hub.", "//"+user+".hub.", 1) + "/user/" + user
}

// labHere waits until JupyterLab is ready for its user.
func (b *tab) labHere(user string) {
	b.t.Helper()
	b.within(labTimeout, "JupyterLab of "+user, `location.href.startsWith(`+quote(home(user)+"/lab")+`) && document.querySelector("#jp-main-dock-panel") && !document.querySelector("#jupyterlab-splash")`)
}

// inLab opens JupyterLab of somebody who was nowhere, in one go.
func inLab(t *testing.T, user string) *person {
	t.Helper()
	p := visitor(t, user)
	p.open(pool.hub)
	p.logIn(user)
	p.labHere(user)
	return p
}

// idle says that the kernel of the notebook in front waits for something to do.
const idle = `[...document.querySelectorAll("#jp-main-statusbar *, #jp-bottom-panel *")].some(e => /^Python 3 \(ipykernel\) \| Idle$/.test(e.textContent.trim()))`

// notebook opens a new notebook from the launcher and waits for its kernel.
func (b *tab) notebook() {
	b.t.Helper()
	b.click(`.jp-LauncherCard[data-category="Notebook"]`)
	b.kernel()
}

// kernel waits until the notebook in front has a kernel with nothing to do.
func (b *tab) kernel() {
	b.t.Helper()
	b.until("a notebook", `document.querySelector(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Cell")`)
	b.until("a kernel", idle)
}

// cell writes code into the last cell and runs it.
func (b *tab) cell(code string) {
	b.t.Helper()
	before := must[int](b, `document.querySelectorAll(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-CodeCell").length`)
	must[chromedp.Void](b, `(() => { const all = document.querySelectorAll(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-CodeCell .cm-content"); all[all.length - 1].focus() })()`)
	b.typed(code)
	b.keys(kb.Enter, kb.ModifierShift)
	b.until("a cell after the one that runs", fmt.Sprintf(`document.querySelectorAll(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-CodeCell").length > %d`, before))
}

// save saves the notebook under a name, as the first Ctrl+S asks for one.
func (b *tab) save(name string) {
	b.t.Helper()
	b.keys("s", kb.ModifierCtrl)
	b.until("the question for a name", `document.querySelector(".jp-Dialog input")`)
	must[chromedp.Void](b, `document.querySelector(".jp-Dialog input").select()`)
	b.typed(name)
	b.click(`.jp-Dialog .jp-mod-accept`)
	// A list of the folder that is made in the moment of renaming misses a file, and JupyterLab says so.
	b.until("the notebook is saved", `(() => {
		const missed = document.querySelector(".jp-Dialog");
		if (missed?.innerText.includes("Directory not found")) missed.querySelector("button").click();
		return !missed && !document.querySelector(".lm-TabBar-tab.jp-mod-dirty") && document.title.includes(`+quote(name[:8])+`)
	})()`)
}

// outputs waits until the notebook shows a text as output.
func (b *tab) outputs(text string) {
	b.t.Helper()
	b.within(cellTimeout, "output "+text, `[...document.querySelectorAll(".jp-OutputArea-output")].some(o => o.innerText.includes(`+quote(text)+`))`)
}

// machineOf is the machine of somebody's only session.
func machineOf(t *testing.T, user string) string {
	t.Helper()
	all := pool.sessions(t, user)
	if len(all) != 1 || all[0].Machine == "" {
		t.Fatalf("%s has not one session on one machine: %+v", user, all)
	}
	return all[0].Machine
}

// endSession ends a user's session, and with it what runs there.
func endSession(t *testing.T, user string) {
	t.Helper()
	for _, s := range pool.sessions(t, user) {
		pool.dspool(t, "session", "close", fmt.Sprint(s.ID), "--yes")
	}
}

// claim is a subtest in which a person goes on where the last one ended; without it later ones say nothing.
func (p *person) claim(what string, fn func(t *testing.T)) {
	p.t.Helper()
	whole := p.t
	ok := whole.Run(what, func(t *testing.T) {
		for _, b := range p.tabs {
			b.t = t
		}
		defer func() {
			for _, b := range p.tabs {
				b.t = whole
			}
		}()
		fn(t)
	})
	if !ok {
		whole.FailNow()
	}
}

// keysSave saves the notebook once it has a name.
func (b *tab) keysSave() {
	b.t.Helper()
	b.keys("s", kb.ModifierCtrl)
	b.until("the notebook is saved", `!document.querySelector(".lm-TabBar-tab.jp-mod-dirty")`)
}

// errStill says that something is not there yet.
var errStill = errors.New("not yet as wanted")

// zero ends everything of the people in the lab and removes its machines.
func zero(t *testing.T) {
	t.Helper()
	var machines []dspool.Machine
	if err := pool.list(&machines, "machine", "list"); err != nil {
		t.Fatal(err)
	}
	for _, m := range machines {
		if m.Pool == "lab" {
			pool.dspool(t, "machine", "remove", m.Name, "--force")
		}
	}
}

// reopened shows the page that was open anew, as JupyterLab restores it.
func (b *tab) reopened(user, notebook string) {
	b.t.Helper()
	b.open(home(user) + "/lab/tree/" + notebook)
	b.labHere(user)
	b.kernel()
}
