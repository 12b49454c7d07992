package control

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/auth"
)

func mustBegin(t *testing.T, d *devices, from string) (code, user string) {
	t.Helper()
	code, user, err := d.begin(DeviceAsk{From: from})
	if err != nil {
		t.Fatal(err)
	}
	return code, user
}

func written() error { return nil }

func TestUserCodes(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	var all strings.Builder
	for range 2000 {
		code := newUserCode()
		if len(code) != 9 || code[4] != '-' || seen[code] || userCode(code) != code {
			t.Fatal(code)
		}
		seen[code] = true
		all.WriteString(code)
	}
	for _, letter := range userLetters {
		if n := strings.Count(all.String(), string(letter)); n < 500 || n > 1100 { // 800 are due
			t.Errorf("%c comes %d times", letter, n)
		}
	}
	for typed, want := range map[string]string{
		"bcdf-ghjk": "BCDF-GHJK", " bcdfghjk": "BCDF-GHJK", "BC DF-GH JK": "BCDF-GHJK",
		"": "", "BCDF-GHJ": "", "BCDF-GHJKL": "", "BCDF-GHJA": "", "BCDF-GHJ0": "", "BCDF_GHJK": "", strings.Repeat("-", 1000) + "BCDFGHJK": "",
	} {
		if got := userCode(typed); got != want {
			t.Errorf("%.20q is %q, want %q", typed, got, want)
		}
	}
}

func TestDevices(t *testing.T) {
	t.Parallel()
	ada := auth.Subject{User: "ada"}
	is := func(t *testing.T, d *devices, code, state string, want error) {
		t.Helper()
		if got, err := d.poll(code); got.state != state || !errors.Is(err, want) {
			t.Errorf("%q %v, want %q %v", got.state, err, state, want)
		}
	}
	t.Run("who asks as told is never slowed down, who asks sooner is for good", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			d := newDevices()
			code, _ := mustBegin(t, d, "a")
			for range 5 {
				time.Sleep(deviceInterval)
				is(t, d, code, api.DevicePending, nil)
			}
			time.Sleep(deviceInterval - 1)
			is(t, d, code, api.DeviceSlowDown, nil)
			time.Sleep(deviceInterval)
			is(t, d, code, api.DeviceSlowDown, nil)
			time.Sleep(deviceInterval + 2*deviceSlower)
			is(t, d, code, api.DevicePending, nil)
		})
	})
	t.Run("codes expire, also those that were confirmed", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			d := newDevices()
			code, user := mustBegin(t, d, "a")
			late, lateUser := mustBegin(t, d, "a")
			time.Sleep(deviceLife - 1)
			if err := d.answer(user, ada, true, written); err != nil {
				t.Fatal(err)
			}
			time.Sleep(1)
			is(t, d, code, "", errDeviceOver)
			is(t, d, late, "", errDeviceOver)
			if err := d.answer(lateUser, ada, true, written); !errors.Is(err, errDeviceNone) {
				t.Error(err)
			}
			if mustBegin(t, d, "a"); len(d.byCode) != 1 || len(d.byUser) != 1 {
				t.Errorf("%d and %d are remembered", len(d.byCode), len(d.byUser))
			}
		})
	})
	t.Run("nobody is let in by what could not be written down, nor meanwhile", func(t *testing.T) {
		t.Parallel()
		d, full := newDevices(), errors.New("disk full")
		code, user := mustBegin(t, d, "a")
		err := d.answer(user, ada, true, func() error {
			is(t, d, code, api.DevicePending, nil)
			if err := d.answer(user, auth.Subject{User: "bob"}, true, written); !errors.Is(err, errDeviceNone) {
				t.Error(err)
			}
			return full
		})
		if !errors.Is(err, full) {
			t.Error(err)
		}
		is(t, d, code, api.DeviceSlowDown, nil)
		if err := d.answer(user, ada, true, written); err != nil {
			t.Error(err)
		}
		if got, err := d.poll(code); err != nil || got.who != ada {
			t.Errorf("%+v %v", got, err)
		}
	})
	t.Run("few wait from one address, and not too many from all", func(t *testing.T) {
		t.Parallel()
		d := newDevices()
		var err error
		for n := range mostDevices {
			if _, _, err = d.begin(DeviceAsk{From: fmt.Sprintf("192.0.2.%d", n/mostDevicesFrom)}); err != nil {
				t.Fatalf("%d: %v", n, err)
			}
			if n == mostDevicesFrom-1 {
				if _, _, err := d.begin(DeviceAsk{From: "192.0.2.0"}); dspool.ErrorCode(err) != dspool.Unavailable {
					t.Error(err)
				}
			}
		}
		if _, _, err = d.begin(DeviceAsk{From: "192.0.2.250"}); dspool.ErrorCode(err) != dspool.Unavailable {
			t.Error(err)
		}
	})
	t.Run("neighbours in one network of IPv6 are one address", func(t *testing.T) {
		t.Parallel()
		d := newDevices()
		var err error
		for n := range mostDevicesFrom + 1 {
			_, _, err = d.begin(DeviceAsk{From: fmt.Sprintf("2001:db8::%x", n)})
		}
		if dspool.ErrorCode(err) != dspool.Unavailable {
			t.Error(err)
		}
	})
}

func TestGuessesAtUserCodesAreHeldBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &Control{devices: newDevices()}
		_, code := mustBegin(t, c.devices, "a")
		mallory, ada := auth.Subject{User: "mallory"}, auth.Subject{User: "ada"}
		for range freeWrongs {
			if _, err := c.WaitingDevice(context.Background(), mallory, "BBBB-BBBB"); !errors.Is(err, errDeviceNone) {
				t.Fatal(err)
			}
		}
		if _, err := c.WaitingDevice(context.Background(), mallory, code); !errors.Is(err, errDeviceNone) {
			t.Errorf("the right code is looked at: %v", err)
		}
		if ask, err := c.WaitingDevice(context.Background(), ada, code); err != nil || ask.Code != code {
			t.Errorf("others are held back: %v", err)
		}
		began, looked := time.Now(), 0
		for time.Since(began) < deviceLife {
			c.WaitingDevice(context.Background(), mallory, "BBBB-BBBB")
			looked++
			time.Sleep(time.Second)
		}
		if n := c.devices.wrong.seen[wrongKey{user: "mallory"}].n; n > 20 {
			t.Errorf("%d of %d guesses were looked at while a code was good", n, looked)
		}
		time.Sleep(longestRest + wrongMemory)
		_, code = mustBegin(t, c.devices, "a")
		if _, err := c.WaitingDevice(context.Background(), mallory, code); err != nil {
			t.Errorf("never again: %v", err)
		}
	})
}
