package latchkey

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/latchkey-auth/latchkey/clients/go/latchkeyv1"
)

// Makes a request to a guarded handler, which answers with the name of the user.
func get(guard *Guard, path string, authorization ...string) *http.Response {
	handler := guard.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := "nobody"
		if caller, ok := FromContext(r.Context()); ok {
			name = caller.Username
		}
		_, _ = io.WriteString(w, name)
	}))
	request := httptest.NewRequest(http.MethodGet, path, nil)
	request.Header["Authorization"] = authorization
	answer := httptest.NewRecorder()
	handler.ServeHTTP(answer, request)
	return answer.Result()
}

func expectAnswer(t *testing.T, answer *http.Response, code int, headers map[string]string, body string) {
	t.Helper()
	text, _ := io.ReadAll(answer.Body)
	if answer.StatusCode != code || string(text) != body {
		t.Errorf("%d %s\ninstead of %d %s", answer.StatusCode, text, code, body)
	}
	for _, name := range []string{"x-latchkey-reason", "www-authenticate", "retry-after"} {
		if value := answer.Header.Get(name); value != headers[name] {
			t.Errorf("%s: %q instead of %q", name, value, headers[name])
		}
	}
	if code != http.StatusOK &&
		(answer.Header.Get("cache-control") != "no-store" || answer.Header.Get("content-type") != "application/json") {
		t.Errorf("%v", answer.Header)
	}
}

const challengeBegin = `Bearer realm="latchkey", error="`

func TestAnHTTPHandlerIsGuarded(t *testing.T) {
	guard := guardOf(t, &fakeLatchkey{answer: live()}, WithOpenPaths("/healthz"))
	expectAnswer(t, get(guard, "/a?b=c", "Bearer t"), http.StatusOK, nil, "anna")
	expectAnswer(t, get(guard, "/healthz"), http.StatusOK, nil, "nobody")
	for _, path := range []string{"/healthz/", "/healthz/a", "/Healthz", "/", "//healthz", "/%68ealthz", "/%68ealthz/.."} {
		if answer := get(guard, path); answer.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s is open", path)
		}
	}
}

func TestDenialsOverHTTPAreThoseOfGateways(t *testing.T) {
	missing := map[string]string{"x-latchkey-reason": "TOKEN_REQUIRED", "www-authenticate": `Bearer realm="latchkey"`}
	noToken := `{"reason":"TOKEN_REQUIRED","message":"Please log in: there is no access token.","terminal":false}`
	guard := guardOf(t, &fakeLatchkey{answer: live()})
	for _, values := range [][]string{nil, {""}, {"Bearer"}, {"bearer  "}, {"\t"}} {
		expectAnswer(t, get(guard, "/", values...), http.StatusUnauthorized, missing, noToken)
	}

	invalid := map[string]string{
		"x-latchkey-reason": "MALFORMED",
		"www-authenticate":  challengeBegin + `invalid_request", error_description="MALFORMED"`,
	}
	several := `{"reason":"MALFORMED","message":"There is more than one ` + "`authorization`" + `.","terminal":false}`
	for _, values := range [][]string{{"Bearer a", "Bearer b"}, {"Bearer a, Bearer b"}, {"", ""}} {
		expectAnswer(t, get(guard, "/", values...), http.StatusUnauthorized, invalid, several)
	}
	other := `{"reason":"MALFORMED","message":"The header ` + "`authorization` is not of the form `Bearer <token>`" +
		`.","terminal":false}`
	for _, value := range []string{"Basic YTpi", "Bearers", "t", "Bearer \xff"} {
		expectAnswer(t, get(guard, "/", value), http.StatusUnauthorized, invalid, other)
	}

	token := map[string]string{
		"x-latchkey-reason": "MALFORMED",
		"www-authenticate":  challengeBegin + `invalid_token", error_description="MALFORMED"`,
	}
	expectAnswer(t, get(guard, "/", "Bearer "+strings.Repeat("x", 1<<17)), http.StatusUnauthorized, token,
		`{"reason":"MALFORMED","message":"This is not an access token of this service.","terminal":false}`)

	for _, test := range []struct {
		guard                  *Guard
		code                   int
		reason, failure, wrote string
	}{
		{guard.With(WithRequiredRole("admin")), 403, "ROLE_REQUIRED", "insufficient_scope", "This needs the role `admin`."},
		{guard.With(WithRequiredSlot("tv")), 403, "SLOT_REQUIRED", "insufficient_scope", "This needs a session in the slot `tv`."},
	} {
		expectAnswer(t, get(test.guard, "/", "Bearer t"), test.code, map[string]string{
			"x-latchkey-reason": test.reason,
			"www-authenticate":  challengeBegin + test.failure + `", error_description="` + test.reason + `"`,
		}, `{"reason":"`+test.reason+`","message":"`+test.wrote+`","terminal":false}`)
	}
	expectAnswer(t, get(guard, "/", "Bearer t"), http.StatusOK, nil, "anna")
}

func TestRejectionsOverHTTPHaveAllDetails(t *testing.T) {
	fake := &fakeLatchkey{answer: rejection(&latchkeyv1.Rejection{
		Reason: latchkeyv1.RejectionReason_REJECTION_REASON_REPLACED, Terminal: true, ByDevice: `Zoë’s "<TV>"`,
		Message: "<Bye> & 再见", At: timestamppb.New(time.Date(2026, 7, 29, 16, 34, 56, 100_000_999, time.UTC)),
	})}
	expectAnswer(t, get(guardOf(t, fake), "/", "Bearer t"), http.StatusUnauthorized, map[string]string{
		"x-latchkey-reason": "REPLACED",
		"www-authenticate":  challengeBegin + `invalid_token", error_description="REPLACED"`,
	}, `{"reason":"REPLACED","message":"<Bye> & 再见","terminal":true,"at":"2026-07-29T16:34:56.100000Z",`+
		`"by_device":"Zoë’s \"<TV>\""}`)

	fake = &fakeLatchkey{answer: rejection(&latchkeyv1.Rejection{
		Reason: latchkeyv1.RejectionReason_REJECTION_REASON_ACCOUNT_DISABLED, Terminal: true, Message: "No.",
	})}
	expectAnswer(t, get(guardOf(t, fake), "/", "Bearer t"), http.StatusForbidden,
		map[string]string{"x-latchkey-reason": "ACCOUNT_DISABLED"},
		`{"reason":"ACCOUNT_DISABLED","message":"No.","terminal":true}`)
}

func TestAnOutageOverHTTPIsNeverADenial(t *testing.T) {
	outage := `{"reason":"STORE_UNAVAILABLE","message":"the session cannot be checked at the moment: try again"}`
	for code := codes.Canceled; code <= codes.Unauthenticated; code++ {
		guard := guardOf(t, &fakeLatchkey{err: status.Error(code, "told to the guard alone")})
		expectAnswer(t, get(guard, "/", "Bearer t"), http.StatusServiceUnavailable,
			map[string]string{"retry-after": "1"}, outage)
	}
}

func TestAGuardWithMoreOptionsLeavesTheFirstAlone(t *testing.T) {
	fake := &fakeLatchkey{answer: live()}
	guard := guardOf(t, fake, WithOpenPaths("/a"))
	other := guard.With(WithOpenPaths("/b"), WithPeek(), WithRequiredRole("admin"), WithLogger(slog.Default()))
	expectAnswer(t, get(guard, "/x", "Bearer t"), http.StatusOK, nil, "anna")
	if fake.asked.GetPeek() || get(guard, "/b").StatusCode != http.StatusUnauthorized {
		t.Error("the options of the other count")
	}
	for _, path := range []string{"/a", "/b"} {
		expectAnswer(t, get(other, path), http.StatusOK, nil, "nobody")
	}
	if get(other, "/x", "Bearer t").StatusCode != http.StatusForbidden || !fake.asked.GetPeek() {
		t.Error("its options do not count")
	}
}

func TestNothingShowsTheCallerKey(t *testing.T) {
	guard := guardOf(t, &fakeLatchkey{}, WithCallerKey("secret"))
	client := NewClient(nil, WithCallerKey("secret"))
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		if shown := fmt.Sprintf(format+format, guard, client); strings.Contains(shown, "secret") {
			t.Errorf("%s: %s", format, shown)
		}
	}
}
