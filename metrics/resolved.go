// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"maps"
	"sync"
	"sync/atomic"
)

// resolved caches the metric for each set of labels, so that counting takes one map look-up and no lock.
type resolved[K comparable, M any] struct {
	resolve func(K) M
	most    int // sets of labels; further ones share rest
	rest    K

	all atomic.Pointer[map[K]M]
	mu  sync.Mutex // of who replaces the map
}

func (r *resolved[K, M]) get(key K) M {
	if all := r.all.Load(); all != nil {
		if m, known := (*all)[key]; known {
			return m
		}
	}
	return r.add(key)
}

func (r *resolved[K, M]) add(key K) M {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := map[K]M{}
	if all := r.all.Load(); all != nil {
		if m, known := (*all)[key]; known {
			return m
		}
		if len(*all) >= r.most {
			return r.resolve(r.rest)
		}
		maps.Copy(next, *all)
	}
	m := r.resolve(key)
	next[key] = m
	r.all.Store(&next)
	return m
}
