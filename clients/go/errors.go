package latchkey

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/latchkey-auth/latchkey/clients/go/latchkeyv1"
)

// The errors that need no more than a name, for [errors.Is].
var (
	// ErrInvalidCredentials means that the user is unknown or the password is wrong.
	ErrInvalidCredentials = errors.New("latchkey: unknown user or wrong password")
	// ErrAccountDisabled means that the account is disabled.
	ErrAccountDisabled = errors.New("latchkey: the account is disabled")
	// ErrAccountNotFound means that there is no such account.
	ErrAccountNotFound = errors.New("latchkey: there is no such account")
	// ErrNotAllowed means that the caller key is missing or unknown, or lacks the role that the method needs.
	ErrNotAllowed = errors.New("latchkey: this caller may not call the method")
	// ErrClosed means that the client was closed.
	ErrClosed = errors.New("latchkey: the client is closed")
)

// The gRPC status of an error.
type rpcStatus struct{ status *status.Status }

// GRPCStatus returns the gRPC status, with which a gRPC server answers if its handler returns the error.
func (s rpcStatus) GRPCStatus() *status.Status { return s.status }

// Unwrap returns the gRPC status as an error.
func (s rpcStatus) Unwrap() error { return s.status.Err() }

// RejectedError means that the token is not, or no longer, good, or that its session may not do this. Only this error
// means that the user has to log in.
type RejectedError struct {
	rpcStatus
	// Reason is the name of a RejectionReason such as "REPLACED", or "TOKEN_REQUIRED". From a guard it can also be
	// "ROLE_REQUIRED" or "SLOT_REQUIRED".
	Reason string
	// Message is a sentence for the user.
	Message string
	// Terminal means that a client must not log in again automatically, but let its user decide.
	Terminal bool
	// At is when the session ended. It is zero if that is not known.
	At time.Time
	// ByDevice is the device of the login that displaced the session. It can be empty.
	ByDevice string
	// The request did not have exactly one token, so that Latchkey was not asked.
	malformed bool
}

func (e *RejectedError) Error() string { return "latchkey: " + e.Reason + ": " + e.Message }

// Is reports whether the target is [ErrAccountDisabled] and the reason is ACCOUNT_DISABLED.
func (e *RejectedError) Is(target error) bool {
	return target == ErrAccountDisabled && e.Reason == "ACCOUNT_DISABLED"
}

// UnavailableError means that there is no answer: Latchkey is unreachable, overloaded or too slow, or the context is
// done. It says nothing about the token or the password.
type UnavailableError struct {
	rpcStatus
	// RetryAfter is the delay after which another attempt can help. It is zero if Latchkey did not say.
	RetryAfter time.Duration
}

func (e *UnavailableError) Error() string { return "latchkey: unavailable: " + e.status.Message() }

// Is reports whether the target is the error of a context for which the call ended.
func (e *UnavailableError) Is(target error) bool {
	switch target {
	case context.Canceled:
		return e.status.Code() == codes.Canceled
	case context.DeadlineExceeded:
		return e.status.Code() == codes.DeadlineExceeded
	}
	return false
}

// ThrottledError means that there were too many failed logins for this username or from this address, or that clients
// displace each other in turn.
type ThrottledError struct {
	rpcStatus
	// RetryAfter is the delay after which a login is possible again.
	RetryAfter time.Duration
}

func (e *ThrottledError) Error() string { return "latchkey: throttled: " + e.status.Message() }

// SessionLimitError means that the slot is full and the server's `session.on_limit` is `deny`. The fields describe its
// holder: the session that a login with Takeover displaces.
type SessionLimitError struct {
	rpcStatus
	// Slot is the slot.
	Slot string
	// Device is the device of the holder. It can be empty.
	Device string
	// IssuedAt is when the holder logged in.
	IssuedAt time.Time
	// Idle is for how long the holder has not used its session.
	Idle time.Duration
}

func (e *SessionLimitError) Error() string { return "latchkey: session limit: " + e.status.Message() }

// InvalidRequestError means that a field of the request is missing, too long or malformed.
type InvalidRequestError struct {
	rpcStatus
	// Field is the name of the field, as in the protocol. It can be empty.
	Field string
	// Description says what is wrong with it.
	Description string
}

func (e *InvalidRequestError) Error() string {
	if e.Field == "" {
		return "latchkey: invalid request: " + e.Description
	}
	return fmt.Sprintf("latchkey: invalid request: %s: %s", e.Field, e.Description)
}

// Error is every other error of Latchkey, also those that have a name for [errors.Is].
type Error struct {
	rpcStatus
	// Reason is the name of an ErrorReason such as "ACCOUNTS_READ_ONLY". It is empty if the status is not Latchkey's.
	Reason string
}

func (e *Error) Error() string {
	if e.Reason == "" {
		return fmt.Sprintf("latchkey: %v: %s", e.status.Code(), e.status.Message())
	}
	return "latchkey: " + e.Reason + ": " + e.status.Message()
}

// Is reports whether the target is the name of this error, such as [ErrInvalidCredentials].
func (e *Error) Is(target error) bool {
	switch target {
	case ErrInvalidCredentials:
		return e.Reason == "INVALID_CREDENTIALS"
	case ErrAccountDisabled:
		return e.Reason == "ACCOUNT_DISABLED"
	case ErrAccountNotFound:
		return e.Reason == "ACCOUNT_NOT_FOUND"
	case ErrNotAllowed:
		return e.Reason == "CALLER_UNAUTHENTICATED" || e.Reason == "CALLER_NOT_ALLOWED"
	case ErrClosed:
		return e.Reason == reasonClosed
	}
	return false
}

// The reason of calls after Close. It is not one of Latchkey.
const reasonClosed = "CLOSED"

// Returns the typed error for the error of a call.
func typed(err error) error {
	if err == nil {
		return nil
	}
	answer := status.Convert(err)
	base := rpcStatus{answer}
	info := &errdetails.ErrorInfo{}
	violation := &errdetails.BadRequest_FieldViolation{Description: answer.Message()}
	var retryAfter time.Duration
	for _, detail := range answer.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			if detail.GetDomain() == domain {
				info = detail
			}
		case *errdetails.RetryInfo:
			retryAfter = detail.GetRetryDelay().AsDuration()
		case *errdetails.BadRequest:
			if all := detail.GetFieldViolations(); len(all) > 0 {
				violation = all[0]
			}
		}
	}
	reason, about := info.GetReason(), info.GetMetadata()
	if _, rejected := about["terminal"]; rejected {
		rejection := &RejectedError{
			rpcStatus: base, Reason: knownReason(reason), Message: answer.Message(),
			Terminal: about["terminal"] == "true", ByDevice: about["by_device"],
		}
		if at, err := strconv.ParseInt(about["at_unix"], 10, 64); err == nil {
			rejection.At = time.Unix(at, 0)
		}
		return rejection
	}
	switch reason {
	case "THROTTLED":
		return &ThrottledError{base, retryAfter}
	case "SESSION_LIMIT":
		issued, _ := strconv.ParseInt(about["issued_at_unix"], 10, 64)
		idle, _ := strconv.ParseInt(about["idle_seconds"], 10, 64)
		return &SessionLimitError{base, about["slot"], about["device"], time.Unix(issued, 0), time.Duration(idle) * time.Second}
	case "INVALID_REQUEST":
		return &InvalidRequestError{base, violation.GetField(), violation.GetDescription()}
	case "OVERLOADED", "TOO_SLOW":
		return &UnavailableError{base, retryAfter}
	}
	switch answer.Code() {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
		return &UnavailableError{base, retryAfter}
	}
	return &Error{base, reason}
}

// A reason that this package does not know counts as UNKNOWN_SESSION.
func knownReason(name string) string {
	if _, known := latchkeyv1.RejectionReason_value["REJECTION_REASON_"+name]; known && name != "UNSPECIFIED" {
		return name
	}
	switch name {
	case "TOKEN_REQUIRED", "ROLE_REQUIRED", "SLOT_REQUIRED":
		return name
	}
	return "UNKNOWN_SESSION"
}
