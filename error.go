package dspool

import (
	"errors"
	"fmt"
)

// Code says for machines what kind of problem an Error is. The table that turns
// codes into HTTP states lives in internal/httpapi, the one for exit codes in
// internal/cli.
type Code string

const (
	Invalid         Code = "invalid"         // the request is wrong; repeating it is pointless
	Unauthenticated Code = "unauthenticated" // no or wrong credential
	NotFound        Code = "not_found"       // missing, or hidden from this person
	Forbidden       Code = "forbidden"       // known, seen, but not allowed
	Conflict        Code = "conflict"        // the thing is in a state that does not allow this
	Unavailable     Code = "unavailable"     // may work later
	Internal        Code = "internal"        // a fault of dspool's own
)

// Error is the only error type that people see: Message says what is wrong and
// where, Hint what to do next.
type Error struct {
	Code    Code   `json:"code"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
	Reason  Reason `json:"reason,omitzero"` // of what failed long after it was asked for
	cause   error
}

func (e *Error) Error() string {
	if e.Hint != "" {
		return e.Message + " (" + e.Hint + ")"
	}
	return e.Message
}

// Unwrap returns the error that caused this one, or nil.
func (e *Error) Unwrap() error { return e.cause }

// Errorf makes an Error; a %w verb keeps its cause.
func Errorf(code Code, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Message: err.Error(), cause: errors.Unwrap(err)}
}

// WithHint returns e with the next step for the person.
func (e *Error) WithHint(format string, args ...any) *Error {
	c := *e
	c.Hint = fmt.Sprintf(format, args...)
	return &c
}

// WithReason returns e with the reason that its message puts into words.
func (e *Error) WithReason(r Reason) *Error {
	c := *e
	c.Reason = r
	return &c
}

// ErrorCode returns the code of err: that of the Error inside it, Internal when
// there is none, and "" for nil.
func ErrorCode(err error) Code {
	if err == nil {
		return ""
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return Internal
}
