package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/client"
)

func (a *app) recording() *cobra.Command {
	return group("recording", "List and play what terminals showed, where a pool records them", a.recordingList(), a.recordingShow(), a.recordingPlay())
}

func (a *app) recordingList() *cobra.Command {
	var form string
	f := client.RecordingFilter{Limit: 100}
	cmd := command("list", "List recordings of terminals, newest first",
		"Terminals are recorded in pools whose policy says record: true, and their people are told. Recordings are for administrators.",
		"dspool recording list\ndspool recording list --user ada -o csv", positional(0, 0), nil)
	cmd.RunE = a.with(func(ctx context.Context, c *client.Client, _ []string) error {
		if f.Limit < 1 || f.Limit > page {
			return badUsage(cmd, "--limit %d is not possible: from 1 to %d", f.Limit, page)
		}
		l, err := c.Recordings(ctx, f)
		if err != nil {
			return err
		}
		err = list(a, form, l.Items, "no recordings: pools record terminals whose policy says record: true", a.recordingColumns()...)
		if l.More && form == "table" {
			a.say("there are more: --before %s shows them", l.Items[len(l.Items)-1].ID)
		}
		return err
	})
	count(cmd, &f.Limit, "limit", "how many")
	text(cmd, &f.User, "user", "USER", "only of this user")
	text(cmd, &f.Before, "before", "RECORDING", "only older ones than this")
	a.completeFlag(cmd, "user", userNames)
	a.completeFlag(cmd, "before", recordingIDs)
	return listOutput(cmd, &form)
}

func (a *app) recordingColumns() []column[api.Recording] {
	type recording = api.Recording
	return []column[recording]{
		{name: "RECORDING", text: func(r recording) string { return r.ID }},
		{name: "USER", text: func(r recording) string { return r.User }},
		{name: "POOL", text: func(r recording) string { return r.Pool }},
		{name: "MACHINE", text: func(r recording) string { return r.Machine }},
		{name: "BEGAN", text: func(r recording) string { return a.ago(r.Began) }, raw: func(r recording) string { return rawTime(&r.Began) }},
		{name: "LENGTH", text: func(r recording) string { return took(&r.Began, &r.Written, r.Written) },
			raw: func(r recording) string { return strconv.FormatInt(int64(r.Written.Sub(r.Began).Seconds()), 10) }, right: true},
		{name: "SIZE", text: func(r recording) string { return dspool.FormatBytes(r.Bytes) }, raw: func(r recording) string { return strconv.FormatInt(r.Bytes, 10) }, right: true},
		{name: "OPEN", text: func(r recording) string { return yes(r.Open) }, raw: func(r recording) string { return strconv.FormatBool(r.Open) }},
	}
}

func (a *app) recordingShow() *cobra.Command {
	var form string
	cmd := command("show RECORDING", "Say whose terminal a recording shows, and when, where and how they came in", "",
		"dspool recording show 20260301T101500Z-mfrggzdfmztwq2lknnwg23tpo4", positional(1, 1),
		a.with(func(ctx context.Context, c *client.Client, args []string) error {
			r, err := c.Recording(ctx, args[0])
			if err != nil {
				return err
			}
			if form == "json" {
				return a.json(r)
			}
			session := ""
			if r.Session != 0 {
				session = strconv.FormatInt(r.Session, 10)
			}
			a.printf("recording %s\n", clean(r.ID))
			a.facts(
				fact{"user", clean(r.User)}, fact{"began", a.fullTime(&r.Began)}, fact{"last written", a.fullTime(&r.Written)}, fact{"length", took(&r.Began, &r.Written, r.Written)},
				fact{"still open", yes(r.Open)}, fact{"terminal", fmt.Sprintf("%d columns, %d rows", r.Columns, r.Rows)}, fact{"size", dspool.FormatBytes(r.Bytes)},
				fact{"session", session}, fact{"pool", clean(r.Pool)}, fact{"machine", clean(r.Machine)}, fact{"connection", clean(r.Connection)},
				fact{"from", clean(r.From)}, fact{"with", clean(r.Auth)},
			)
			return nil
		}))
	cmd.ValidArgsFunction = a.completion(1, recordingIDs)
	return showOutput(cmd, &form)
}

const playLong = `It is shown as fast as it happened; where the output is no terminal, all at once. What would make your
own terminal do anything but show it is left out. That a recording was read is an event.`

func (a *app) recordingPlay() *cobra.Command {
	speed, pause, raw := 1.0, dspool.Duration(5*time.Second), false
	cmd := command("play RECORDING", "Show again what a terminal showed", playLong,
		"dspool recording play 20260301T101500Z-mfrggzdfmztwq2lknnwg23tpo4 --speed 4\ndspool recording play 20260301T101500Z-mfrggzdfmztwq2lknnwg23tpo4 --cast > ada.cast", positional(1, 1),
		a.with(func(ctx context.Context, c *client.Client, args []string) error {
			cast, err := c.ReadRecording(ctx, args[0])
			if err != nil {
				return err
			}
			defer cast.Close()
			if raw {
				_, err := io.Copy(a.Stdout, cast)
				return err
			}
			if !a.StdoutTTY {
				return playCast(ctx, a.Stdout, cast, 0, 0, func(castHead) {})
			}
			return playCast(ctx, a.Stdout, cast, speed, time.Duration(pause), func(h castHead) {
				if w := a.Width(); w > 0 && w < h.Width {
					a.say("the terminal had %d columns and %d rows; yours has %d columns", h.Width, h.Height, w)
				}
			})
		}))
	cmd.Flags().Var(&value[float64]{into: &speed, kind: "N", text: "1", parse: parseSpeed}, "speed", "how many times as fast")
	cmd.Flags().Var(&value[dspool.Duration]{into: &pause, kind: "duration", text: pause.String(), parse: dspool.ParseDuration}, "pause", "the longest pause")
	cmd.Flags().BoolVar(&raw, "cast", false, "write the asciicast file itself, for other players")
	cmd.ValidArgsFunction = a.completion(1, recordingIDs)
	return cmd
}

func parseSpeed(s string) (float64, error) {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || !(f >= 0.01 && f <= 1000) {
		return 0, dspool.Errorf(dspool.Invalid, "%s is not a speed", dspool.Quote(s)).WithHint("a number from 0.01 to 1000, such as 2 or 0.5")
	}
	return f, nil
}

func recordingIDs(ctx context.Context, c *client.Client) ([]string, error) {
	l, err := c.Recordings(ctx, client.RecordingFilter{Limit: 50})
	return words(l, err, func(r api.Recording) (string, string) { return r.ID, r.User + " " + r.Machine })
}

// castHead is the first line of an asciicast, version 2.
type castHead struct{ Version, Width, Height int }

// playCast writes what an asciicast shows; speed 0 does not wait. One that is still being made may
// end in the middle of a line.
func playCast(ctx context.Context, w io.Writer, cast io.Reader, speed float64, longest time.Duration, begin func(castHead)) error {
	d := json.NewDecoder(bufio.NewReaderSize(cast, 64<<10))
	var head castHead
	if err := d.Decode(&head); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil // it is just being begun
	} else if err != nil || head.Version != 2 {
		return dspool.Errorf(dspool.Internal, "this recording is no asciicast of version 2")
	}
	begin(head)
	var s screen
	if speed > 0 {
		defer func() { _, _ = io.WriteString(w, s.restore()) }()
	}
	for last := 0.0; ; {
		var at float64
		var kind, data string
		err := d.Decode(&[]any{&at, &kind, &data})
		var syntax *json.SyntaxError
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return nil
		case errors.As(err, &syntax):
			return dspool.Errorf(dspool.Internal, "this recording cannot be read further: %w", err)
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			return while(err, "read recording")
		}
		if speed > 0 && at > last {
			wait := min(time.Duration((at-last)/speed*float64(time.Second)), longest)
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-time.After(wait):
			}
			last = at
		}
		if kind == "o" {
			if _, err := io.WriteString(w, s.pass(data)); err != nil {
				return err
			}
		}
	}
}
