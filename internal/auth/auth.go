// Package auth says who somebody is and what they may do: tokens, the server's own
// certificate authority, and one table of permissions.
package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"strings"
	"time"

	"github.com/dspool/dspool"
)

// Subject is who asks.
type Subject struct {
	User  string // "" for the host's root without an account
	Admin bool
	// Spawner may run apps for any user: a JupyterHub.
	Spawner bool
	// UID is the account's for ever; 0 is any account of that name. A name may be given again after its
	// account was removed: what has another uid is another person's.
	UID   int
	Since time.Time // when the account was made
	// Token is that by which the subject came, and Expires when it does: what the subject gets by it lasts no
	// longer. "" and zero if it came otherwise, or for ever.
	Token   string
	Expires time.Time
}

// Name is how events call the subject.
func (s Subject) Name() string {
	if s.User == "" {
		return "root"
	}
	return s.User
}

// Action is what somebody wants to do with an object.
type Action string

const (
	See    Action = "see"    // read it, know that it exists
	Use    Action = "use"    // submit to it, claim from it
	Change Action = "change" // cancel, edit, remove
)

// Kind is the sort of object that Can decides about.
type Kind string

const (
	Config    Kind = "config"    // pools, sizes, shares, images, apply, the host's own state
	Machine   Kind = "machine"   //
	Job       Kind = "job"       // with its tasks and output
	Session   Kind = "session"   // with its connections
	Recording Kind = "recording" // of a terminal
	App       Kind = "app"       // a program in a user's session
	Account   Kind = "account"   // a user
	UserName  Kind = "user name" // that there is such a user
	Tokens    Kind = "tokens"    // a user's tokens
	Bill      Kind = "bill"      // a user's usage
	Operation Kind = "operation" //
	Identity  Kind = "identity"  // acting as a user
)

type who int

const (
	nobody   who = iota
	owner        // the user whose thing it is, and administrators
	spawners     // the same, and those that run apps for others
	admins
	everyone
)

// rules is the one table: who may do what with which kind. What is missing nobody may.
var rules = map[Kind]map[Action]who{
	Config:    {See: everyone, Use: everyone, Change: admins},
	Machine:   {See: everyone, Change: admins},
	Job:       {See: owner, Change: owner},
	Session:   {See: owner, Change: owner},
	Recording: {See: admins},
	App:       {See: spawners, Use: spawners, Change: spawners},
	UserName:  {See: spawners},
	Account:   {See: owner, Change: admins},
	Tokens:    {See: owner, Change: owner},
	Bill:      {See: owner},
	Operation: {See: owner},
	Identity:  {Use: owner},
}

// Can says whether s may do a with a thing of kind k that belongs to user of ("" if to nobody).
func Can(s Subject, a Action, k Kind, of string) bool {
	switch rules[k][a] {
	case everyone:
		return true
	case admins:
		return s.Admin
	case spawners:
		return s.Admin || s.Spawner || (of != "" && s.User == of)
	case owner:
		return s.Admin || (of != "" && s.User == of)
	}
	return false
}

// CanOld is Can for a thing of the account with a uid, perhaps a former one of the same name.
func CanOld(s Subject, a Action, k Kind, of string, uid int) bool {
	return Can(s, a, k, of) && (s.Admin || s.UID == 0 || uid == s.UID)
}

const tokenPrefix = "dsp_"

// NewSecret makes a credential of 160 random bits that secret scanners can recognise.
func NewSecret() string {
	b := make([]byte, 20)
	rand.Read(b)
	return tokenPrefix + strings.ToLower(base32.StdEncoding.EncodeToString(b))
}

// HashSecret is the form in which a secret is stored. A fast hash is right: the
// secret is random and long.
func HashSecret(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// NewID makes a short random identifier for tokens and operations.
func NewID() string {
	b := make([]byte, 8)
	rand.Read(b)
	return hex.EncodeToString(b)
}

// ErrUnauthenticated is the one answer to any wrong credential.
var ErrUnauthenticated = dspool.Errorf(dspool.Unauthenticated, "no valid credential").
	WithHint("set DSPOOL_TOKEN to a token made with `dspool token create`")
