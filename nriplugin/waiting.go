// SPDX-License-Identifier: Apache-2.0

package nriplugin

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"time"
)

// Cause is a word for why there is no session with the runtime.
type Cause string

// The causes.
const (
	NoSocket       Cause = "socket"       // nobody is at the socket
	Queue          Cause = "queue"        // the runtime has not come to us yet: it takes one plugin after the other
	Unregistered   Cause = "registration" // it closed the connection before it knew what we want
	Unsynchronized Cause = "synchronize"  // it closed the connection before it had told which pods there are
	RuntimeGone    Cause = "runtime_gone" // it ended before it had told that
)

// Causes are all of them.
var Causes = []Cause{NoSocket, Queue, Unregistered, Unsynchronized, RuntimeGone}

// Waiting is why there is no session, in a word and in sentences.
type Waiting struct {
	Cause Cause
	Why   error
}

var (
	errQueue = errors.New("waiting in the runtime's queue: it takes plugins one after the other, and gives each five seconds to " +
		"register; others that connected to the NRI socket and say nothing are before meshnetd")
	errUnsynchronized = errors.New("the runtime closed the connection before it had told which pods there are; it tells four pods and " +
		"four containers in one message of at most 4 MiB, so that the likely cause is containers with megabytes of environment or " +
		"arguments: no plugin can connect until they are gone, and docs/troubleshooting.md says how to find them")
	errRestarted = errors.New("the runtime was started anew")
	errRest      = errors.New("the runtime is back, and left alone for a while")
)

// stage is how far a session came.
type stage int

const (
	away       stage = iota // there is no runtime, or it is being left alone
	connected               // it is not known what the runtime would have done
	configured              // the runtime knows what we want, and has not told all pods
	ready
)

// ended is a session that is over.
type ended struct {
	stage  stage
	socket fs.FileInfo // of the socket that was connected to; nil where nobody was there
	lasted time.Duration
	err    error
}

const (
	firstPause   = 100 * time.Millisecond
	longestPause = 5 * time.Second
	firstRest    = time.Minute
	longestRest  = 5 * time.Minute
	tooOften     = 2 // ends of the runtime in a row from which it is likely that we cause them
)

// pace decides how long the runtime is left alone between sessions. Telling its pods may crash a runtime, whichever plugin
// asks: then each session would crash it again, and it must have minutes in which the node can be repaired. A restart
// shows in its socket, which is a new one then.
type pace struct {
	pause   time.Duration
	suspect fs.FileInfo   // the socket of the last session, where that ended while the runtime was to tell its pods
	gone    int           // such sessions in a row that ended with the runtime
	rest    time.Duration // how long the runtime is left alone once it is back
}

// allow returns why there is to be no session now with the runtime whose socket this is.
func (p *pace) allow(socket fs.FileInfo) error {
	switch {
	case p.suspect != nil && !same(p.suspect, socket):
		return errRestarted
	case p.rest > 0:
		return errRest
	}
	return nil
}

// next returns how long to wait after a session.
func (p *pace) next(e ended) time.Duration {
	suspect := p.suspect
	p.suspect = nil
	switch {
	case e.stage == ready:
		p.gone = 0
	case e.stage == away && suspect != nil:
		if p.gone++; p.gone >= tooOften {
			p.rest = min(firstRest<<min(p.gone-tooOften, 8), longestRest)
		}
	case e.stage != away && suspect != nil: // it closed the connection, but is still running
		p.gone = 0
	}
	if e.stage == configured {
		p.suspect = e.socket
	}
	if p.rest > 0 && e.socket != nil {
		rest := p.rest
		p.rest = 0
		return rest
	}
	if e.lasted > longestPause { // else a runtime that disconnects us at once would be asked too often
		p.pause = firstPause
		if e.stage == ready {
			return 0
		}
	}
	pause := cmp.Or(p.pause, firstPause)
	p.pause = min(2*pause, longestPause)
	return pause/2 + rand.N(pause/2+1)
}

// why says why there is no session after this one, and how long it will take until the next try.
func (p *pace) why(e ended, pause time.Duration) Waiting {
	switch {
	case e.stage == away && p.gone > 0:
		err := fmt.Errorf("the runtime ended before it had told which pods there are, %d times one after the other: %w", p.gone, e.err)
		if pause >= firstRest {
			err = fmt.Errorf("%w, so that the node has one: the next try is in %s, and a restart of meshnetd is a try at once; the likely "+
				"cause is containers with megabytes of environment or arguments, and docs/troubleshooting.md says how to find them", err, pause)
		}
		return Waiting{RuntimeGone, err}
	case e.stage == away:
		return Waiting{NoSocket, e.err}
	case e.stage == configured:
		return Waiting{Unsynchronized, e.err}
	}
	return Waiting{Unregistered, e.err}
}

// same reports whether both are the socket of one runtime.
func same(a, b fs.FileInfo) bool {
	return a != nil && b != nil && os.SameFile(a, b) && a.ModTime().Equal(b.ModTime())
}
