// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/meshnetd/meshnetd/internal/wire"
	"github.com/meshnetd/meshnetd/rules"
)

// What is read of a pod's message. Whoever writes longer arguments or a longer environment has them counted as unknown.
const (
	mostContainers = 1024
	mostGroups     = 1024
	mostTold       = 64 << 10 // bytes of a container's arguments, and of its environment
)

// What a word takes in memory beside its letters, in a list and in a table.
const (
	headerOfWord     = 24
	headerOfVariable = 64
)

// ReadProtobuf reads a v1.Pod as the API marshals it, without the status, the labels and the annotations. Beside an error it
// returns the pod's name and UID, as far as they were read before.
func ReadProtobuf(message []byte) (rules.Pod, error) {
	var d document
	err := wire.Each(message, func(f wire.Field) error {
		switch f.Number {
		case 1:
			return wire.Each(f.Bytes, d.Metadata.read)
		case 2:
			return wire.Each(f.Bytes, d.Spec.read)
		}
		return nil
	})
	if err == nil && d.Metadata.UID == "" {
		err = errors.New("it has no UID")
	}
	if err != nil {
		return rules.Pod{UID: d.Metadata.UID, Namespace: d.Metadata.Namespace, Name: d.Metadata.Name}, fmt.Errorf("pod in protobuf: %w", err)
	}
	return d.pod(), nil
}

func idOf(f wire.Field) (*id, error) {
	if f.Kind != protowire.VarintType || f.Varint > math.MaxInt32 {
		return nil, fmt.Errorf("field %d: %d is not a user or group id (0 to 2147483647)", f.Number, int64(f.Varint))
	}
	n := id(f.Varint)
	return &n, nil
}

func (m *metadata) read(f wire.Field) error {
	switch f.Number {
	case 1:
		m.Name = f.Text()
	case 3:
		m.Namespace = f.Text()
	case 5:
		m.UID = f.Text()
	}
	return nil
}

func (s *spec) read(f wire.Field) error {
	var list *[]container
	switch f.Number {
	case 2:
		list = &s.Containers
	case 11:
		s.HostNetwork = f.Yes()
	case 12:
		s.HostPID = f.Yes()
	case 14:
		return wire.Each(f.Bytes, s.SecurityContext.read)
	case 20:
		list = &s.InitContainers
	case 29:
		s.RuntimeClass = f.Text()
	case 34: // what it has in common with others is a message in its own
		return wire.Each(f.Bytes, func(common wire.Field) error {
			if common.Number != 1 {
				return nil
			}
			return s.add(&s.Ephemeral, common.Bytes)
		})
	}
	if list == nil {
		return nil
	}
	return s.add(list, f.Bytes)
}

func (s *spec) add(list *[]container, message []byte) error {
	if len(s.InitContainers)+len(s.Containers)+len(s.Ephemeral) >= mostContainers {
		return fmt.Errorf("more than %d containers", mostContainers)
	}
	var c container
	if err := wire.Each(message, func(f wire.Field) error { return c.read(f, &s.words) }); err != nil {
		return err
	}
	*list = append(*list, c)
	return nil
}

// read reads a field of a container of a pod whose words are these.
func (c *container) read(f wire.Field, of *budget) error {
	switch f.Number {
	case 1:
		c.Name = f.Text()
	case 2:
		c.Image = f.Text()
	case 3, 4:
		if n := len(f.Bytes); c.long || !c.arguments.spend(n, mostTold) || !of.spend(headerOfWord+n, mostWords) {
			c.long = true
		}
		if c.long {
			c.Command, c.Args = nil, nil
		} else if f.Number == 3 {
			c.Command = append(c.Command, f.Text())
		} else {
			c.Args = append(c.Args, f.Text())
		}
	case 7:
		return c.variable(f.Bytes, of)
	case 15:
		return wire.Each(f.Bytes, c.SecurityContext.read)
	case 19:
		c.hidden = true
	case 24:
		c.RestartPolicy = f.Text()
	}
	return nil
}

// variable reads one of the environment, whose letters its message has, and no more.
func (c *container) variable(message []byte, of *budget) error {
	if n := len(message); c.hidden || !c.environment.spend(n, mostTold) || !of.spend(headerOfVariable+n, mostWords) {
		c.hidden, c.Env = true, nil
		return nil
	}
	var v variable
	if err := wire.Each(message, v.read); err != nil {
		return err
	}
	c.Env = append(c.Env, v)
	return nil
}

func (v *variable) read(f wire.Field) error {
	switch f.Number {
	case 1:
		v.Name = f.Text()
	case 2:
		v.Value = f.Text()
	case 3:
		v.ValueFrom = &valueFrom{}
		return wire.Each(f.Bytes, func(source wire.Field) error {
			if source.Number != 1 {
				return nil
			}
			v.ValueFrom.FieldRef = &fieldRef{}
			return wire.Each(source.Bytes, func(f wire.Field) error {
				if f.Number == 2 {
					v.ValueFrom.FieldRef.FieldPath = f.Text()
				}
				return nil
			})
		})
	}
	return nil
}

func (s *securityContext) read(f wire.Field) (err error) {
	switch f.Number {
	case 1:
		return wire.Each(f.Bytes, func(f wire.Field) error {
			switch f.Number {
			case 1:
				s.Capabilities.Add = noting(s.Capabilities.Add, f)
			case 2:
				s.Capabilities.Drop = noting(s.Capabilities.Drop, f)
			}
			return nil
		})
	case 2:
		s.Privileged = f.Yes()
	case 4:
		s.RunAsUser, err = idOf(f)
	case 8:
		s.RunAsGroup, err = idOf(f)
	}
	return err
}

// noting adds a capability to a list, once, if it matters here.
func noting(list []string, f wire.Field) []string {
	const longest = len("CAP_NET_ADMIN")
	if len(f.Bytes) > longest {
		return list
	}
	name := capability(f.Text())
	if slices.Contains(list, name) || !slices.Contains([]string{"ALL", "NET_ADMIN", "NET_RAW"}, name) {
		return list
	}
	return append(list, name)
}

func (p *podSecurity) read(f wire.Field) (err error) {
	switch f.Number {
	case 2:
		p.RunAsUser, err = idOf(f)
	case 4:
		var group *id
		if group, err = idOf(f); err == nil && len(p.SupplementalGroups) < mostGroups {
			p.SupplementalGroups = append(p.SupplementalGroups, *group)
		}
	case 5:
		p.FSGroup, err = idOf(f)
	case 6:
		p.RunAsGroup, err = idOf(f)
	}
	return err
}
