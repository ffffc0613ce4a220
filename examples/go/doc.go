// Package examples contains a guarded service for each framework, one in each folder.
package examples

//go:generate buf generate
