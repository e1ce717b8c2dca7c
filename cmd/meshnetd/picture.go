// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/meshnetd/meshnetd/explain"
	"github.com/meshnetd/meshnetd/rules/draw"
	"github.com/meshnetd/meshnetd/status"
)

// explaining returns what prints an explanation in a format, with the way of a packet where one is named.
func explaining(format, packet string) (func(io.Writer, explained) error, error) {
	plain, ok := map[string]func(io.Writer, status.Explanation) error{"text": explain.Print, "json": printDocument[status.Explanation]}[format]
	drawing, draws := map[string]func(draw.Picture) string{"svg": draw.Picture.SVG, "dot": draw.Picture.DOT}[format]
	switch {
	case !ok && !draws:
		return nil, fmt.Errorf("output %q is none of text, json, svg, dot", format)
	case packet != "" && !draws:
		return nil, errors.New("--packet is for a picture (-o svg, -o dot); `meshnetd trace` says the same in words")
	case ok:
		return func(w io.Writer, x explained) error { return plain(w, x.Explanation) }, nil
	}
	var q *explain.Question
	if packet != "" {
		asked, err := explain.ParseQuestion(packet)
		if err != nil {
			return nil, err
		}
		q = &asked
	}
	return func(w io.Writer, x explained) error {
		p, err := x.picture(q)
		if err == nil {
			_, err = io.WriteString(w, drawing(p))
		}
		return err
	}, nil
}

// picture is what there is to draw of a pod.
func (x explained) picture(q *explain.Question) (draw.Picture, error) {
	p := draw.Picture{Title: "pod " + x.Namespace + "/" + x.Name,
		Lines: append([]string{fmt.Sprintf("%s (%s: %s)", x.Action, x.Reason, x.Detail)}, x.Notes...)}
	for _, gap := range x.NotCaptured {
		p.Around = append(p.Around, gap.What)
	}
	plan, err := explain.PlanOf(status.Plan{Key: x.Key, Rules: x.Rules, Routes: x.Routes, Loopback: x.Loopback})
	if err != nil {
		return p, &exit{exitFailed, err}
	}
	p.Plan = plan
	if q == nil {
		return p, nil
	}
	interfaces, err := x.interfaces()
	if err != nil {
		return p, &exit{exitFailed, err}
	}
	path, _, err := q.Path(p.Plan, interfaces)
	if err != nil {
		return p, untraceable(err)
	}
	p.Way, p.Around = &path, nil
	p.Lines = append(p.Lines, path.Packet.String(), explain.Ending(path))
	return p, nil
}
