// Package testkit has what the tests of several rooms share.
package testkit

import "github.com/dspool/dspool"

// Text is a reason as an administrator reads it.
func Text(r dspool.Reason) string { return r.For(dspool.Viewer{Admin: true}).Text }

// Stated is a reason that reads as words.
func Stated(words string) dspool.Reason {
	if words == "" {
		return dspool.Reason{}
	}
	return dspool.Why(dspool.WhyStated, dspool.ReasonParams{Detail: words})
}
