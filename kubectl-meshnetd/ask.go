// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"golang.org/x/term"
)

// each asks all places, so many at once, each for as long as it may take. What they say is taken one by one, as it comes. It
// ends when all have answered or failed.
func each[T any](ctx context.Context, c *cluster, places []place, ask func(context.Context, place) (T, error), take func(place, T, error)) {
	type answer struct {
		at  place
		say T
		err error
	}
	next, answers := make(chan place), make(chan answer)
	var asking sync.WaitGroup
	for range min(c.parallel, len(places)) {
		asking.Go(func() {
			for at := range next {
				ctx, cancel := context.WithTimeout(ctx, c.patience)
				say, err := ask(ctx, at)
				cancel()
				answers <- answer{at, say, err}
			}
		})
	}
	go func() {
		for _, at := range places {
			next <- at
		}
		close(next)
		asking.Wait()
		close(answers)
	}()
	for a := range answers {
		take(a.at, a.say, a.err)
	}
}

// progress is a bar on a terminal, below what is printed meanwhile; nowhere else.
type progress struct {
	to          io.Writer // nil where there is no terminal
	done, whole int
}

func newProgress(to io.Writer, whole int) *progress {
	if file, ok := to.(*os.File); !ok || !term.IsTerminal(int(file.Fd())) {
		to = nil
	}
	p := &progress{to: to, whole: whole}
	p.show()
	return p
}

const barWidth = 30

func (p *progress) show() {
	if p.to != nil && p.done < p.whole {
		full := barWidth * p.done / p.whole
		fmt.Fprintf(p.to, "\r[%s%s] %d of %d nodes", strings.Repeat("#", full), strings.Repeat(".", barWidth-full), p.done, p.whole)
	}
}

// step counts one more, and has the line of the bar free while print runs.
func (p *progress) step(print func()) {
	if p.to != nil {
		fmt.Fprint(p.to, "\r\x1b[K")
	}
	print()
	p.done++
	p.show()
}
