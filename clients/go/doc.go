// Package latchkey guards gRPC servers with Latchkey, the authentication service in which the latest login wins.
//
// A [Guard] takes the bearer token from the metadata `authorization` of every call, asks Latchkey whether its
// session is live, and tells the handler whose it is ([FromContext]). Whoever is rejected is told why, in a
// google.rpc.ErrorInfo. Where Latchkey does not answer, nobody gets in: UNAVAILABLE. Streams end when the session of
// their caller does.
//
// The generated client of Latchkey's own services is in latchkeyv1.
package latchkey

//go:generate buf generate
