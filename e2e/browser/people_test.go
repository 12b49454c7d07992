package browser_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
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

// notebook opens a new notebook from the launcher and waits for its kernel.
func (b *tab) notebook() {
	b.t.Helper()
	b.click(`.jp-LauncherCard[data-category="Notebook"]`)
	b.until("a notebook", `document.querySelector(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Cell .cm-content")`)
	b.until("a kernel", `document.querySelector('.jp-NotebookPanel:not(.lm-mod-hidden) .jp-Notebook-ExecutionIndicator[data-status="idle"]')`)
}

// cell writes code into the last cell and runs it.
func (b *tab) cell(code string) {
	b.t.Helper()
	must[chromedp.Void](b, `(() => { const all = document.querySelectorAll(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Notebook .jp-CodeCell .cm-content"); all[all.length - 1].focus() })()`)
	b.typed(code)
	b.keys(kb.Enter, kb.ModifierShift)
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

// stop ends a user's notebook server and session.
func stop(t *testing.T, user string) {
	t.Helper()
	for _, s := range pool.sessions(t, user) {
		pool.dspool(t, "session", "close", fmt.Sprint(s.ID), "--yes")
	}
}
