package portal

import (
	"net"
	"net/http"
	"strings"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/control"
	"github.com/dspool/dspool/internal/httpapi"
)

// The page on which people let a computer log in that has no browser, or whose program does not take their
// password: the user interaction of RFC 8628, section 3.3.

const devicePath = httpapi.DevicePage

// devicePage is a computer that waits to be let in, or the form for its code.
type devicePage struct {
	Code   string // as typed
	Ask    *control.DeviceAsk
	From   string // this browser's address
	Done   bool   // it was let in
	No     bool   // it was refused
	Failed *dspool.Error
}

func (p *Portal) deviceRoutes(mux *http.ServeMux) {
	mux.HandleFunc("GET "+devicePath, p.member(p.showDevice))
	mux.HandleFunc("POST "+devicePath+"/confirm", p.member(p.answerDevice(true)))
	mux.HandleFunc("POST "+devicePath+"/refuse", p.member(p.answerDevice(false)))
}

func (p *Portal) showDevice(w http.ResponseWriter, r *http.Request, m *member) {
	code := strings.TrimSpace(r.URL.Query().Get("code"))
	if code == "" {
		p.device(w, r, m, devicePage{}, nil)
		return
	}
	ask, err := p.Control.WaitingDevice(r.Context(), m.Who, code)
	p.device(w, r, m, devicePage{Code: clipped(code, 64), Ask: &ask}, err)
}

func (p *Portal) answerDevice(yes bool) func(http.ResponseWriter, *http.Request, *member) {
	return func(w http.ResponseWriter, r *http.Request, m *member) {
		code := r.PostForm.Get("code")
		ask, err := p.Control.AnswerDevice(r.Context(), m.Who, code, yes)
		p.device(w, r, m, devicePage{Code: clipped(code, 64), Ask: &ask, Done: yes, No: !yes}, err)
	}
}

// device shows the page; with an error, the form for another code.
func (p *Portal) device(w http.ResponseWriter, r *http.Request, m *member, page devicePage, err error) {
	status := http.StatusOK
	if err != nil {
		said, s := p.spoken(err)
		page, status = devicePage{Code: page.Code, Failed: said}, s
	}
	page.From = m.from
	if host, _, err := net.SplitHostPort(m.from); err == nil {
		page.From = host
	}
	p.render(w, m.visit, status, "device", page, m)
}
