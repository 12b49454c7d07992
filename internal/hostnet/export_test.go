package hostnet

import "time"

// HurryDNS makes networks opened from now on wait a tenth of the usual for name servers.
func HurryDNS() {
	for _, d := range []*time.Duration{&usualPace.try, &usualPace.ask, &usualPace.look, &usualPace.rest} {
		*d /= 10
	}
}

// LookDeepAllTheTime makes networks opened from now on look at machines' own side without waiting for long.
func LookDeepAllTheTime() { deepLook = 10 * time.Millisecond }
