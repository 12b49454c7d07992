package initd

import "time"

// What goes over the socket: one JSON value after another. Every request has a reply with its
// identifier, in any order. "exits" makes the connection a stream: its replies are the
// attempts that have ended and are not forgotten, then each that ends or has something killed for
// memory, until it is closed.
type request struct {
	ID     int64   `json:"id"`
	Op     string  `json:"op"` // spawn, kill, list, forget, exits; open, close, sessions; service, services; apps, app-list, app-end, app-forget
	Spec   *Spec   `json:"spec,omitempty"`
	Kill   *Kill   `json:"kill,omitempty"`
	Forget []int64 `json:"forget,omitempty"`

	Open    *Session `json:"open,omitempty"`
	Close   *Closing `json:"close,omitempty"`
	Service *Service `json:"service,omitempty"`

	Apps   *Apps         `json:"apps,omitempty"`
	AppEnd *AppEnd       `json:"app_end,omitempty"`
	Seen   int64         `json:"seen,omitempty"` // version of the list of apps that need not be told again …
	Wait   time.Duration `json:"wait,omitempty"` // … for so long
}

type reply struct {
	ID     int64    `json:"id,omitempty"`
	Error  string   `json:"error,omitempty"`
	Status *Status  `json:"status,omitempty"`
	List   []Status `json:"list,omitempty"`

	Session  *SessionStatus  `json:"session,omitempty"`
	Sessions []SessionStatus `json:"sessions,omitempty"`
	Services []ServiceStatus `json:"services,omitempty"`

	Apps    []AppStatus `json:"apps,omitempty"`
	Version int64       `json:"version,omitempty"` // of Apps
}

// SocketName is the socket's name in init's directory.
const SocketName = "init.sock"

// Dir is init's directory in a machine.
const Dir = "/run/dspool"
