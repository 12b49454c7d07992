package webdoor

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/dspool/dspool"
)

// routesPath is where the REST API is (configurable-http-proxy's doc/rest-api.yml).
const routesPath = "/api/routes"

// mostBody bounds what comes with a route.
const mostBody = 1 << 20

// API serves the REST API to whoever has the token; an empty token lets everybody in, and is for tests.
func (d *Door) API(token string) http.Handler {
	want := sha256.Sum256([]byte(token))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rest, ok := strings.CutPrefix(r.URL.EscapedPath(), routesPath)
		if !ok || rest != "" && rest[0] != '/' {
			say(w, http.StatusNotFound, http.StatusText(http.StatusNotFound))
			return
		}
		switch r.Method {
		case http.MethodGet, http.MethodPost, http.MethodDelete:
		default:
			say(w, http.StatusMethodNotAllowed, "Method not supported")
			return
		}
		got := sha256.Sum256([]byte(tokenOf(r)))
		if token != "" && subtle.ConstantTimeCompare(got[:], want[:]) != 1 {
			say(w, http.StatusForbidden, "")
			return
		}
		path, err := url.PathUnescape(rest)
		if err != nil {
			say(w, http.StatusBadRequest, "the route is not percent-encoded: "+err.Error())
			return
		}
		switch r.Method {
		case http.MethodGet:
			d.list(w, r, cleanRoute(path))
		case http.MethodPost:
			d.post(w, r, path)
		case http.MethodDelete:
			found, err := d.Remove(path)
			switch {
			case err != nil:
				sayError(w, err)
			case found:
				say(w, http.StatusNoContent, "")
			default:
				say(w, http.StatusNotFound, "")
			}
		}
	})
}

var tokenField = regexp.MustCompile(`token\s+(\S+)`)

func tokenOf(r *http.Request) string {
	if m := tokenField.FindStringSubmatch(r.Header.Get("Authorization")); m != nil {
		return m[1]
	}
	return ""
}

// say answers in plain words, and without a content type.
func say(w http.ResponseWriter, code int, words string) {
	w.Header()["Content-Type"] = nil
	w.WriteHeader(code)
	_, _ = io.WriteString(w, words)
}

func sayError(w http.ResponseWriter, err error) {
	code := http.StatusBadRequest
	if dspool.ErrorCode(err) == dspool.Unavailable && errors.Is(err, errHanded) {
		code = http.StatusServiceUnavailable
	}
	say(w, code, err.Error())
}

func (d *Door) post(w http.ResponseWriter, r *http.Request, path string) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, mostBody))
	if err != nil {
		say(w, http.StatusRequestEntityTooLarge, fmt.Sprintf("a route's body may have %d bytes", mostBody))
		return
	}
	if err := d.Add(path, body); err != nil {
		d.Log.Warn("refused a route", "error", err)
		sayError(w, err)
		return
	}
	say(w, http.StatusCreated, "")
}

func (d *Door) list(w http.ResponseWriter, r *http.Request, path string) {
	if path != "/" {
		to := d.table.get(path)
		if to == nil {
			say(w, http.StatusNotFound, "")
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(d.describe(nil, to))
		return
	}
	query := r.URL.Query()
	since, text := time.Time{}, query.Get("inactiveSince")
	if text == "" {
		text = query.Get("inactive_since")
	}
	if text != "" {
		var err error
		if since, err = parseDate(text); err != nil {
			say(w, http.StatusBadRequest, "Invalid datestamp '"+text+"' must be ISO8601.")
			return
		}
	}
	out := []byte{'{'}
	for i, to := range d.table.since(since) {
		if i > 0 {
			out = append(out, ',')
		}
		out = appendString(out, to.Path)
		out = append(out, ':')
		out = d.describe(out, to)
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(out, '}'))
}

// stamp is how JavaScript writes dates.
const stamp = "2006-01-02T15:04:05.000Z"

// describe appends a route as JSON: what was said when it was added, and what the door knows.
func (d *Door) describe(out []byte, r *route) []byte {
	out = append(out, r.Data[:len(r.Data)-1]...)
	if d.HostRouting && r.Path != "/" {
		host, _ := cutElement(r.Path[1:])
		out = append(out, `,"`+hostField+`":`...)
		out = appendString(out, host)
	}
	out = append(out, `,"`+lastActivity+`":"`...)
	out = r.Meter.LastActivity().AppendFormat(out, stamp)
	return append(out, `"}`...)
}

func appendString(out []byte, s string) []byte {
	quoted, _ := json.Marshal(s)
	return append(out, quoted...)
}

// parseDate takes the forms of ISO 8601 that are in use; without a zone they are UTC.
func parseDate(s string) (t time.Time, err error) {
	for _, form := range []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02T15:04", "2006-01-02T15:04Z07:00", "2006-01-02 15:04:05.999999999Z07:00", time.DateOnly} {
		if t, err = time.Parse(form, s); err == nil {
			return t, nil
		}
	}
	return t, err
}

// parseObject reads a JSON object's fields in their order; any other JSON value has none.
func parseObject(data []byte) (fields []field, err error) {
	if !json.Valid(data) {
		var any json.RawMessage
		if err := json.Unmarshal(data, &any); err != nil {
			return nil, err
		}
	}
	in := json.NewDecoder(bytes.NewReader(data))
	if begin, err := in.Token(); err != nil || begin != json.Delim('{') {
		return nil, nil
	}
	place := map[string]int{}
	for in.More() {
		name, err := in.Token()
		if err != nil {
			return nil, err
		}
		f := field{name: name.(string)}
		if err := in.Decode(&f.value); err != nil {
			return nil, err
		}
		if i, again := place[f.name]; again { // the last counts
			fields[i] = f
			continue
		}
		place[f.name] = len(fields)
		fields = append(fields, f)
	}
	return fields, nil
}

// writeObject is the reverse of parseObject.
func writeObject(fields []field) json.RawMessage {
	var out bytes.Buffer
	out.WriteByte('{')
	for i, f := range fields {
		if i > 0 {
			out.WriteByte(',')
		}
		out.Write(appendString(nil, f.name))
		out.WriteByte(':')
		_ = json.Compact(&out, f.value) // it was valid when it came in
	}
	out.WriteByte('}')
	return out.Bytes()
}
