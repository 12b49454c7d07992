// Command dex runs a real OpenID provider on loopback for tests: dex, with passwords and its state in
// memory. It prints the address of its issuer, a space and that of its controls, and ends with its
// standard input.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/dexidp/dex/server"
	"github.com/dexidp/dex/server/signer"
	"github.com/dexidp/dex/storage"
	"github.com/dexidp/dex/storage/memory"
	"github.com/dexidp/dex/web"
	"golang.org/x/crypto/bcrypt"
)

const keepKeys = "24h"

func main() {
	if err := run(os.Args[1]); err != nil {
		log.Fatal(err)
	}
}

// run serves one client, which comes back to a redirect URI.
func run(redirect string) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	quiet := slog.New(slog.NewTextHandler(io.Discard, nil))
	store := memory.New(quiet)
	issuer, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	controls, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	client := storage.Client{ID: "portal", Secret: "the portal's secret", RedirectURIs: []string{redirect}, Name: "portal"}
	if err := store.CreateClient(ctx, client); err != nil {
		return err
	}
	if err := store.CreateConnector(ctx, storage.Connector{ID: "local", Type: "local", Name: "passwords"}); err != nil {
		return err
	}
	sign := func() (signer.Signer, error) {
		c := signer.LocalConfig{KeysRotationPeriod: keepKeys}
		s, err := c.Open(ctx, store, time.Hour, time.Now, quiet)
		if err == nil {
			s.Start(ctx) // it makes a key if there is none, or the one there is too old
		}
		return s, err
	}
	s, err := sign()
	if err != nil {
		return err
	}
	url := "http://" + issuer.Addr().String()
	dex, err := server.NewServer(ctx, server.Config{
		Issuer: url, Storage: store, SkipApprovalScreen: true, Web: server.WebConfig{WebFS: web.FS()}, Logger: quiet, Signer: s,
		SupportedResponseTypes: []string{"code"},
	})
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	// A new key signs, and the old ones are not even shown any more.
	mux.HandleFunc("POST /rotate", func(w http.ResponseWriter, r *http.Request) {
		err := store.UpdateKeys(r.Context(), func(k storage.Keys) (storage.Keys, error) {
			k.NextRotation = time.Time{}
			return k, nil
		})
		if err == nil {
			_, err = sign()
		}
		if err == nil {
			err = store.UpdateKeys(r.Context(), func(k storage.Keys) (storage.Keys, error) {
				k.VerificationKeys = nil
				return k, nil
			})
		}
		answer(w, err)
	})
	mux.HandleFunc("POST /user", func(w http.ResponseWriter, r *http.Request) {
		hash, err := bcrypt.GenerateFromPassword([]byte(r.FormValue("password")), 10)
		if err != nil {
			answer(w, err)
			return
		}
		_ = store.DeletePassword(r.Context(), r.FormValue("email"))
		verified := r.FormValue("verified") == "true"
		answer(w, store.CreatePassword(r.Context(), storage.Password{
			Email: r.FormValue("email"), Hash: hash, Username: r.FormValue("name"), PreferredUsername: r.FormValue("name"),
			UserID: r.FormValue("id"), EmailVerified: &verified, Groups: r.Form["group"],
		}))
	})
	go http.Serve(controls, mux)
	go http.Serve(issuer, dex)
	fmt.Println(url, "http://"+controls.Addr().String())
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

func answer(w http.ResponseWriter, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}
