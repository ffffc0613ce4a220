// Package latchkey guards Go services with Latchkey, the authentication service in which the latest login wins, and calls
// it.
//
// A [Guard] takes the bearer token from `authorization`, validates it with Latchkey, and gives the handler the identity of
// the caller ([FromContext]). It guards HTTP handlers ([Guard.Handler]), gRPC servers ([Guard.ServerOptions]) and, with the
// package latchkeyconnect, the handlers of connect-go. A denied request gets the reason. While Latchkey does not answer,
// requests get 503 or UNAVAILABLE. gRPC and Connect streams end when the session of their caller ends.
//
// A [Client] logs users in and out, validates tokens and manages sessions. The generated clients of all services are in
// latchkeyv1.
package latchkey

//go:generate buf generate
