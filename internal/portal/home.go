package portal

import "net/http"

func (p *Portal) home(w http.ResponseWriter, r *http.Request, m *member) {
	p.render(w, m.visit, http.StatusOK, "home", nil, m)
}
