// Package detached runs the handler of a stream in a goroutine of its own, so that the stream can end before it.
package detached

import (
	"fmt"
	"runtime/debug"
)

// Outcome is how a handler has ended.
type Outcome struct {
	// Err is its error.
	Err error
	// Panicked is its panic, or nil.
	Panicked *Panicked
}

// Panicked is a panic of a handler, for interceptors around the guard that recover from panics.
type Panicked struct {
	value any
	stack []byte
}

func (p *Panicked) Error() string { return fmt.Sprintf("%v\n\n%s", p.value, p.stack) }

// Unwrap returns the error that the handler panicked with, if it was one.
func (p *Panicked) Unwrap() error {
	err, _ := p.value.(error)
	return err
}

// Run starts a handler and returns a channel with its outcome.
func Run(handler func() error) <-chan Outcome {
	returned := make(chan Outcome, 1)
	go func() {
		var outcome Outcome
		defer func() {
			if value := recover(); value != nil {
				outcome.Panicked = &Panicked{value, debug.Stack()}
			}
			returned <- outcome
		}()
		outcome.Err = handler()
	}()
	return returned
}
