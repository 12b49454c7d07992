package initd

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/dspool/dspool"
)

// hostFaults are the reasons of attempts that could not start for no fault of their own.
var hostFaults = []dspool.ReasonCode{dspool.WhyShareFull, dspool.WhyShareFails, dspool.WhyHostFails}

// ofHost are errors that no attempt brings about by itself. A quota is not among them: it is the user's own.
var ofHost = []unix.Errno{
	unix.ENOSPC, unix.EIO, unix.EROFS, unix.ESTALE, unix.ENODEV, unix.ENOMEM, unix.EMFILE, unix.ENFILE, unix.EAGAIN, unix.EBUSY,
	unix.ENOTCONN, unix.ETIMEDOUT, unix.EHOSTDOWN, unix.EHOSTUNREACH, unix.ECONNREFUSED, unix.ESHUTDOWN, unix.EREMOTEIO, unix.EUCLEAN,
}

// hostFault returns err as a fault of the host where it is one.
func hostFault(err error) error {
	if errno := unix.Errno(0); errors.As(err, &errno) && slices.Contains(ofHost, errno) {
		return hostFails(err)
	}
	return err
}

// hostFails returns an error that can be no other's fault than the host's as that.
func hostFails(err error) error {
	return &startError{reason: dspool.Why(dspool.WhyHostFails, dspool.ReasonParams{Detail: err.Error()}), err: err}
}

// shareFault returns what making the attempt's directory and output failed with, as a fault of the share
// where it is one. It acts with the rights of the calling thread.
func (s *Spec) shareFault(err error) error {
	errno := unix.Errno(0)
	if !errors.As(err, &errno) {
		return err
	}
	code := dspool.WhyShareFails
	switch {
	case errno == unix.ENOSPC:
		code = dspool.WhyShareFull
	case slices.Contains(ofHost, errno):
	case (errno == unix.EACCES || errno == unix.EPERM || errno == unix.ENOENT) && s.barred():
	default:
		return err
	}
	return &startError{reason: dspool.Why(code, dspool.ReasonParams{Name: s.Mount, Detail: errno.Error()}), err: err}
}

// barred says whether the user cannot come as far as a directory of their own on the share.
func (s *Spec) barred() bool {
	rel, err := filepath.Rel(s.Mount, filepath.Clean(s.Dir))
	if s.Mount == "" || err != nil {
		return false
	}
	at := s.Mount
	for _, name := range append(strings.Split(rel, "/"), "") {
		var st unix.Stat_t
		if unix.Lstat(at, &st) != nil {
			return true
		}
		if int(st.Uid) == s.UID {
			return false // from here on it is the user's
		}
		if unix.Faccessat(unix.AT_FDCWD, at, unix.X_OK, unix.AT_EACCESS) != nil {
			return true
		}
		at = filepath.Join(at, name)
	}
	return true
}
