package portal

import (
	"bytes"
	"embed"
	"errors"

	"html/template"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/dspool/dspool"
)

//go:embed templates/*.html
var templateFiles embed.FS

// pages are the templates: each is the layout with one page in it.
var pages = parsePages()

func parsePages() map[string]*template.Template {
	files, err := templateFiles.ReadDir("templates")
	if err != nil {
		panic(err)
	}
	shared := template.Must(template.New("layout.html").Funcs(helpers).ParseFS(templateFiles, "templates/layout.html", "templates/parts.html"))
	all := map[string]*template.Template{}
	for _, f := range files {
		name, _ := strings.CutSuffix(f.Name(), ".html")
		if name != "layout" && name != "parts" {
			all[name] = template.Must(template.Must(shared.Clone()).ParseFS(templateFiles, "templates/"+f.Name()))
		}
	}
	return all
}

// view is what every template is given.
type view struct {
	Page   string // the template's name
	Member *member
	Data   any
	Hub    string
	now    time.Time
}

// Live is where changes of what the page shows are sent.
func (v view) Live() string {
	path := livePath(v.Member.uri.Path)
	if q := v.Member.uri.RawQuery; q != "" {
		path += "?" + q
	}
	return path
}

// Ago is how long something was ago, in words.
func (v view) Ago(t time.Time) string { return ago(v.now.Sub(t)) }

// CSRF is the token of every form.
func (v view) CSRF() string {
	if v.Member == nil {
		return ""
	}
	return v.Member.CSRF
}

// policy lets a page load nothing but the portal's own files and be shown in nobody's frame. Forms lead to
// the portal and, through it, to the origins named.
func (v visit) policy(page string, forms ...string) string {
	sockets := "ws" + strings.TrimPrefix(v.origin(), "http")
	style := "'self'"
	if page == "terminal" {
		style += " 'unsafe-inline'" // xterm.js writes its sizes and colours into a style element
	}
	return "default-src 'none'; script-src 'self'; style-src " + style + "; img-src 'self' data:; font-src 'self'; connect-src 'self' " + sockets +
		"; form-action " + strings.Join(append([]string{"'self'"}, forms...), " ") + "; frame-ancestors 'none'; base-uri 'none'"
}

// guard sets the headers of everything that browsers show.
func (v visit) guard(w http.ResponseWriter, page string, forms ...string) {
	h := w.Header()
	h.Set("Content-Security-Policy", v.policy(page, forms...))
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "same-origin") // with no-referrer browsers would send no Origin with forms
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=()")
	h.Set("Cache-Control", "no-store")
	// It holds for every port of the name: a plain door on loopback would be out of reach.
	if v.https && v.origin() == v.settings.URL {
		h.Set("Strict-Transport-Security", "max-age=31536000")
	}
}

// render shows a page.
func (p *Portal) render(w http.ResponseWriter, v visit, status int, page string, data any, m *member, forms ...string) {
	v.guard(w, page, forms...)
	var b bytes.Buffer
	err := pages[page].Execute(&b, view{Page: page, Member: m, Data: data, Hub: v.settings.Hub, now: p.now()})
	if err != nil {
		p.Log.Error("render a page", "page", page, "err", err)
		http.Error(w, "The server failed to show this page; its log says more.", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes())
}

// states are the HTTP states of errors on pages.
var states = map[dspool.Code]int{
	dspool.Invalid: http.StatusBadRequest, dspool.Unauthenticated: http.StatusForbidden, dspool.NotFound: http.StatusNotFound,
	dspool.Forbidden: http.StatusForbidden, dspool.Conflict: http.StatusConflict, dspool.Unavailable: http.StatusServiceUnavailable,
}

// fail shows an error: what is wrong, and what to do next. Faults of the server go into its log alone.
func (p *Portal) fail(w http.ResponseWriter, r *http.Request, m *member, err error) {
	e, status := p.spoken(err)
	if r.Context().Err() != nil {
		return
	}
	p.render(w, visitOf(r), status, "error", e, m)
}

func (p *Portal) spoken(err error) (*dspool.Error, int) {
	var e *dspool.Error
	if !errors.As(err, &e) || states[e.Code] == 0 {
		p.Log.Error("a page failed", slog.Any("err", err))
		return dspool.Errorf(dspool.Internal, "the server failed to do this").WithHint("its log says more"), http.StatusInternalServerError
	}
	return e, states[e.Code]
}

func (p *Portal) missing(w http.ResponseWriter, r *http.Request) {
	m, _ := p.login(r, visitOf(r))
	p.fail(w, r, m, dspool.Errorf(dspool.NotFound, "the portal has no page %s", dspool.Quote(r.URL.Path)))
}
