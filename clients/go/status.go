package latchkey

import (
	"maps"
	"strconv"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/latchkey-auth/latchkey/clients/go/latchkeyv1"
)

// The domain of every ErrorInfo, as in Latchkey.
const domain = "latchkey"

// The retry delay after an outage, as in Latchkey.
const retryAfter = time.Second

// Denial: Latchkey rejected the token.
func rejected(rejection *latchkeyv1.Rejection) error {
	name, known := latchkeyv1.RejectionReason_name[int32(rejection.GetReason())]
	if !known || rejection.GetReason() == latchkeyv1.RejectionReason_REJECTION_REASON_UNSPECIFIED {
		name = latchkeyv1.RejectionReason_REJECTION_REASON_UNKNOWN_SESSION.String()
	}
	metadata := map[string]string{"terminal": strconv.FormatBool(rejection.GetTerminal())}
	if at := rejection.GetAt(); at != nil {
		metadata["at_unix"] = strconv.FormatInt(at.GetSeconds(), 10)
	}
	if device := rejection.GetByDevice(); device != "" {
		metadata["by_device"] = device
	}
	code := codes.Unauthenticated
	if rejection.GetReason() == latchkeyv1.RejectionReason_REJECTION_REASON_ACCOUNT_DISABLED {
		code = codes.PermissionDenied
	}
	return of(code, rejection.GetMessage(), strings.TrimPrefix(name, "REJECTION_REASON_"), metadata)
}

// Denial: the call has no token.
func tokenRequired() error {
	return denied(codes.Unauthenticated, "Please log in: there is no access token.", "TOKEN_REQUIRED", nil)
}

// Denial: `authorization` is not exactly one bearer token.
func malformed(message string) error {
	return denied(codes.Unauthenticated, message, "MALFORMED", nil)
}

// Denial: the session is live, but in another slot.
func slotRequired(slot string) error {
	return denied(codes.PermissionDenied, "This needs a session in the slot `"+slot+"`.", "SLOT_REQUIRED",
		map[string]string{"slot": slot})
}

// Denial: the session is live, but its user lacks the role.
func roleRequired(role string) error {
	return denied(codes.PermissionDenied, "This needs the role `"+role+"`.", "ROLE_REQUIRED",
		map[string]string{"role": role})
}

// A denial with the same text as for gateways. A client may log in again automatically.
func denied(code codes.Code, message, reason string, about map[string]string) error {
	metadata := map[string]string{"terminal": "false"}
	maps.Copy(metadata, about)
	return of(code, message, reason, metadata)
}

// Error: there is no verdict. It says nothing about the token; the log has the cause.
func unavailable() error {
	const message = "the session cannot be checked at the moment: try again"
	retry := &errdetails.RetryInfo{RetryDelay: durationpb.New(retryAfter)}
	return of(codes.Unavailable, message, "STORE_UNAVAILABLE", nil, retry)
}

func of(code codes.Code, message, reason string, metadata map[string]string, more ...protoadapt.MessageV1) error {
	info := &errdetails.ErrorInfo{Reason: reason, Domain: domain, Metadata: metadata}
	answer := status.New(code, message)
	if detailed, err := answer.WithDetails(append([]protoadapt.MessageV1{info}, more...)...); err == nil {
		answer = detailed
	}
	return answer.Err()
}
