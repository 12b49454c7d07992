package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"time"
)

// Where browsers find things by labTeam.
const (
	labPortal = "http://localhost"
	labHub    = "http://hub.localhost"
)

// labBrowser does what a browser does on the way to JupyterLab, without drawing pages.
type labBrowser struct {
	http *http.Client
	at   *url.URL // where it has come to
	page []byte
}

// browser comes to a path of JupyterHub's origin, logs in, and follows where that leads.
func (l *lab) browser(ctx context.Context, path string) (*labBrowser, error) {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return nil, err
	}
	var d net.Dialer
	b := &labBrowser{http: &http.Client{Jar: jar, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return d.DialContext(ctx, "tcp", l.door) },
	}}}
	if err := b.get(ctx, labHub+path); err != nil {
		return nil, err
	}
	form := url.Values{"user": {me}, "password": {labPassword}}
	for _, name := range []string{"csrf", "next"} {
		if form[name], err = b.field(name); err != nil {
			return nil, err
		}
	}
	if err := b.send(ctx, http.MethodPost, labPortal+"/login", strings.NewReader(form.Encode())); err != nil {
		return nil, err
	}
	if b.at.Host == "localhost" {
		return nil, fmt.Errorf("the login leads to %s", b.at.Redacted())
	}
	return b, nil
}

func (b *labBrowser) field(name string) ([]string, error) {
	m := regexp.MustCompile(`name="` + name + `" value="([^"]*)"`).FindSubmatch(b.page)
	if m == nil {
		return nil, fmt.Errorf("the login page %s has no field %s", b.at.Redacted(), name)
	}
	return []string{html.UnescapeString(string(m[1]))}, nil
}

func (b *labBrowser) get(ctx context.Context, to string) error {
	return b.send(ctx, http.MethodGet, to, nil)
}

// send asks for a page and reads it.
func (b *labBrowser) send(ctx context.Context, method, to string, body io.Reader) error {
	req, err := http.NewRequestWithContext(ctx, method, to, body)
	if err != nil {
		return err
	}
	req.Header.Set("Sec-Fetch-Mode", "navigate")
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Origin", req.URL.Scheme+"://"+req.URL.Host)
	}
	resp, err := b.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b.at = resp.Request.URL
	if b.page, err = io.ReadAll(resp.Body); err != nil {
		return err
	}
	if resp.StatusCode >= 400 {
		return fmt.Errorf("%s %s: %s", method, b.at.Redacted(), resp.Status)
	}
	return nil
}

// waits says that JupyterHub shows how a server starts.
func (b *labBrowser) waits() bool { return strings.HasPrefix(b.at.Path, "/hub/spawn-pending/") }

// call asks JupyterHub's API as its pages do.
func (b *labBrowser) call(ctx context.Context, method, path string) (*http.Response, error) {
	to := labHub + "/hub/api" + path
	where, err := url.Parse(to)
	if err != nil {
		return nil, err
	}
	q := url.Values{}
	for _, c := range b.http.Jar.Cookies(where) {
		if c.Name == "_xsrf" {
			q.Set("_xsrf", c.Value)
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, to+"?"+q.Encode(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Referer", labHub+"/hub/home")
	return b.http.Do(req)
}

// progress reads what JupyterHub's progress page shows until the server is ready.
func (b *labBrowser) progress(ctx context.Context, user string, step func(message string)) error {
	resp, err := b.call(ctx, http.MethodGet, "/users/"+user+"/server/progress")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		data, ok := bytes.CutPrefix(lines.Bytes(), []byte("data:"))
		if !ok {
			continue
		}
		var event struct {
			Message       string
			Ready, Failed bool
		}
		if err := json.Unmarshal(data, &event); err != nil {
			return fmt.Errorf("read the progress: %w", err)
		}
		switch {
		case event.Ready:
			return nil
		case event.Failed:
			return errors.New(event.Message)
		}
		step(event.Message)
	}
	return errors.Join(lines.Err(), fmt.Errorf("the progress ended with %s before the server was ready", resp.Status))
}

// openLab gets JupyterLab's page, from which a browser then takes its scripts.
func (b *labBrowser) openLab(ctx context.Context, user string) error {
	if err := b.get(ctx, strings.Replace(labHub, "//", "//"+user+".", 1)+"/user/"+user+"/lab"); err != nil {
		return err
	}
	if !bytes.Contains(b.page, []byte(`id="jupyter-config-data"`)) {
		return fmt.Errorf("%s is not JupyterLab", b.at.Redacted())
	}
	return nil
}

// stopServer ends a user's notebook server by JupyterHub, also one that is just starting, and waits.
func (b *labBrowser) stopServer(ctx context.Context, user string) error {
	return until(ctx, "the end of the notebook server", machineWithin, func() (bool, error) {
		resp, err := b.call(ctx, http.MethodDelete, "/users/"+user+"/server")
		if err != nil {
			return false, err
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
		switch {
		case resp.StatusCode == http.StatusNoContent, resp.StatusCode == http.StatusBadRequest && bytes.Contains(text, []byte("not running")):
			return true, nil
		case resp.StatusCode == http.StatusForbidden:
			return false, fmt.Errorf("JupyterHub does not stop the server: %s: %s", resp.Status, text)
		}
		return false, breathe(ctx, 200*time.Millisecond)
	})
}
