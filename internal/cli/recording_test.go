package cli_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
)

const (
	adasCast = "20261121T100000Z-mfrggzdfmztwq2lknnwg23tpo4"
	bobsCast = "20261120T080000Z-nbswy3dpeb3w64tmmqqq2345ab-2"
)

var recordings = []api.Recording{
	{ID: adasCast, User: "ada", Began: now.Add(-2 * time.Hour), Written: now.Add(-2*time.Hour + 90*time.Second), Bytes: 20480, Columns: 120, Rows: 40, Open: true,
		Connection: "mfrggzdfmztwq2lknnwg23tpo4", Session: 3, Pool: "lab", Machine: "lab-7", From: "192.0.2.7:50122", Auth: "key SHA256:abc\x1b[2J"},
	{ID: bobsCast, User: "bob", Began: now.Add(-28 * time.Hour), Written: now.Add(-27 * time.Hour), Bytes: 100, Columns: 80, Rows: 24, Connection: "nbswy3dpeb3w64tmmqqq2345ab"},
}

func serveRecordings(w http.ResponseWriter, r *http.Request) {
	switch p := strings.TrimPrefix(r.URL.Path, "/api/v1"); p {
	case "/recordings":
		l := api.List[api.Recording]{Items: []api.Recording{}}
		for _, c := range recordings {
			if u := r.URL.Query().Get("user"); u == "" || u == c.User {
				l.Items = append(l.Items, c)
			}
		}
		l.More = r.URL.Query().Get("limit") == "2"
		reply(w, l)
	case "/recordings/" + adasCast:
		reply(w, recordings[0])
	case "/recordings/" + adasCast + "/cast":
		_, _ = io.WriteString(w, `{"version":2,"width":120,"height":40}`+"\n"+`[0.1,"o","hello\u001b[6n\r\n"]`+"\n"+`[99999,"o","later\r\n"]`+"\n")
	default:
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(403)
		_ = json.NewEncoder(w).Encode(api.Problem{Detail: "only administrators may see recordings", Code: dspool.Forbidden})
	}
}

func TestRecordings(t *testing.T) {
	t.Parallel()
	for file, args := range map[string]string{
		"recording-list": "recording list --limit 2", "recording-list-csv": "recording list -o csv", "recording-show": "recording show " + adasCast, "recording-play": "recording play " + adasCast,
	} {
		t.Run(args, func(t *testing.T) {
			t.Parallel()
			p := start(t, serveRecordings)
			p.must(t, strings.Fields(args)...)
			golden(t, "output/"+file+".txt", p.out.String()+p.err.String())
		})
	}
	t.Run("json is the API's", func(t *testing.T) {
		t.Parallel()
		p := start(t, serveRecordings)
		p.must(t, "recording", "list", "--user", "bob", "-o", "json")
		var got []api.Recording
		if err := json.Unmarshal(p.out.Bytes(), &got); err != nil || len(got) != 1 || got[0] != recordings[1] {
			t.Errorf("%v: %s", err, p.out.String())
		}
	})
	t.Run("the file itself is written as it is", func(t *testing.T) {
		t.Parallel()
		p := start(t, serveRecordings)
		p.must(t, "recording", "play", adasCast, "--cast")
		if out := p.out.String(); !strings.HasPrefix(out, `{"version":2`) || strings.Count(out, "\n") != 3 {
			t.Errorf("got %q", out)
		}
	})
	t.Run("a terminal gets it in time, and its own state back", func(t *testing.T) {
		t.Parallel()
		p := start(t, serveRecordings)
		p.StdoutTTY, p.Width = true, func() int { return 80 }
		p.must(t, "recording", "play", adasCast, "--speed", "1000", "--pause", "1ms")
		if out := p.out.String(); out != "hello\r\nlater\r\n\x1b[!p\r\n" || !strings.Contains(p.err.String(), "the terminal had 120 columns and 40 rows; yours has 80 columns") {
			t.Errorf("got %q, %q", out, p.err.String())
		}
	})
	t.Run("what cannot be is refused before it is asked for", func(t *testing.T) {
		t.Parallel()
		p := start(t, serveRecordings)
		p.refused(t, "is not a speed", "recording", "play", adasCast, "--speed", "0")
		p.refused(t, "is not possible: from 1 to", "recording", "list", "--limit", "0")
		p.refused(t, "only administrators may see recordings", "recording", "show", "other")
	})
}
