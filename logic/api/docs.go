package api

import (
	_ "embed"
	"net/http"
)

//go:embed docs.html
var docsHTML []byte

// docsPage shows the OpenAPI document without loading anything from elsewhere.
func docsPage(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; connect-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	_, _ = w.Write(docsHTML) // The reader is gone.
}
