package portal

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"mime"
	"net/http"
	"path"
	"strings"
)

//go:embed assets
var assetFiles embed.FS

// assets are the files that pages load. Their addresses carry a part of their hash, so that browsers keep
// them for as long as they are the same.
type assets struct {
	files map[string][]byte
	hash  map[string]string
}

func readAssets() (*assets, error) {
	a := &assets{files: map[string][]byte{}, hash: map[string]string{}}
	list, err := assetFiles.ReadDir("assets")
	if err != nil {
		return nil, err
	}
	for _, f := range list {
		data, err := assetFiles.ReadFile("assets/" + f.Name())
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(data)
		a.files[f.Name()], a.hash[f.Name()] = data, hex.EncodeToString(sum[:6])
	}
	return a, nil
}

// bundled are the files as they were built in.
var bundled = must(readAssets())

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func assetURL(name string) string { return "/assets/" + name + "?v=" + bundled.hash[name] }

func (p *Portal) asset(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("file")
	data, ok := bundled.files[name]
	if !ok {
		p.missing(w, r)
		return
	}
	visitOf(r).guard(w, "")
	h := w.Header()
	h.Set("Content-Type", mediaOf(name))
	h.Set("Cache-Control", "no-cache")
	if r.URL.Query().Get("v") == bundled.hash[name] {
		h.Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	h.Set("ETag", `"`+bundled.hash[name]+`"`)
	if strings.Contains(r.Header.Get("If-None-Match"), bundled.hash[name]) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	_, _ = w.Write(data)
}

func mediaOf(name string) string {
	if t := mime.TypeByExtension(path.Ext(name)); t != "" {
		return t
	}
	return "text/plain; charset=utf-8"
}
