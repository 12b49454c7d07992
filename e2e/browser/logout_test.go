package browser_test

import (
	"testing"
	"time"
)

// outTimeout is how long JupyterHub and notebook servers may take to learn that a login has ended: each
// believes what it knows for a minute.
const outTimeout = 150 * time.Second

// TestLogOutEverywhere ends all logins of somebody from one browser.
func TestLogOutEverywhere(t *testing.T) {
	t.Parallel()
	here, there := inLab(t, "erin"), inLab(t, "erin")
	for _, p := range []*person{here, there} {
		p.open(pool.portal + "/account")
		p.at(pool.portal + "/account") // one login for all: the hub's came from here
	}
	hubPage, notebook := there.another(), there.another()
	hubPage.open(pool.hub + "/hub/home")
	hubPage.at(pool.hub + "/hub/home")
	notebook.open(home("erin") + "/lab")
	notebook.labHere("erin")
	kernel := there.another()
	kernel.open(home("erin") + "/lab")
	kernel.labHere("erin")
	must[bool](kernel, `window.socket = new WebSocket(location.origin.replace("http", "ws") + "/user/erin/api/events/subscribe"); socket.onclose = () => { window.ended = true }; true`)
	kernel.until("a WebSocket", `socket.readyState == WebSocket.OPEN`)
	// What the notebook server says when the door asks whether a browser with a WebSocket is still logged in.
	said := func(answer string) error {
		_, err := pool.trySSH(t.Context(), "erin", `grep -q " `+answer+` GET /user/erin/api/me?" ~/.local/state/dspool/jupyter.log`)
		return err
	}
	wait(t, outTimeout, func() error { return said("200") })
	if said("403") == nil || must[bool](kernel, `!!window.ended`) {
		t.Error("a browser that is logged in was refused")
	}

	here.click(`form[action="/logout/everywhere"] button`)
	here.until("that it is done", `document.body.innerText.includes("logged out")`)
	began := time.Now()
	asked := `location.href.startsWith(` + quote(pool.portal+"/login") + `)`
	again := func(what string, b *tab, url string) {
		t.Helper()
		err := eventually(outTimeout, func() error {
			b.open(url)
			if out, err := eval[bool](b, asked); err != nil || !out {
				return errStill
			}
			return nil
		})
		if err != nil {
			t.Fatalf("%s does not ask for a login: %v", what, err)
		}
		t.Logf("%s asked for a login %.0f s after it", what, time.Since(began).Seconds())
	}
	again("the portal in this browser", here.tab, pool.portal+"/")
	again("the portal in the other browser", there.tab, pool.portal+"/")
	again("JupyterHub", hubPage, pool.hub+"/hub/home")
	again("the notebook server", notebook, home("erin")+"/lab")
	kernel.within(outTimeout, "the end of the WebSocket", `window.ended`)
	if err := said("403"); err != nil {
		t.Error("the notebook server was not asked: ", err)
	}
	t.Logf("a WebSocket was seen to have ended %.0f s after it", time.Since(began).Seconds())
	if app, err := pool.app("erin"); err != nil || app.State != "running" {
		t.Errorf("after the logout the notebook server is %+v (%v)", app, err)
	}
}
