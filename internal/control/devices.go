package control

import (
	"crypto/rand"
	"strings"
	"sync"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/auth"
)

const (
	deviceLife     = 10 * time.Minute
	deviceInterval = 2 * time.Second
	deviceSlower   = 5 * time.Second // RFC 8628, section 3.5
	// mostDevices wait at once, fewer from one address: behind one there may be a class.
	mostDevices     = 2000
	mostDevicesFrom = 50
	// userLetters are those of RFC 8628, section 6.1: no vowels, so no words, and none that look alike.
	userLetters = "BCDFGHJKLMNPQRSTVWXZ"
	userLength  = 8
)

// device is a computer that waits to be let in, until it has the token.
type device struct {
	DeviceAsk        // without its code
	code      string // hash of the device code
	user      string // hash of the user code
	expires   time.Time
	polled    time.Time
	interval  time.Duration
	state     deviceState
	who       auth.Subject // who has confirmed
}

type deviceState int

const (
	deviceWaits   deviceState = iota
	deviceDecided             // somebody's answer is being written down
	deviceGranted
	deviceRefused
)

// devices are the computers that wait. They may be lost: who waits begins anew.
type devices struct {
	wrong *wrongs // guesses at user codes
	now   func() time.Time

	mu     sync.Mutex
	byCode map[string]*device // by the hash of the device code
	byUser map[string]*device // by that of the user code
}

func newDevices() *devices {
	return &devices{wrong: newWrongs(), now: time.Now, byCode: map[string]*device{}, byUser: map[string]*device{}}
}

func (d *devices) begin(ask DeviceAsk) (code, user string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now, same := d.now(), 0
	for _, w := range d.byCode {
		if !now.Before(w.expires) {
			d.drop(w)
		} else if place(w.From) == place(ask.From) {
			same++
		}
	}
	if len(d.byCode) >= mostDevices || same >= mostDevicesFrom {
		return "", "", dspool.Errorf(dspool.Unavailable, "too many computers wait to be confirmed in a browser").WithHint("try again in some minutes, or log in with a password")
	}
	code, user = auth.NewSecret(), newUserCode()
	for d.byUser[auth.HashSecret(user)] != nil {
		user = newUserCode()
	}
	w := &device{DeviceAsk: ask, code: auth.HashSecret(code), user: auth.HashSecret(user), expires: now.Add(deviceLife), interval: deviceInterval}
	d.byCode[w.code], d.byUser[w.user] = w, w
	return code, user, nil
}

func (d *devices) drop(w *device) {
	delete(d.byCode, w.code)
	delete(d.byUser, w.user)
}

// standing is how a login stands for the computer that asks.
type standing struct {
	DeviceAsk
	state    string
	interval time.Duration
	who      auth.Subject
}

// poll says how a login stands; who is told its end is told it once.
func (d *devices) poll(code string) (standing, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	w, now := d.byCode[auth.HashSecret(code)], d.now()
	if w == nil || !now.Before(w.expires) {
		return standing{}, errDeviceOver
	}
	switch w.state {
	case deviceGranted:
		d.drop(w)
		return standing{DeviceAsk: w.DeviceAsk, state: api.DeviceGranted, who: w.who}, nil
	case deviceRefused:
		d.drop(w)
		return standing{}, errDeviceRefused
	}
	state := api.DevicePending
	if now.Sub(w.polled) < w.interval {
		state = api.DeviceSlowDown
		w.interval += deviceSlower
	}
	w.polled = now
	return standing{state: state, interval: w.interval}, nil
}

// waiting is the computer that waits with a user code, unless it has its answer.
func (d *devices) waiting(user string) (*device, error) {
	w := d.byUser[auth.HashSecret(user)]
	if w == nil || w.state != deviceWaits || !d.now().Before(w.expires) {
		return nil, errDeviceNone
	}
	return w, nil
}

func (d *devices) find(user string) (DeviceAsk, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	w, err := d.waiting(user)
	if err != nil {
		return DeviceAsk{}, err
	}
	ask := w.DeviceAsk
	ask.Code = user
	return ask, nil
}

// answer gives the computer its answer once note has written it down.
func (d *devices) answer(user string, who auth.Subject, yes bool, note func() error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	w, err := d.waiting(user)
	if err != nil {
		return err
	}
	w.state = deviceDecided
	d.mu.Unlock()
	err = note()
	d.mu.Lock()
	switch {
	case err != nil:
		w.state = deviceWaits
	case yes:
		w.state, w.who = deviceGranted, who
	default:
		w.state = deviceRefused
	}
	return err
}

func newUserCode() string {
	// Bytes from here on would make the first letters likelier.
	const most = 256 - 256%len(userLetters)
	var code []byte
	for b := make([]byte, userLength); len(code) < userLength; {
		rand.Read(b)
		for _, x := range b {
			if int(x) < most && len(code) < userLength {
				code = append(code, userLetters[int(x)%len(userLetters)])
			}
		}
	}
	return string(code[:userLength/2]) + "-" + string(code[userLength/2:])
}

// userCode is a code as a person has typed it, in the form in which it was shown; "" if it can be none.
func userCode(typed string) string {
	if len(typed) > 4*userLength {
		return ""
	}
	code := strings.Map(func(r rune) rune {
		if r == '-' || r == ' ' {
			return -1
		}
		return r
	}, strings.ToUpper(typed))
	if len(code) != userLength || strings.Trim(code, userLetters) != "" {
		return ""
	}
	return code[:userLength/2] + "-" + code[userLength/2:]
}
