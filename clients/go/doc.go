// Package latchkey guards gRPC servers with Latchkey, the authentication service in which the latest login wins.
//
// A [Guard] takes the bearer token from the metadata `authorization` of every call, validates it with Latchkey, and
// gives the handler the identity of the caller ([FromContext]). A denied call gets the reason in a
// google.rpc.ErrorInfo. While Latchkey does not answer, calls get UNAVAILABLE. Streams end when the session of their
// caller ends.
//
// The generated client of Latchkey's services is in latchkeyv1.
package latchkey

//go:generate buf generate
