package browser_test

import (
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// TestPortal is the day of somebody who works with terminals and jobs.
func TestPortal(t *testing.T) {
	p := visitor(t, "dave")
	p.open(pool.portal + "/")
	p.logIn("dave")
	p.at(pool.portal + "/")

	p.claim("a job appears while one looks, and its output as it is written", func(t *testing.T) {
		p.until("jobs", `document.body.innerText.includes("You have no job")`)
		// It waits for a word between two lines, so that what is shown cannot be the output of a job that is over.
		id := strings.TrimSpace(pool.dspool(t, "job", "submit", "--as", "dave", "--name", "story", "--",
			"bash", "-c", "echo once upon a time; until [ -e ~/go-on ]; do sleep 0.1; done; echo the end"))
		p.until("the job on the first page", `document.querySelector("a[href='/jobs/`+id+`']")`)
		p.open(pool.portal + "/jobs/" + id)
		p.until("the first line", `document.querySelector("pre.log").innerText.includes("once upon a time")`)
		p.until("that it runs", `document.querySelector("[data-live]").innerText.includes("running")`)
		p.shot("job", desk)
		p.shot("job-phone", phone)
		if strings.Contains(p.text(), "the end\n") {
			t.Error("the job ended before it was told to go on")
		}
		pool.ssh(t, "dave", "touch go-on")
		p.until("the last line, without a reload", `/\nthe end\n/.test(document.querySelector("pre.log").innerText + "\n")`)
		p.until("that it ended", `document.querySelector("[data-live]").innerText.includes("succeeded")`)
	})

	p.claim("a terminal opens in the browser, on a machine that is made for it", func(t *testing.T) {
		zero(t)
		p.open(pool.portal + "/terminal/open")
		began := time.Now()
		p.until("a prompt", `/[$#] ?$/m.test(`+screen+`)`)
		t.Logf("a prompt after %.2f s", time.Since(began).Seconds())
		must[chromedp.Void](p.tab, `document.querySelector(".xterm-helper-textarea").focus()`)
		p.typed("echo $((6*7)) on $(hostname); id -un")
		p.keys(kb.Enter)
		p.until("what it says", `(`+screen+`).includes(`+quote("42 on "+machineOf(t, "dave"))+`)`)
		p.shot("terminal", desk)
		p.shot("terminal-phone", phone)
		p.typed("exit")
		p.keys(kb.Enter)
		p.until("the end of the shell", `document.getElementById("said").innerText.includes("ended")`)
	})

	p.claim("the first page shows one's session", func(t *testing.T) {
		p.open(pool.portal + "/")
		p.until("the session", `document.querySelector("article[id^=session-]")?.innerText.includes(`+quote(machineOf(t, "dave"))+`)`)
		p.shot("portal", desk)
		p.shot("portal-phone", phone)
	})

	p.claim("its button opens JupyterLab without another login", func(t *testing.T) {
		p.click(`article[id^=session-] a[href*="/hub/spawn"]`)
		p.labHere("dave")
		machineOf(t, "dave")
	})
}

// screen is what a terminal of the portal shows, trailing spaces aside.
const screen = `[...document.querySelectorAll(".xterm-rows > div")].map(d => d.innerText.replace(/\u00a0/g, " ").trimEnd()).join("\n").trimEnd()`
