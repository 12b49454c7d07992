package auth

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/dspool/dspool"
	"golang.org/x/crypto/argon2"
)

// Cost of a password check: RFC 9106's second choice scaled to 19 MiB, as OWASP's password
// storage cheat sheet recommends for argon2id.
const (
	argonMemory  = 19 * 1024 // KiB
	argonTime    = 2
	argonThreads = 1
	argonKey     = 32
	argonSalt    = 16
)

// checks bounds the memory and processors that password checks take together.
var checks = make(chan struct{}, 2)

// HashPassword makes the stored form of a password, in the PHC string format.
func HashPassword(password string) string {
	salt := make([]byte, argonSalt)
	rand.Read(salt)
	return encodePHC(salt, derive(password, salt, argonMemory, argonTime, argonThreads))
}

func derive(password string, salt []byte, memory, time uint32, threads uint8) []byte {
	checks <- struct{}{}
	defer func() { <-checks }()
	return argon2.IDKey([]byte(password), salt, time, memory, threads, argonKey)
}

func encodePHC(salt, key []byte) string {
	b := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, argonMemory, argonTime, argonThreads, b.EncodeToString(salt), b.EncodeToString(key))
}

// nobodys is checked where there is no hash, so that a missing account takes as long as a wrong password.
var nobodys = encodePHC(make([]byte, argonSalt), make([]byte, argonKey))

// CheckPassword says whether a password is that of a stored hash; "" is the hash of nobody.
func CheckPassword(hash, password string) bool {
	known := hash != ""
	if !known {
		hash = nobodys
	}
	var version int
	var memory, time uint32
	var threads uint8
	parts := strings.Split(hash, "$")
	if len(parts) != 6 || parts[1] != "argon2id" {
		return false
	}
	if _, err := fmt.Sscanf(parts[2], "v=%d", &version); err != nil || version != argon2.Version {
		return false
	}
	if _, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &memory, &time, &threads); err != nil {
		return false
	}
	salt, err1 := base64.RawStdEncoding.DecodeString(parts[4])
	want, err2 := base64.RawStdEncoding.DecodeString(parts[5])
	if err1 != nil || err2 != nil || len(want) != argonKey {
		return false
	}
	return subtle.ConstantTimeCompare(derive(password, salt, memory, time, threads), want) == 1 && known
}

// CheckNewPassword refuses a password that would not be one.
func CheckNewPassword(password, user string) error {
	switch {
	case len(password) < 8:
		return dspool.Errorf(dspool.Invalid, "the password is shorter than 8 bytes").WithHint("a few words are easier to keep than a few signs")
	case len(password) > 1024:
		return dspool.Errorf(dspool.Invalid, "the password is longer than 1024 bytes")
	case strings.ContainsAny(password, "\x00\r\n"):
		return dspool.Errorf(dspool.Invalid, "the password holds a line end or a NUL byte")
	case strings.EqualFold(password, user):
		return dspool.Errorf(dspool.Invalid, "the password is the user's name")
	}
	return nil
}
