package api

import (
	"net"
	"net/netip"

	"github.com/dspool/dspool"
)

// The gateway link. The gateway is a process of its own that holds no database and no long-lived
// key but its doors' host keys; it asks the server, over a unix socket that only the host's root reaches
// (STATE/gateway.sock), in JSON:
//
//	GET  /gateway/v1/directives?after=REVISION&wait=25s → GatewayDirectives
//	POST /gateway/v1/authenticate   Proof        → Identity; 401 for every wrong proof alike
//	POST /gateway/v1/sessions       OpenSession  → stream of SessionStep, one JSON value a line; the last is ready or failed
//	POST /gateway/v1/certificate    MachineLogin → MachineCertificate
//	POST /gateway/v1/killed         Killed → KilledAnswer, as soon as the machine has said so, or after a moment
//	POST /gateway/v1/connections    []ConnectionReport → 204; at least every 10 s, and at once when one ends
//	POST /gateway/v1/web/login      WebLogin → Identity; 401 for every wrong cookie alike
//	POST /gateway/v1/web/certificate WebCertificate → EnrolResponse; 403 for names that are not the door's or a user's
//	POST /gateway/v1/web/connections []WebConnection → 204; browsers whose WebSockets to apps have opened

// GatewayDirectives is what the server wants of the gateway.
type GatewayDirectives struct {
	Revision int64         `json:"revision"`
	Doors    []dspool.Door `json:"doors"`
	Trust    Trust         `json:"trust"`
	End      []Notice      `json:"end,omitempty" doc:"Connections to be ended, with what their people are told."`
	Tell     []Notice      `json:"tell,omitempty" doc:"What the terminals of connections are told."`
	Rights   []Rights      `json:"rights,omitempty" doc:"Of open sessions: what was prepared with others is dropped."`
	Web      Web           `json:"web"`
}

// Rights name what the user of a session may do.
type Rights struct {
	Session int64  `json:"session"`
	Rights  string `json:"rights"`
}

// Web is what the web doors and the machine door need to know.
type Web struct {
	Domain         string   `json:"domain" doc:"The portal's name; the hub is hub.DOMAIN, a user's notebooks USER.hub.DOMAIN."`
	TLS            WebTLS   `json:"tls"`
	Hubs           string   `json:"hubs,omitempty" doc:"JupyterHub's URL for people, such as http://hub.localhost:8000; empty if there is none."`
	Portal         string   `json:"portal" doc:"The portal's URL for people."`
	TrustedProxies []string `json:"trusted_proxies,omitempty" doc:"CIDRs whose X-Forwarded headers count."`
	// MachineDoor is where machines reach the API, the hub and the proxy API ("10.80.0.1:8445"); "" is nowhere.
	MachineDoor string      `json:"machine_door,omitempty"`
	Hub         string      `json:"hub,omitempty" doc:"Address and port of JupyterHub; empty while it does not run."`
	HubMachine  string      `json:"hub_machine,omitempty" doc:"Address of its machine: only it uses the proxy API and reaches apps."`
	ProxyToken  string      `json:"proxy_token,omitempty" doc:"Of the proxy API."`
	Apps        []AppTarget `json:"apps,omitempty" doc:"All that run."`
}

// Plain says whether a web door that listens there speaks http: on a loopback address, unless a
// certificate was asked for.
func (w Web) Plain(listen string) bool {
	host, _, err := net.SplitHostPort(listen)
	ip, perr := netip.ParseAddr(host)
	loopback := err == nil && (host == "localhost" || perr == nil && ip.IsLoopback())
	return loopback && !w.TLS.ACME && w.TLS.Certificate == ""
}

// WebTLS says what certificates web doors show. Without files and ACME they are of the server's authority.
type WebTLS struct {
	Certificate string `json:"certificate,omitempty" doc:"Path of a PEM file on the host."`
	Key         string `json:"key,omitempty"`
	ACME        bool   `json:"acme,omitempty"`
	Directory   string `json:"directory,omitempty" doc:"URL of the ACME directory; Let's Encrypt unless given."`
	CA          string `json:"ca,omitempty" doc:"Path of the PEM file of the authority that the directory itself shows."`
	Email       string `json:"email,omitempty"`
}

// OwnersPort is where a machine's init says whose process has a connection, by the Identification Protocol
// (RFC 1413): users cannot listen there.
const OwnersPort = 113

// AppTarget is where an app is reached.
type AppTarget struct {
	ID      int64  `json:"id"`
	User    string `json:"user"`
	UID     int    `json:"uid" doc:"Whose process must have a connection before anything is sent on it."`
	Session int64  `json:"session"`
	Address string `json:"address" doc:"Address and port on its machine."`
}

// WebLogin asks who the holder of a portal cookie is.
type WebLogin struct {
	Secret string `json:"secret"`
	From   string `json:"from"`
}

// WebCertificate asks for a certificate of the server's authority for a web door.
type WebCertificate struct {
	Names []string `json:"names"`
	CSR   string   `json:"csr" doc:"PEM."`
}

// Notice is a text for the person behind a connection.
type Notice struct {
	Connection string        `json:"connection"`
	Reason     dspool.Reason `json:"reason" doc:"As the connection's user reads it."`
}

// Trust says which user certificates count.
type Trust struct {
	Authorities []string `json:"authorities" doc:"Public keys in the form of authorized_keys; the first is the pool's own, the others are the team's."`
	// Revoked holds serial numbers, fingerprints of keys and fingerprints of authorities.
	RevokedSerials      []uint64             `json:"revoked_serials,omitempty" doc:"Of the pool's own authority."`
	RevokedCertificates []RevokedCertificate `json:"revoked_certificates,omitempty" doc:"Of other authorities, which count for themselves."`
	RevokedKeys         []string             `json:"revoked_keys,omitempty"`
	HostCert            string               `json:"host_cert,omitempty" doc:"Host certificates for the doors' keys, in the form of authorized_keys, a line each."`
}

// RevokedCertificate is a certificate of an authority that is not the pool's own.
type RevokedCertificate struct {
	Authority string `json:"authority" doc:"Fingerprint of its key."`
	Serial    uint64 `json:"serial"`
}

// Proof is what a person has shown at a door. Keys and certificates have been verified by the gateway:
// the signature is of this key, and a certificate is valid now, for this user, from this address.
type Proof struct {
	User     string          `json:"user"`
	From     string          `json:"from" doc:"Address and port."`
	Protocol dspool.Protocol `json:"protocol"`
	Method   string          `json:"method" enum:"key,certificate,password"`
	Key      string          `json:"key,omitempty" doc:"Fingerprint of the key, or of the certificate's key."`
	Serial   uint64          `json:"serial,omitempty"`
	KeyID    string          `json:"key_id,omitempty"`
	// Authority is the fingerprint of the key that signed the certificate; the pool's own if it is empty.
	Authority string `json:"authority,omitempty"`
	// ValidAfter is when the certificate began to be good, in Unix seconds; 0 is always.
	ValidAfter uint64 `json:"valid_after,omitempty"`
	Password   string `json:"password,omitempty"`
	// Probe asks whether a key would do, before its signature is known; nothing is recorded.
	Probe bool `json:"probe,omitempty"`
}

// Identity is who came in.
type Identity struct {
	User  string `json:"user"`
	UID   int    `json:"uid"`
	Admin bool   `json:"admin,omitempty"`
	Auth  string `json:"auth" doc:"For connections and events, such as \"key SHA256:…\"."`
	Login string `json:"login,omitempty" doc:"The login at the portal, where it was by one."`
}

// OpenSession asks for the user's session, and holds on until it can be used.
type OpenSession struct {
	Connection string          `json:"connection" doc:"Identifier that the gateway has made."`
	User       string          `json:"user"`
	Pool       string          `json:"pool,omitempty" doc:"The user's default, else the door's, unless given."`
	Size       string          `json:"size,omitempty" doc:"The name of one of the pool's sizes; empty takes any machine, and a new one is of its first."`
	DoorPool   string          `json:"door_pool,omitempty"`
	Protocol   dspool.Protocol `json:"protocol"`
	From       string          `json:"from"`
	Auth       string          `json:"auth"`
	Login      string          `json:"login,omitempty" doc:"The login at the portal by which it came."`
}

// SessionStep is how far opening a session has come.
type SessionStep struct {
	Session  int64         `json:"session,omitempty"`
	Reason   dspool.Reason `json:"reason" doc:"For the person who waits."`
	Position int           `json:"position,omitempty"`
	// Estimate is how long it should still take, from past starts; 0 is unknown.
	Estimate dspool.Duration `json:"estimate,omitempty"`
	Ready    *MachineAccess  `json:"ready,omitempty"`
	Failed   *dspool.Error   `json:"failed,omitempty"`
}

// MachineAccess is where the session lives.
type MachineAccess struct {
	Machine  string   `json:"machine"`
	Address  string   `json:"address" doc:"Of the machine's sshd, with port."`
	HostKeys []string `json:"host_keys" doc:"In the form of authorized_keys; no other is accepted."`
	Record   bool     `json:"record,omitempty"`
	Rights   string   `json:"rights,omitempty" doc:"Names what the user may do; a connection that was prepared with others is not used."`
	Full     bool     `json:"full,omitempty" doc:"The session's memory ran out lately: where a login goes depends on when it is made, so that none is prepared."`
}

// MachineLogin asks for a certificate with which the gateway logs into the machine of a session.
type MachineLogin struct {
	Connection string `json:"connection"`
	Session    int64  `json:"session"`
	PublicKey  string `json:"public_key" doc:"In the form of authorized_keys; made by the gateway, used once."`
}

// MachineCertificate lives minutes and is good for one user on one machine.
type MachineCertificate struct {
	Certificate string `json:"certificate" doc:"In the form of authorized_keys."`
}

// Killed asks whether the kernel has just killed something of a session for memory.
type Killed struct {
	Session int64 `json:"session"`
}

// KilledAnswer says so.
type KilledAnswer struct {
	Reason dspool.Reason `json:"reason,omitzero" doc:"As the session's user reads it; none if it did not."`
}

// WebConnection is a browser that has a WebSocket to an app: as long as it has one, somebody is connected to
// the app's session. Its bytes and end are reported as other connections' are.
type WebConnection struct {
	ID   string `json:"id"`
	App  int64  `json:"app"`
	From string `json:"from"`
}

// ConnectionReport says how a connection stands.
type ConnectionReport struct {
	ID        string        `json:"id"`
	Session   int64         `json:"session"`
	BytesIn   int64         `json:"bytes_in"`
	BytesOut  int64         `json:"bytes_out"`
	LastInput dspool.Time   `json:"last_input" doc:"When the person last typed or sent something."`
	Ended     bool          `json:"ended,omitempty"`
	Why       dspool.Reason `json:"why,omitzero"`
}
