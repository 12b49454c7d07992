package api

import "github.com/dspool/dspool"

// The REST API lies under /api/v1. Errors are application/problem+json (RFC 9457) in the
// form of Problem. Authentication: peer credentials on the server's socket, elsewhere
// "Authorization: Bearer TOKEN".
//
//	GET    /status                                   → Status
//	GET    /whoami                                   → Whoami
//	GET    /ca                                       → PEM (text/plain; no authentication)
//	POST   /apply                        ApplyRequest → ApplyResult
//	GET    /images                                   → List[dspool.Image]
//	POST   /images/{name}/build                      → 202 dspool.Operation
//	DELETE /images/{name}                            → 204
//	GET    /sizes                                    → List[dspool.Size]
//	GET    /pools                                    → List[PoolStatus]
//	GET    /pools/{name}                             → PoolStatus
//	POST   /pools/{name}/resize         ResizeRequest → PoolStatus
//	GET    /machines?pool=&all=                      → List[dspool.Machine]
//	GET    /machines/{name}                          → MachineDetail
//	DELETE /machines/{name}?force=                   → 202 dspool.Operation
//	GET    /shares                                   → List[ShareStatus]
//	GET    /users                                    → List[dspool.User]
//	POST   /users                      AddUserRequest → 201 dspool.User
//	DELETE /users/{name}                             → 204
//	GET    /users/{name}                             → UserDetail
//	PATCH  /users/{name}              ChangeUserRequest → ChangedUser
//	PUT    /users/{name}/password       PasswordRequest → 204
//	PUT    /users/{name}/oidc               LinkRequest → 204
//	GET    /users/{name}/keys                        → List[dspool.UserKey]
//	POST   /users/{name}/keys             AddKeyRequest → 201 dspool.UserKey
//	DELETE /users/{name}/keys?fingerprint=           → 204
//	GET    /groups                                   → List[dspool.Group]
//	POST   /login                         LoginRequest → Login   (password in the request; no other authentication)
//	POST   /login/device                 DeviceRequest → DeviceLogin   (no authentication)
//	POST   /login/device/token      DeviceTokenRequest → DeviceToken   (no other authentication)
//	POST   /ssh/certificate         CertificateRequest → Certificate
//	GET    /ssh/known_hosts                          → text/plain: lines for known_hosts of every door
//	POST   /ssh/revocations        RevocationRequest → 204
//	GET    /sessions?user=&pool=&all=&before=&limit= → List[dspool.Session], newest first
//	GET    /sessions/{id}                            → SessionDetail
//	POST   /sessions/{id}/keep             KeepRequest → dspool.Session
//	DELETE /sessions/{id}                            → 202 dspool.Operation
//	GET    /recordings?user=&before=&limit=          → List[Recording], newest first; recordings are for administrators
//	GET    /recordings/{id}                          → Recording
//	GET    /recordings/{id}/cast                     → what its terminal showed, as asciicast
//	GET    /apps?user=&all=                          → List[dspool.App], newest first
//	POST   /apps                           AppRequest → 201 dspool.App; one of that name that still runs is ended first
//	GET    /apps/{id}                                → dspool.App
//	GET    /apps/{id}/steps                          → stream of SessionStep, one JSON value a line, until it runs or has ended
//	DELETE /apps/{id}                                → dspool.App, stopping or ended
//	GET    /doors                                    → List[dspool.Door]
//	POST   /machines/{name}/cordon                   → dspool.Machine
//	POST   /machines/{name}/uncordon                 → dspool.Machine
//	POST   /machines/{name}/drain        DrainRequest → 202 dspool.Operation
//	GET    /tokens?user=                             → List[dspool.Token]
//	POST   /tokens                    AddTokenRequest → 201 NewToken
//	DELETE /tokens/{id}                              → 204
//	POST   /jobs                        SubmitRequest → 201 dspool.Job
//	GET    /jobs?user=&pool=&state=&before=&limit=   → List[dspool.Job], newest first
//	GET    /jobs/{id}                                → dspool.Job
//	GET    /jobs/{id}/stream                         → Server-Sent Events "job" with dspool.Job at every change, until it ended
//	POST   /jobs/{id}/cancel                         → dspool.Job
//	GET    /jobs/{id}/tasks?state=&after=&limit=     → List[dspool.Task], by index
//	GET    /jobs/{id}/tasks/{index}                  → dspool.Task
//	GET    /jobs/{id}/tasks/{index}/output/{stdout|stderr}?offset=&follow=  → bytes; with follow until the task ended
//	GET    /events?after=&latest=&limit=&pool=&machine=&job= → List[dspool.Event], oldest first
//	GET    /events/stream?after=…                    → Server-Sent Events "event" with dspool.Event
//	GET    /usage?by=user|pool|job&from=&to=         → Usage
//	GET    /operations/{id}?wait=30s                 → dspool.Operation

// List is every listing's form.
type List[T any] struct {
	Items []T `json:"items"`
	// More says that the limit cut the list; go on with the last item's key.
	More bool `json:"more,omitempty"`
}

// Problem is an error as the API shows it.
type Problem struct {
	Type   string         `json:"type,omitempty"`
	Title  string         `json:"title"`
	Status int            `json:"status"`
	Detail string         `json:"detail" doc:"What is wrong and where."`
	Code   dspool.Code    `json:"code"`
	Hint   string         `json:"hint,omitempty" doc:"What to do next."`
	Errors []FieldProblem `json:"errors,omitempty"`
}

// FieldProblem is one of several things wrong with a request or file.
type FieldProblem struct {
	Location string `json:"location" doc:"Such as team.yaml:12 or body.memory."`
	Message  string `json:"message"`
	Hint     string `json:"hint,omitempty"`
}

// Status is the server's own state in short.
type Status struct {
	Version      string            `json:"version"`
	Installation string            `json:"installation" doc:"Names everything this server owns on its hosts."`
	Started      dspool.Time       `json:"started"`
	Pools        []PoolStatus      `json:"pools"`
	Hosts        HostStatus        `json:"hosts"`
	Images       []dspool.Image    `json:"images"`
	QueuedTasks  int64             `json:"queued_tasks"`
	RunningTasks int64             `json:"running_tasks"`
	Defaults     map[string]string `json:"defaults"`
	Problems     []dspool.Reason   `json:"problems" doc:"What an administrator should look at."`
}

// HostStatus says how much of the hosts is taken by machines.
type HostStatus struct {
	Capacity dspool.Resources `json:"capacity" doc:"Overcommit multiplied in."`
	Used     dspool.Resources `json:"used"`
}

// Whoami says as whom the server sees the caller.
type Whoami struct {
	User  string `json:"user" doc:"Empty for the host's root without an account."`
	Admin bool   `json:"admin"`
}

// ApplyRequest carries a configuration file's text.
type ApplyRequest struct {
	Name   string `json:"name" doc:"The file's name, for messages."`
	Dir    string `json:"dir,omitempty" doc:"Directory on the server's host that relative paths begin at."`
	Text   string `json:"text" maxLength:"4194304"`
	DryRun bool   `json:"dry_run,omitempty"`
}

// Change is one difference between the file and what is.
type Change struct {
	Action string `json:"action" enum:"add,change,remove,skip"`
	Kind   string `json:"kind"`
	Name   string `json:"name"`
	Detail string `json:"detail,omitempty" doc:"Such as max: 4 → 8."`
}

// ApplyResult says what was changed, or would be.
type ApplyResult struct {
	Changes []Change `json:"changes"`
	Applied bool     `json:"applied"`
}

// PoolStatus is a pool with what stands in it now.
type PoolStatus struct {
	dspool.Pool
	Machines int           `json:"machines"`
	Ready    int           `json:"ready"`
	Idle     int           `json:"idle"`
	Queued   int64         `json:"queued" doc:"Tasks not placed."`
	Running  int64         `json:"running" doc:"Tasks placed."`
	Note     dspool.Reason `json:"note,omitzero" doc:"Why it does not grow, when it should."`
}

// ResizeRequest changes a pool's numbers; what is absent stays.
type ResizeRequest struct {
	Min   *int `json:"min,omitempty"`
	Max   *int `json:"max,omitempty"`
	Spare *int `json:"spare,omitempty"`
}

// MachineDetail is a machine with its claims and its latest events.
type MachineDetail struct {
	dspool.Machine
	Tasks  []dspool.Task  `json:"tasks" doc:"Placed on it now; other people's only for administrators."`
	Events []dspool.Event `json:"events"`
}

// ShareStatus is a share with its space.
type ShareStatus struct {
	dspool.Share
	Pools []string `json:"pools"`
	Total int64    `json:"total" doc:"Bytes of the file system it lies on."`
	Free  int64    `json:"free"`
}

// AddUserRequest makes an account.
type AddUserRequest struct {
	Name  string `json:"name"`
	Admin bool   `json:"admin,omitempty"`
}

// AddTokenRequest makes a token.
type AddTokenRequest struct {
	User    string          `json:"user,omitempty" doc:"Whose; only administrators name another."`
	Name    string          `json:"name,omitempty"`
	Expires dspool.Duration `json:"expires,omitempty" doc:"From now; 0 is never. A token that is made by another of the same user ends with that at the latest."`
	Spawner bool            `json:"spawner,omitempty" doc:"For a JupyterHub: it runs apps as any user and may do nothing else. Only administrators make one."`
}

// NewToken is a token with its secret, which is shown this once.
type NewToken struct {
	dspool.Token
	Secret string `json:"secret"`
}

// SubmitRequest submits a job.
type SubmitRequest struct {
	dspool.JobSpec
	As string `json:"as,omitempty" doc:"Run as this user; only administrators name another."`
	// Key makes a repeated submit return the first job instead of making a second.
	Key string `json:"key,omitempty" maxLength:"64"`
}

// Usage is the bill for a time.
type Usage struct {
	From dspool.Time       `json:"from" doc:"Beginning of the bill; of what is long ago, that of its day."`
	To   dspool.Time       `json:"to"`
	By   string            `json:"by"`
	Rows []dspool.UsageRow `json:"rows"`
	Cost float64           `json:"cost"`
}

// UserDetail is a user with keys and sessions.
type UserDetail struct {
	dspool.User
	Keys     []dspool.UserKey `json:"keys"`
	Sessions []dspool.Session `json:"sessions"`
}

// ChangeUserRequest changes an account; what is absent stays.
type ChangeUserRequest struct {
	Admin       *bool     `json:"admin,omitempty"`
	DefaultPool *string   `json:"default_pool,omitempty"`
	Groups      *[]string `json:"groups,omitempty" doc:"All groups of the user from now on; missing ones are made."`
	Now         bool      `json:"now,omitempty" doc:"End what runs with groups from before the last change of them: tasks, and sessions with all that lives in them."`
}

// ChangedUser is an account after a change.
type ChangedUser struct {
	dspool.User
	Old OldRights `json:"old_rights,omitzero" doc:"With groups, or now: what runs with groups from before the last change of them."`
}

// OldRights count what runs with rights that its user had before.
type OldRights struct {
	Tasks       int `json:"tasks,omitempty"`
	Sessions    int `json:"sessions,omitempty" doc:"Opened before, with something alive in them."`
	Apps        int `json:"apps,omitempty" doc:"In these sessions."`
	Connections int `json:"connections,omitempty" doc:"Of these sessions."`
}

// PasswordRequest sets a password; an empty one removes it.
type PasswordRequest struct {
	Old string `json:"old,omitempty" doc:"Needed unless the caller is an administrator or the user has none."`
	New string `json:"new" maxLength:"1024"`
}

// LinkRequest says who somebody is to an OpenID provider; both empty is nobody.
type LinkRequest struct {
	Issuer  string `json:"issuer" maxLength:"255" doc:"As the provider writes it, to the letter."`
	Subject string `json:"subject" maxLength:"255" doc:"What the provider calls the person for ever: the claim sub."`
}

// AddKeyRequest adds a public key.
type AddKeyRequest struct {
	Key string `json:"key" maxLength:"16384" doc:"A line of a .pub file."`
}

// LoginRequest trades a password for a token.
type LoginRequest struct {
	User     string          `json:"user"`
	Password string          `json:"password" maxLength:"1024"`
	Expires  dspool.Duration `json:"expires,omitempty" doc:"12h unless given, at most 30 days."`
}

// DeviceRequest asks for a login that somebody confirms in a browser (RFC 8628, section 3.1).
type DeviceRequest struct {
	Name    string          `json:"name,omitempty" maxLength:"64" doc:"What the computer that asks calls itself, such as ada@laptop."`
	Expires dspool.Duration `json:"expires,omitempty" doc:"Of the token: 12h unless given, at most 30 days."`
}

// DeviceLogin is what to show to that person (section 3.2).
type DeviceLogin struct {
	DeviceCode  string `json:"device_code" doc:"A secret of whoever asked: it is traded for the token."`
	UserCode    string `json:"user_code" doc:"What the person compares, or types."`
	URI         string `json:"verification_uri"`
	URIComplete string `json:"verification_uri_complete" doc:"It brings the user code along."`
	ExpiresIn   int    `json:"expires_in" doc:"Seconds until the codes are worth nothing."`
	Interval    int    `json:"interval" doc:"Seconds to wait before each ask for the token."`
}

// DeviceTokenRequest asks whether the login was confirmed (section 3.4).
type DeviceTokenRequest struct {
	DeviceCode string `json:"device_code" maxLength:"128"`
}

// Answers to that. A login that was refused, has expired or was taken already is an error.
const (
	DevicePending  = "authorization_pending"
	DeviceSlowDown = "slow_down" // pending, and asked too soon: Interval has grown (section 3.5)
	DeviceGranted  = "granted"
)

// DeviceToken is how the login stands.
type DeviceToken struct {
	State    string `json:"state" enum:"authorization_pending,slow_down,granted"`
	Interval int    `json:"interval,omitempty" doc:"Seconds to wait before the next ask."`
	Login    *Login `json:"login,omitempty" doc:"Once it is granted. It is given once."`
}

// Login is a token got by password, or confirmed in a browser.
type Login struct {
	NewToken
	User dspool.User `json:"account"`
}

// CertificateRequest asks for a short-lived user certificate for the doors.
type CertificateRequest struct {
	PublicKey string          `json:"public_key" maxLength:"16384" doc:"In the form of authorized_keys."`
	Expires   dspool.Duration `json:"expires,omitempty" doc:"12h unless given, at most 24h."`
}

// Certificate is an OpenSSH user certificate.
type Certificate struct {
	Certificate string      `json:"certificate" doc:"In the form of authorized_keys."`
	Serial      uint64      `json:"serial"`
	Expires     dspool.Time `json:"expires"`
}

// RevocationRequest ends certificates and keys at once: a serial or a fingerprint is given.
type RevocationRequest struct {
	Serial      uint64 `json:"serial,omitempty"`
	Authority   string `json:"authority,omitempty" doc:"Fingerprint of the authority that gave the serial; the pool's own unless given."`
	Fingerprint string `json:"fingerprint,omitempty" doc:"Of a key, of a certificate's key, or of an authority."`
	Why         string `json:"why,omitempty" maxLength:"128"`
}

// Recording is what one terminal showed, in a pool that records them.
type Recording struct {
	ID         string      `json:"id" doc:"When it began, and its connection."`
	User       string      `json:"user"`
	Began      dspool.Time `json:"began"`
	Written    dspool.Time `json:"written" doc:"When something was last recorded."`
	Open       bool        `json:"open" doc:"Whether its connection is still open."`
	Bytes      int64       `json:"bytes"`
	Columns    int         `json:"columns" doc:"Of the terminal, when it began."`
	Rows       int         `json:"rows"`
	Connection string      `json:"connection"`
	Session    int64       `json:"session,omitempty"`
	Pool       string      `json:"pool,omitempty"`
	Machine    string      `json:"machine,omitempty"`
	From       string      `json:"from,omitempty" doc:"Address and port of the person's end."`
	Auth       string      `json:"auth,omitempty" doc:"How the user proved who they are."`
}

// SessionDetail is a session with its connections and latest events.
type SessionDetail struct {
	dspool.Session
	Open   []dspool.Connection `json:"open" doc:"Its connections."`
	Events []dspool.Event      `json:"events"`
}

// AppRequest asks for an app in the user's session; the session is opened if there is none. Only
// administrators and spawners name another user, and only spawners the environment's secrets.
type AppRequest struct {
	User    string            `json:"user,omitempty" doc:"The caller unless given."`
	Pool    string            `json:"pool,omitempty" doc:"The user's default, else the first web door's, unless given."`
	Size    string            `json:"size,omitempty" doc:"The size of machine for the session, one of the pool's; without it any machine will do, and a new one is of its first."`
	Name    string            `json:"name" maxLength:"64"`
	Command []string          `json:"command" doc:"{port} stands for the port that the machine's agent chooses."`
	Env     map[string]string `json:"env,omitempty" doc:"With {port} likewise. Never shown again."`
	Dir     string            `json:"dir,omitempty" doc:"Below the home."`
	Kernels string            `json:"kernels,omitempty" doc:"Path of its Jupyter API, by which it is known whether a kernel is busy; with token."`
	Token   string            `json:"token,omitempty" doc:"For kernels. Never shown again."`
}

// KeepRequest asks not to end a session for a time from now; 0 takes a former wish back.
type KeepRequest struct {
	For dspool.Duration `json:"for"`
}

// DrainRequest asks for a machine's end once nothing lives on it, or at the deadline.
type DrainRequest struct {
	Deadline dspool.Duration `json:"deadline,omitempty" doc:"From now; without it the machine waits for ever."`
}
