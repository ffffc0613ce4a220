package latchkey

import (
	"maps"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/latchkey-auth/latchkey/clients/go/latchkeyv1"
)

const (
	// The domain of every ErrorInfo, as in Latchkey.
	domain = "latchkey"
	// The retry delay after an outage, as in Latchkey.
	retryAfter = time.Second
	// Longer tokens are rejected without a request. Latchkey accepts at most 4 KiB, and answers a message above its
	// size limit with an error, which would be taken for an outage.
	maxToken = 16 << 10

	manyTokens  = "There is more than one `authorization`."
	notBearer   = "The header `authorization` is not of the form `Bearer <token>`."
	notAToken   = "This is not an access token of this service."
	outageText  = "the session cannot be checked at the moment: try again"
	outageCause = "STORE_UNAVAILABLE"
)

// Denial: Latchkey rejected the token.
func rejected(rejection *latchkeyv1.Rejection) *RejectedError {
	name := knownReason(strings.TrimPrefix(rejection.GetReason().String(), "REJECTION_REASON_"))
	err := &RejectedError{
		Reason: name, Message: rejection.GetMessage(), Terminal: rejection.GetTerminal(), ByDevice: rejection.GetByDevice(),
	}
	metadata := map[string]string{"terminal": strconv.FormatBool(rejection.GetTerminal())}
	if at := rejection.GetAt(); at != nil {
		err.At = at.AsTime()
		metadata["at_unix"] = strconv.FormatInt(at.GetSeconds(), 10)
	}
	if err.ByDevice != "" {
		metadata["by_device"] = err.ByDevice
	}
	code := codes.Unauthenticated
	if name == "ACCOUNT_DISABLED" {
		code = codes.PermissionDenied
	}
	err.status = withDetails(code, err.Message, name, metadata)
	return err
}

// Denial: there is no token.
func tokenRequired() *RejectedError {
	return denied(codes.Unauthenticated, "Please log in: there is no access token.", "TOKEN_REQUIRED", nil)
}

// Denial: `authorization` is not exactly one bearer token.
func malformed(message string) *RejectedError {
	err := denied(codes.Unauthenticated, message, "MALFORMED", nil)
	err.malformed = true
	return err
}

// Denial: the session is live, but in another slot.
func slotRequired(slot string) *RejectedError {
	return denied(codes.PermissionDenied, "This needs a session in the slot `"+slot+"`.", "SLOT_REQUIRED",
		map[string]string{"slot": slot})
}

// Denial: the session is live, but its user lacks the role.
func roleRequired(role string) *RejectedError {
	return denied(codes.PermissionDenied, "This needs the role `"+role+"`.", "ROLE_REQUIRED",
		map[string]string{"role": role})
}

// A denial with the same text as for gateways. A client may log in again automatically.
func denied(code codes.Code, message, reason string, about map[string]string) *RejectedError {
	metadata := map[string]string{"terminal": "false"}
	maps.Copy(metadata, about)
	return &RejectedError{
		rpcStatus: rpcStatus{withDetails(code, message, reason, metadata)}, Reason: reason, Message: message,
	}
}

// Error: there is no verdict. It says nothing about the token; the log has the cause.
func unavailable() *UnavailableError {
	retry := &errdetails.RetryInfo{RetryDelay: durationpb.New(retryAfter)}
	answer := withDetails(codes.Unavailable, outageText, outageCause, nil, retry)
	return &UnavailableError{rpcStatus{answer}, retryAfter}
}

func withDetails(
	code codes.Code, message, reason string, metadata map[string]string, more ...protoadapt.MessageV1,
) *status.Status {
	info := &errdetails.ErrorInfo{Reason: reason, Domain: domain, Metadata: metadata}
	answer := status.New(code, message)
	if detailed, err := answer.WithDetails(append([]protoadapt.MessageV1{info}, more...)...); err == nil {
		answer = detailed
	}
	return answer
}

// Returns the token of exactly one `authorization: Bearer ...`, parsed as in Latchkey.
func bearer(values []string) (string, *RejectedError) {
	switch len(values) {
	case 0:
		return "", tokenRequired()
	case 1:
	default:
		// Proxies disagree on which of them counts, so the guard does not guess.
		return "", malformed(manyTokens)
	}
	if value := strings.Trim(values[0], " \t\r\n\f"); value == "" || strings.EqualFold(value, "bearer") {
		// A client without a token that sends the header anyway.
		return "", tokenRequired()
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	token = strings.Trim(token, " ")
	switch {
	case !strings.EqualFold(scheme, "bearer") || token == "" || !utf8.ValidString(token):
		return "", malformed(notBearer)
	case strings.Contains(token, ","):
		// Proxies join values with commas, and a token never contains one.
		return "", malformed(manyTokens)
	}
	return token, tooLong(token)
}

func tooLong(token string) *RejectedError {
	if len(token) <= maxToken {
		return nil
	}
	return denied(codes.Unauthenticated, notAToken, "MALFORMED", nil)
}
