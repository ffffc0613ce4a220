package latchkey

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"
)

// Handler guards an HTTP handler: it answers requests without a live session itself, and passes the others on with the
// identity of the caller ([FromContext]). Use it around a single handler, a [http.ServeMux] or as a middleware.
//
// The token is validated when the request begins. A handler that goes on for long, such as one for WebSockets, can end
// with the session, see [Guard.Watch].
func (g *Guard) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		guarded, err := g.CheckRequest(r)
		if err != nil {
			WriteError(w, err)
			return
		}
		next.ServeHTTP(w, guarded)
	})
}

// CheckRequest returns the request for the handler, whose context has the identity of the caller, or the error for
// [WriteError]. It is for frameworks whose middlewares are not those of net/http.
func (g *Guard) CheckRequest(r *http.Request) (*http.Request, error) {
	// Some routers match the path as it was sent, so an unusual encoding of an open path is not open.
	path := cmp.Or(r.URL.RawPath, r.URL.Path)
	ctx, _, err := g.Check(r.Context(), path, r.Header.Values("authorization"))
	if err != nil {
		return nil, err
	}
	return r.WithContext(ctx), nil
}

// WriteError answers a request with the error of a guard: a [RejectedError] is 401 or 403 with the reason, and every
// other error is 503. The answers are those of Latchkey's `/forward-auth`.
func WriteError(w http.ResponseWriter, err error) {
	header := w.Header()
	header.Set("cache-control", "no-store")
	header.Set("content-type", "application/json")
	body := denialBody{Reason: outageCause, Message: outageText}
	code := http.StatusServiceUnavailable
	var denial *RejectedError
	if errors.As(err, &denial) {
		code = denial.httpStatus()
		header.Set("x-latchkey-reason", denial.Reason)
		if challenge := denial.challenge(); challenge != "" {
			header.Set("www-authenticate", challenge)
		}
		body = denialBody{denial.Reason, denial.Message, &denial.Terminal, rfc3339(denial.At), denial.ByDevice}
	} else {
		header.Set("retry-after", strconv.Itoa(int(retryAfter.Seconds())))
	}
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	// The body consists of texts and a boolean, which are always encoded.
	_ = encoder.Encode(body)
	w.WriteHeader(code)
	// A client that has gone gets no answer.
	_, _ = w.Write(bytes.TrimSpace(text.Bytes()))
}

type denialBody struct {
	Reason   string `json:"reason"`
	Message  string `json:"message"`
	Terminal *bool  `json:"terminal,omitempty"`
	At       string `json:"at,omitempty"`
	ByDevice string `json:"by_device,omitempty"`
}

func (e *RejectedError) httpStatus() int {
	switch e.Reason {
	case "ACCOUNT_DISABLED", "ROLE_REQUIRED", "SLOT_REQUIRED":
		return http.StatusForbidden
	}
	return http.StatusUnauthorized
}

// Returns the value of `www-authenticate` (RFC 6750 section 3), or "" for a disabled account, which no token opens.
func (e *RejectedError) challenge() string {
	failure := "invalid_token"
	switch {
	case e.Reason == "ACCOUNT_DISABLED":
		return ""
	case e.Reason == "TOKEN_REQUIRED":
		return `Bearer realm="latchkey"`
	case e.Reason == "ROLE_REQUIRED" || e.Reason == "SLOT_REQUIRED":
		failure = "insufficient_scope"
	case e.malformed:
		failure = "invalid_request"
	}
	// The description is the reason, which is ASCII. The message can contain the name of a device.
	return `Bearer realm="latchkey", error="` + failure + `", error_description="` + e.Reason + `"`
}

// The latest time that RFC 3339 can express.
var maxTime = time.Date(9999, 12, 31, 23, 59, 59, 999_999_000, time.UTC)

// Formats a time in UTC with six decimal places. The zero time is "".
func rfc3339(at time.Time) string {
	if at.IsZero() {
		return ""
	}
	if at.After(maxTime) {
		at = maxTime
	}
	return at.UTC().Format("2006-01-02T15:04:05.000000Z")
}
