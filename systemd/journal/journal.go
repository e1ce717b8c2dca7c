// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package journal writes log records to systemd's journal, each attribute as a field of its own. It is the only
// place that knows the journal.
package journal

import (
	"context"
	"log/slog"
	"strconv"
	"strings"

	"github.com/coreos/go-systemd/v22/journal"
)

// prefix is that of the fields that are this program's own.
const prefix = "MESHNETD_"

// Connected reports whether standard error ends in the journal of this machine. JOURNAL_STREAM alone does not say
// so: children of a unit have it, too, and may write elsewhere.
func Connected() bool {
	connected, err := journal.StderrIsJournalStream()
	return err == nil && connected
}

// Handler is a slog.Handler over a Queue. The attribute "key" is the field MESHNETD_KEY, and "pod" gives
// MESHNETD_NAMESPACE beside its own. An attribute that comes several times is one field with a line for each.
type Handler struct {
	queue  *Queue
	level  slog.Leveler
	fields []field
	group  string // of the attributes that are to come, with its underscore
}

type field struct{ key, value string }

// NewHandler returns a handler that puts what is at the level or above into the queue.
func NewHandler(queue *Queue, level slog.Leveler) *Handler {
	return &Handler{queue: queue, level: level}
}

// Enabled reports whether records of that level are written.
func (h *Handler) Enabled(_ context.Context, level slog.Level) bool { return level >= h.level.Level() }

// Handle puts the record into the queue. It never waits and never fails: what does not fit is counted there.
func (h *Handler) Handle(_ context.Context, record slog.Record) error {
	fields := h.fields[:len(h.fields):len(h.fields)]
	record.Attrs(func(a slog.Attr) bool {
		fields = appendAttr(fields, h.group, a)
		return true
	})
	h.queue.put(entryOf(record, fields))
	return nil
}

// WithAttrs returns a handler whose records all have these attributes.
func (h *Handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	with := *h
	with.fields = h.fields[:len(h.fields):len(h.fields)]
	for _, a := range attrs {
		with.fields = appendAttr(with.fields, h.group, a)
	}
	return &with
}

// WithGroup returns a handler that puts the name before those of the attributes that follow.
func (h *Handler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	with := *h
	with.group += name + "_"
	return &with
}

func appendAttr(fields []field, group string, a slog.Attr) []field {
	value := a.Value.Resolve()
	switch {
	case a.Equal(slog.Attr{}):
		return fields
	case value.Kind() == slog.KindGroup:
		if a.Key != "" {
			group += a.Key + "_"
		}
		for _, inner := range value.Group() {
			fields = appendAttr(fields, group, inner)
		}
		return fields
	}
	return append(fields, field{group + a.Key, value.String()})
}

// entry is one record of the journal.
type entry struct {
	message  string
	priority journal.Priority
	vars     map[string]string
}

func entryOf(record slog.Record, fields []field) entry {
	vars := map[string]string{"SYSLOG_IDENTIFIER": "meshnetd"}
	for _, f := range fields {
		add(vars, f.key, f.value)
		switch f.key {
		case "event":
			if id, known := messageIDs[f.value]; known {
				vars["MESSAGE_ID"] = id
			}
		case "pod":
			namespace, _, _ := strings.Cut(f.value, "/")
			add(vars, "namespace", namespace)
		}
	}
	if _, said := vars[prefix+"ERROR"]; !said && record.Level >= slog.LevelError {
		add(vars, "error", record.Message) // a line at this level is the error itself where it names no other
	}
	return entry{sentence(record.Message, fields), priority(record.Level), vars}
}

// add sets a field, or adds a line to it. A NUL would end the field for some readers of the journal.
func add(vars map[string]string, key, value string) {
	name := Field(key)
	if before, there := vars[name]; there {
		value = before + "\n" + value
	}
	vars[name] = strings.ReplaceAll(value, "\x00", "\uFFFD")
}

// Field returns the name of the field for an attribute: the journal takes upper-case letters, digits and
// underscores, 64 bytes at most.
func Field(key string) string {
	name := prefix + strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z':
			return r - 'a' + 'A'
		case 'A' <= r && r <= 'Z', '0' <= r && r <= '9':
			return r
		}
		return '_'
	}, key)
	return name[:min(len(name), 64)]
}

func priority(level slog.Level) journal.Priority {
	switch {
	case level >= slog.LevelError:
		return journal.PriErr
	case level >= slog.LevelWarn:
		return journal.PriWarning
	case level >= slog.LevelInfo:
		return journal.PriInfo
	}
	return journal.PriDebug
}

// sentence is what journalctl shows: who only reads that must still see which pod it is about and what is wrong.
// Of what is no pod's all attributes are shown, since there is nothing else to look at.
func sentence(message string, fields []field) string {
	var event, pod, failure, repeated string
	var others []string
	for _, f := range fields {
		switch f.key {
		case "event":
			event = f.value
		case "pod":
			pod = f.value
		case "error":
			failure = f.value
		case "repeated":
			repeated = f.value
		case "stack":
		default:
			others = append(others, f.key+"="+quoted(f.value))
		}
	}
	var b strings.Builder
	for _, word := range []string{event, pod} {
		if word != "" && b.Len() > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(word)
	}
	if b.Len() > 0 {
		b.WriteString(": ")
	}
	b.WriteString(message)
	if failure != "" {
		b.WriteString(": " + failure)
	}
	if repeated != "" {
		b.WriteString(" (" + repeated + " more since this was last logged)")
	}
	if pod == "" && len(others) > 0 {
		b.WriteString(" (" + strings.Join(others, ", ") + ")")
	}
	return b.String()
}

func quoted(value string) string {
	if value == "" || strings.ContainsAny(value, " ,\"\n\t()") {
		return strconv.Quote(value)
	}
	return value
}
