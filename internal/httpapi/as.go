package httpapi

import (
	"context"
	"net/http"

	"github.com/dspool/dspool/internal/auth"
)

// As serves the API to a subject whom the caller has authenticated. Streams ask now whether it still is
// the same, with the same rights.
func (s *Server) As(who auth.Subject, now func() (auth.Subject, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		secure(w)
		ctx := context.WithValue(withSubject(r.Context(), who), stillKey{}, func() bool {
			again, err := now()
			return err == nil && again == who
		})
		s.mux.ServeHTTP(w, r.WithContext(ctx))
	})
}
