package control

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/auth"
)

// A machine's root may send whatever it likes. What is kept of it is small, names nobody but whose task it is,
// and moves no terminal's cursor.
func FuzzHeard(f *testing.F) {
	for _, s := range []string{
		`{"attempts":[{"id":1,"state":"failed","reason":{"code":"exit_code","count":3,"detail":"x"}}],"health":"healthy"}`,
		`{"attempts":[{"reason":"a sentence"}]}`,
		`{"attempts":[{"reason":{"code":"job_waits","user":"mallory","job":7,"by":"mallory","because":[{"code":"user_waits","user":"mallory"}]}}]}`,
		`{"sessions":[{"id":1,"activity":{"code":"uses_cpu","name":"\u001b[2J"},"failed":{"code":"nonsense"},"apps":[{"reason":{"code":"exit_code"}}]}],"reason":{"code":"disk_full","count":99}}`,
		`{"attempts":[{"reason":{"code":"stated","because":[{"code":"stated","because":[{"code":"stated","because":[{"code":"stated","because":[{"code":"stated"}]}]}]}]}}]}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var r api.Report
		if json.Unmarshal(body, &r) != nil {
			return
		}
		reasons := []dspool.Reason{r.Reason}
		for _, a := range r.Attempts {
			reasons = append(reasons, a.Reason)
		}
		for _, s := range r.Sessions {
			reasons = append(reasons, s.Activity, s.Failed)
			for _, a := range s.Apps {
				reasons = append(reasons, a.Reason)
			}
		}
		for _, said := range reasons {
			kept := heard(said, "ada")
			look(t, kept, deepestReason)
			for _, v := range []dspool.Viewer{{User: "ada"}, {User: "bob"}, {Admin: true}} {
				text := kept.For(v).Text
				if !utf8.ValidString(text) || strings.ContainsAny(text, "\x1b\n\r\u202e") {
					t.Fatalf("%+v reads %q", v, text)
				}
			}
			if raw, err := json.Marshal(kept); err != nil || len(raw) > 1<<20 {
				t.Fatalf("%d bytes are kept, %v", len(raw), err)
			}
		}
	})
}

func look(t *testing.T, r dspool.Reason, deep int) {
	t.Helper()
	if r.IsZero() {
		return
	}
	if r.User != "ada" || r.By != "" || r.Text != "" || !r.Known() || deep < 0 || len(r.Because) > mostReasons {
		t.Fatalf("%+v is kept", r)
	}
	for _, b := range r.Because {
		look(t, b, deep-1)
	}
}

// The request for a machine's certificate comes from somebody who has shown a token and nothing else.
func FuzzCertificateRequest(f *testing.F) {
	f.Add("")
	f.Add("-----BEGIN CERTIFICATE REQUEST-----\nMAA=\n-----END CERTIFICATE REQUEST-----\n")
	f.Add("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n")
	f.Fuzz(func(t *testing.T, csr string) {
		key, hash, err := auth.ParseRequest(csr)
		if (err == nil) != (key != nil && hash != "") {
			t.Fatalf("key %v, hash %q, %v", key != nil, hash, err)
		}
		if err != nil && dspool.ErrorCode(err) != dspool.Invalid {
			t.Fatalf("it is refused as %s", dspool.ErrorCode(err))
		}
	})
}
