package browser_test

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"

	"github.com/dspool/dspool"
)

// evil is an extension of a notebook server whose owner serves what she likes from her origin to whoever
// comes, without a login: nothing that a user's server says or demands counts for others.
const evil = `mkdir -p ~/evil ~/.jupyter/jupyter_server_config.d
cat >~/.jupyter/jupyter_server_config.py <<'END'
import os, sys
sys.path.insert(0, os.path.expanduser("~/evil"))
END
echo '{"ServerApp": {"jpserver_extensions": {"evil": true}}}' >~/.jupyter/jupyter_server_config.d/evil.json
cat >~/evil/evil.py <<'END'
import tornado.web
def _jupyter_server_extension_points(): return [{"module": "evil"}]
def _load_jupyter_server_extension(app):
    app.web_app.add_handlers(".*$", [(app.base_url + "evil", Page)])
class Page(tornado.web.RequestHandler):
    def prepare(self): pass
    def get(self):
        for toss in self.get_arguments("toss"): self.add_header("Set-Cookie", toss)
        if self.get_argument("to", ""): self.redirect(self.get_argument("to"))
        else: self.write("<!doctype html><title>evil</title><p>Look at these kittens.")
END
`

// ask is how a page asks its own notebook server, with the token that only this origin can read.
const ask = `(path => fetch(path, {headers: {"X-XSRFToken": document.cookie.match(/_xsrf=([^;]*)/)[1]}}).then(r => r.json()))`

// TestHostilePage has bob, who is logged in everywhere, look at a page of heidi's notebook server. Their
// servers are of one site, so that browsers send his cookies along with her page's requests: only origins protect him.
func TestHostilePage(t *testing.T) {
	pool.ssh(t, "heidi", evil)
	heidi := inLab(t, "heidi")
	bob := inLab(t, "bob")
	bob.notebook()
	kernel := must[string](bob.tab, ask+`("/user/bob/api/kernels").then(k => k[0].id)`)
	portal, hub := bob.another(), bob.another()
	portal.open(pool.portal + "/")
	portal.until("the portal", `document.body.innerText.includes("Hello bob")`)
	hub.open(pool.hub + "/hub/home")
	hub.at(pool.hub + "/hub/home")
	app, err := pool.app("bob")
	if err != nil {
		t.Fatal(err)
	}
	page := bob.another()
	page.open(home("heidi") + "/evil")
	page.until("heidi's page", `document.title == "evil"`)

	bob.claim("it reads nothing of bob's server, of JupyterHub, of the portal or of the API", func(t *testing.T) {
		for _, target := range []string{
			home("bob") + "/api/contents", home("bob") + "/lab", home("bob") + "/api/kernels/" + kernel, pool.hub + "/hub/api/user", pool.hub + "/hub/home",
			pool.portal + "/", pool.portal + "/api/v1/sessions", pool.portal + "/account", "http://" + pool.web + "/",
		} {
			for _, how := range []string{`{credentials: "include"}`, `{credentials: "include", mode: "no-cors"}`, `{credentials: "include", headers: {"X-Anything": "1"}}`} {
				got := must[string](page, `fetch(`+quote(target)+`, `+how+`).then(async r => r.type + " " + (await r.text()), e => "refused")`)
				if got != "refused" && got != "opaque " {
					t.Errorf("fetch %s with %s read %.200q", target, how, got)
				}
			}
		}
	})

	bob.claim("it changes nothing there", func(t *testing.T) {
		terminals := func() int {
			return must[int](bob.tab, ask+`("/user/bob/api/terminals").then(l => l.length)`)
		}
		files := func() string { return pool.ssh(t, "bob", "ls -A") }
		beforeTerminals, beforeFiles := terminals(), files()
		sessions := pool.sessions(t, "bob")
		for _, attack := range []struct{ method, url, body string }{
			{"POST", home("bob") + "/api/terminals", "{}"},
			{"POST", home("bob") + "/api/contents", `{"type": "notebook"}`},
			{"PUT", home("bob") + "/api/contents/evil.txt", `{"type": "file", "format": "text", "content": "x"}`},
			{"POST", home("bob") + "/api/kernels/" + kernel + "/restart", ""},
			{"DELETE", home("bob") + "/api/kernels/" + kernel, ""},
			{"POST", pool.hub + "/hub/api/users/bob/tokens", `{"note": "evil"}`},
			{"DELETE", pool.hub + "/hub/api/users/bob/server", ""},
			{"POST", pool.hub + "/hub/logout", ""},
			{"POST", pool.portal + "/logout/everywhere", ""},
			{"POST", pool.portal + "/jobs", "script=id&pool=batch"},
			{"POST", pool.portal + "/api/v1/jobs", `{"command": ["id"]}`},
			{"POST", fmt.Sprintf("%s/sessions/%d/close", pool.portal, sessions[0].ID), ""},
			{"DELETE", fmt.Sprintf("%s/api/v1/sessions/%d", pool.portal, sessions[0].ID), ""},
		} {
			// Both ways of a script, and a form whose answer goes to a frame.
			must[string](page, `(async () => {
				const url = `+quote(attack.url)+`, method = `+quote(attack.method)+`, body = `+quote(attack.body)+`;
				for (const mode of ["cors", "no-cors"]) {
					await fetch(url, {method, mode, credentials: "include", body: body || undefined}).catch(() => {});
				}
				if (method != "POST") return "";
				const frame = document.createElement("iframe"), form = document.createElement("form");
				frame.name = "sink"; document.body.append(frame);
				form.method = "post"; form.action = url; form.target = "sink"; form.enctype = "text/plain";
				const field = document.createElement("input"); field.name = body; field.value = ""; form.append(field);
				document.body.append(form);
				const done = new Promise(r => { frame.onload = r; setTimeout(r, 3000) });
				form.submit();
				await done;
				frame.remove(); form.remove();
				return "";
			})()`)
		}
		if n := terminals(); n != beforeTerminals {
			t.Errorf("bob had %d terminals and has %d", beforeTerminals, n)
		}
		if now := files(); now != beforeFiles {
			t.Errorf("bob's files were\n%sand are\n%s", beforeFiles, now)
		}
		if k := must[string](bob.tab, ask+`("/user/bob/api/kernels").then(k => k.map(k => k.id).join())`); k != kernel {
			t.Errorf("bob's kernel was %s, and now there are %q", kernel, k)
		}
		if now, err := pool.app("bob"); err != nil || now.ID != app.ID || now.State != dspool.AppRunning {
			t.Errorf("bob's server is %+v (%v)", now, err)
		}
		hub.open(pool.hub + "/hub/token")
		hub.at(pool.hub + "/hub/token")
		if text := hub.text(); strings.Contains(text, "evil") {
			t.Errorf("JupyterHub made a token:\n%s", text)
		}
		portal.open(pool.portal + "/jobs")
		portal.until("that bob has no job", `document.body.innerText.includes("There are no jobs of yours")`)
	})

	bob.claim("it opens no WebSocket to bob's kernel or to a terminal", func(t *testing.T) {
		open := func(b *tab, url string) string {
			return must[string](b, `new Promise(r => { const s = new WebSocket(`+quote(strings.Replace(url, "http:", "ws:", 1))+`); s.onopen = () => { s.close(); r("open") }; s.onclose = () => r("refused") })`)
		}
		channels := home("bob") + "/api/kernels/" + kernel + "/channels"
		if got := open(bob.tab, channels); got != "open" {
			t.Fatalf("from bob's own page the kernel's WebSocket is %s", got)
		}
		for _, target := range []string{channels, home("bob") + "/terminals/websocket/1", home("bob") + "/api/events/subscribe", pool.portal + "/terminal?pool=lab"} {
			if got := open(page, target); got != "refused" {
				t.Errorf("from heidi's page the WebSocket %s is %s", target, got)
			}
		}
		t.Run("nor with cookies of her own", func(t *testing.T) {
			if got := open(heidi.tab, channels); got != "refused" {
				t.Errorf("heidi's WebSocket to bob's kernel is %s", got)
			}
		})
	})

	bob.claim("it shows none of bob's pages in a frame and reads no window that it opens", func(t *testing.T) {
		for _, target := range []string{home("bob") + "/lab", home("bob") + "/files/", pool.hub + "/hub/home", pool.portal + "/", pool.portal + "/login"} {
			// A frame that the browser refuses becomes an opaque page of the browser's own, which counts as another origin too.
			got := must[string](page, `new Promise(r => {
				const f = document.createElement("iframe"); f.src = `+quote(target)+`;
				f.onload = () => { let what; try { what = "reads " + f.contentWindow.document.body.innerText } catch (e) { what = e.name } ; f.remove(); r(what) };
				document.body.append(f);
			})`)
			if got != "SecurityError" && !strings.HasPrefix(got, "TypeError") {
				t.Errorf("a frame of %s %s", target, got)
			}
			got = must[string](page, `new Promise(r => {
				const w = window.open(`+quote(target)+`);
				const look = (n) => { let what = ""; try { what = w.location.href } catch (e) { what = e.name }
					if ((what == "about:blank" || what == "") && n < 100) return setTimeout(look, 50, n + 1);
					try { what += " " + w.document.body.innerText.slice(0, 80) } catch (e) { what = e.name }
					w.close(); r(what) };
				look(0);
			})`)
			if got != "SecurityError" && got != "TypeError" {
				t.Errorf("a window of %s is %q", target, got)
			}
		}
		for _, own := range []string{home("bob") + "/lab", pool.hub + "/hub/home", pool.portal + "/"} {
			policy := framing(bob, own)
			if !strings.Contains(policy, "frame-ancestors 'none'") && !strings.Contains(policy, "frame-ancestors 'self'") {
				t.Errorf("%s does not say who may frame it: %q", own, policy)
			}
		}
	})

	bob.claim("it sees no cookie of others and sets none for the portal", func(t *testing.T) {
		before := map[string]string{}
		for _, c := range bob.cookies() {
			before[c.Name+" "+c.Domain+" "+c.Path] = c.Value
			if strings.HasPrefix(c.Name, "dspool") || strings.HasPrefix(c.Name, "jupyterhub-hub-login") {
				if !c.HTTPOnly || strings.HasPrefix(c.Domain, ".") {
					t.Errorf("cookie %s of %s is seen by pages or by other hosts", c.Name, c.Domain)
				}
			}
		}
		if got := must[string](page, `document.cookie`); strings.Contains(got, "dspool") || strings.Contains(got, "login") {
			t.Errorf("heidi's page sees %q", got)
		}
		must[string](page, `document.cookie = "dspool=evil; Domain=localhost; Path=/"; document.cookie = "dspool=evil; Path=/; Domain=.localhost"`)
		page.open(home("heidi") + "/evil?toss=" + url.QueryEscape("dspool=evil; Domain=localhost; Path=/"))
		for _, c := range bob.cookies() {
			if c.Value == "evil" && (c.Domain == "localhost" || c.Domain == ".localhost") {
				t.Errorf("the portal would get %s=%s", c.Name, c.Value)
			}
		}
		portal.open(pool.portal + "/")
		portal.until("the portal, as bob", `document.body.innerText.includes("Hello bob")`)
	})

	bob.claim("cookies that it sets for JupyterHub make bob nobody else", func(t *testing.T) {
		// Without TLS names of cookies are no protection: heidi gives bob her own login, for more exact paths than his.
		i := slices.IndexFunc(heidi.cookies(), func(c *network.Cookie) bool { return c.Name == "jupyterhub-hub-login" })
		if i < 0 {
			t.Fatal("heidi has no login at JupyterHub")
		}
		hers := heidi.cookies()[i]
		for _, path := range []string{"/", "/hub/", "/hub/home", "/hub/api/user"} {
			must[string](page, `document.cookie = `+quote(hers.Name+"="+hers.Value+"; Domain=hub.localhost; Path="+path))
		}
		for range 2 { // the first answer may be what cleans up
			hub.open(pool.hub + "/hub/home")
		}
		hub.until("JupyterHub, as bob", `document.body.innerText.includes("bob")`)
		if text := hub.text(); strings.Contains(text, "heidi") {
			t.Errorf("bob is heidi at JupyterHub:\n%s", text)
		}
		bob.open(home("bob") + "/lab")
		bob.labHere("bob")
	})

	bob.claim("heidi herself comes to none of bob's pages", func(t *testing.T) {
		for _, target := range []string{home("bob") + "/lab", home("bob") + "/api/contents", pool.hub + "/hub/user/bob/", strings.Replace(home("bob"), "//bob.", "//heidi.", 1) + "/lab", pool.hub + "/user/bob/lab"} {
			heidi.open(target)
			text := heidi.text()
			if strings.Contains(text, "Untitled") || strings.Contains(text, "Launcher") || strings.Contains(text, `"content"`) {
				t.Errorf("%s shows heidi\n%s", target, text)
			}
		}
	})

	bob.claim("it starts no server for bob", func(t *testing.T) {
		hub.open(pool.hub + "/hub/home")
		hub.until("JupyterHub's page with a button to stop", `document.querySelector("#stop")?.getClientRects().length`)
		hub.click("#stop")
		wait(t, pageTimeout, func() error {
			if now, err := pool.app("bob"); err == nil {
				return fmt.Errorf("bob's server is still %s", now.State)
			}
			return nil
		})
		for _, target := range []string{pool.hub + "/hub/spawn", pool.hub + "/hub/spawn?pool=lab", pool.hub + "/hub/spawn/bob?pool=lab"} {
			must[string](page, `(async () => {
				const url = `+quote(target)+`, loaded = e => new Promise(r => { e.onload = e.onerror = r; setTimeout(r, 3000); document.body.append(e) });
				for (const mode of ["cors", "no-cors"]) await fetch(url, {mode, credentials: "include"}).catch(() => {});
				await fetch(url, {method: "POST", mode: "no-cors", credentials: "include", headers: {"Content-Type": "application/x-www-form-urlencoded"}, body: "pool=lab"}).catch(() => {});
				for (const [tag, key] of [["img", "src"], ["iframe", "src"], ["embed", "src"], ["object", "data"], ["script", "src"]]) {
					const e = document.createElement(tag); e[key] = url; await loaded(e); e.remove();
				}
				return "";
			})()`)
		}
		if now, err := pool.app("bob"); err == nil {
			t.Errorf("bob has a server that he did not ask for: %+v", now)
		}
	})
}

// framing is what a page of one's own says about frames.
func framing(p *person, url string) string {
	p.t.Helper()
	b := p.another()
	ctx, cancel := context.WithTimeout(b.ctx, pageTimeout)
	defer cancel()
	answer, err := chromedp.Run(ctx, chromedp.NavigateResponse(url))
	if err != nil || answer.Status != 200 {
		p.t.Fatalf("open %s: %+v, %v", url, answer, err)
	}
	for name, value := range answer.Headers {
		if strings.EqualFold(name, "Content-Security-Policy") {
			return fmt.Sprint(value)
		}
	}
	return ""
}

// TestRedirects follows links that would lead somebody elsewhere after a login.
func TestRedirects(t *testing.T) {
	p := inLab(t, "carol")
	_, port, _ := strings.Cut(pool.web, ":")
	evil := "evil.localhost:" + port
	for _, begin := range []string{pool.hub + "/hub/login?next=", pool.hub + "/hub/spawn?next=", pool.portal + "/login?next="} {
		for _, next := range []string{"http://" + evil + "/", "//" + evil, `/\` + evil, "/%09/" + evil, "https:" + evil, "javascript:alert(1)", "http://hub.localhost:" + port + "@" + evil} {
			p.open(begin + url.QueryEscape(next))
			where := must[string](p.tab, `location.href`)
			if u, err := url.Parse(where); err != nil || strings.Contains(u.Host, "evil") || u.Scheme != "http" {
				t.Errorf("%s%s leads to %s", begin, next, where)
			}
		}
	}
	for _, dialog := range p.said {
		if strings.HasPrefix(dialog, "dialog") {
			t.Errorf("a script ran: %s", dialog)
		}
	}
}
