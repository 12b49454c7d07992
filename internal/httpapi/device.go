package httpapi

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"reflect"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/dspool/dspool/api"
)

// DevicePage is the portal's page where people confirm logins, with the user code in its query.
const DevicePage = "/device"

// deviceLogins are no routes of huma's because nobody is authenticated yet.
func (s *Server) deviceLogins() {
	body := func(t reflect.Type) *huma.RequestBody {
		schema := s.api.OpenAPI().Components.Schemas.Schema(t, true, t.Name())
		return &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{"application/json": {Schema: schema}}}
	}
	s.plain(huma.Operation{
		OperationID: "begin-device-login", Method: http.MethodPost, Path: "/login/device", Summary: "Ask for a login that somebody confirms in a browser (RFC 8628)",
		RequestBody: body(reflect.TypeFor[api.DeviceRequest]()),
	}, "application/json", s.beginDeviceLogin)
	s.plain(huma.Operation{
		OperationID: "device-token", Method: http.MethodPost, Path: "/login/device/token", Summary: "Trade a login that was confirmed for a token, once",
		RequestBody: body(reflect.TypeFor[api.DeviceTokenRequest]()),
	}, "application/json", s.deviceToken)
}

func (s *Server) beginDeviceLogin(w http.ResponseWriter, r *http.Request) {
	var req api.DeviceRequest
	if !readJSON(w, r, 16<<10, &req) {
		return
	}
	web, err := s.control.WebSettings(r.Context())
	if err != nil {
		reply(w, nil, err)
		return
	}
	res, err := s.control.BeginDeviceLogin(r.Context(), cameFrom(r), req)
	res.URI = portalFor(web.Portal, r) + DevicePage
	res.URIComplete = res.URI + "?" + url.Values{"code": {res.UserCode}}.Encode()
	reply(w, res, err)
}

func (s *Server) deviceToken(w http.ResponseWriter, r *http.Request) {
	var req api.DeviceTokenRequest
	if !readJSON(w, r, 16<<10, &req) {
		return
	}
	res, err := s.control.DeviceToken(r.Context(), req)
	reply(w, res, err)
}

// portalFor is where the person who asks finds the portal: at its URL, unless only a browser on the server's
// host could open that; then where they have asked, for the portal is there too.
func portalFor(portal string, r *http.Request) string {
	if u, err := url.Parse(portal); err == nil && portal != "" && (!onLoopback(u.Host) || onLoopback(r.Host)) {
		return portal
	}
	scheme := r.URL.Scheme // the portal has set it, if it has passed the request on
	if scheme == "" {
		scheme = map[bool]string{true: "https", false: "http"}[r.TLS != nil]
	}
	return scheme + "://" + r.Host
}

func onLoopback(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.Trim(strings.ToLower(host), "[]")
	a, err := netip.ParseAddr(host)
	return host == "localhost" || strings.HasSuffix(host, ".localhost") || err == nil && a.IsLoopback()
}
