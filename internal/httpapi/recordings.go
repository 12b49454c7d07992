package httpapi

import (
	"context"
	"io"
	"net/http"

	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/auth"
	"github.com/dspool/dspool/internal/control"
)

// asciicast is the media type of asciicast v2 files, as asciinema's server names it.
const asciicast = "application/x-asciicast"

// byRecording is a request about one recording.
type byRecording struct {
	ID string `path:"id" maxLength:"64"`
}

func (s *Server) recordings() {
	c := s.control
	route(s, http.MethodGet, "/recordings", "list-recordings", "Recordings of terminals, newest first", 200,
		func(ctx context.Context, who auth.Subject, in *struct {
			User   string `query:"user" maxLength:"64"`
			Before string `query:"before" maxLength:"64" doc:"Identifier of the last recording already seen."`
			Limit  int    `query:"limit"`
		}) (api.List[api.Recording], error) {
			return c.Recordings(ctx, who, control.RecordingQuery{User: in.User, Before: in.Before, Limit: in.Limit})
		})
	route(s, http.MethodGet, "/recordings/{id}", "show-recording", "One recording of a terminal", 200,
		func(ctx context.Context, who auth.Subject, in *byRecording) (api.Recording, error) {
			return c.Recording(ctx, who, in.ID)
		})
	stream(s, "/recordings/{id}/cast", "read-recording", "What a terminal showed, as asciicast", asciicast,
		func(ctx context.Context, who auth.Subject, in *byRecording) (func(context.Context, *flusher) error, error) {
			cast, err := c.OpenRecording(ctx, who, in.ID)
			if err != nil {
				return nil, err
			}
			return func(_ context.Context, f *flusher) error {
				defer cast.Close()
				_, err := io.Copy(f, cast)
				return err
			}, nil
		})
}
