// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/integration/nstest"
	"github.com/meshnetd/meshnetd/internal/sample"
	"github.com/meshnetd/meshnetd/rules"
)

const (
	client = "10.200.0.1"
	server = "10.1.2.3"
)

// port80 is where the tests of this file connect to.
var port80 = shot{unix.SOCK_STREAM, netip.MustParseAddrPort(client + ":50000"), netip.MustParseAddrPort(server + ":80"), 0}

// listen returns a socket that listens until the test ends.
func (s sandbox) listen(t testing.TB, at string, transparent int) (fd int) {
	t.Helper()
	err := s.ns.Do(func() (err error) {
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return errors.Join(unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_TRANSPARENT, transparent),
			unix.Bind(fd, socketAddress(netip.MustParseAddrPort(at))), unix.Listen(fd, 8))
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

// accepted returns where the next connection of a listener was made to; "" is none.
func accepted(t testing.TB, listener int) string {
	t.Helper()
	fd, _, err := unix.Accept(listener)
	if errors.Is(err, unix.EAGAIN) {
		return ""
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	in := name.(*unix.SockaddrInet4)
	return netip.AddrPortFrom(netip.AddrFrom4(in.Addr), uint16(in.Port)).String()
}

// What TPROXY finds no listener for is lost, in both dialects: it must not go on to the app without the proxy.
func TestTProxyWithoutListener(t *testing.T) {
	for _, dialect := range []Dialect{IPTables, Native} {
		for name, tt := range map[string]struct {
			rule       rules.Target
			listens    string
			app, proxy string // what they get
		}{
			"no rule":                  {rules.Return, "127.0.0.9:9", server + ":80", ""},
			"nobody":                   {rules.TProxy{Port: 15006, Addr: netip.IPv4Unspecified(), Mark: 7}, "127.0.0.9:9", "", ""},
			"proxy":                    {rules.TProxy{Port: 15006, Addr: netip.IPv4Unspecified(), Mark: 7}, "0.0.0.0:15006", "", server + ":80"},
			"proxy at an address":      {rules.TProxy{Port: 15006, Addr: netip.MustParseAddr("127.0.0.1"), Mark: 7}, "127.0.0.1:15006", "", server + ":80"},
			"proxy at another address": {rules.TProxy{Port: 15006, Addr: netip.MustParseAddr("127.0.0.2"), Mark: 7}, "127.0.0.1:15006", "", ""},
		} {
			t.Run(fmt.Sprint(dialect, " ", name), func(t *testing.T) {
				s := newSandbox(t)
				s.own(t, client, server)
				app, proxy := s.listen(t, server+":80", 0), s.listen(t, tt.listens, 1)
				var b rules.Builder
				b.Append("mangle", "PREROUTING", "", tt.rule, rules.Protocol(rules.TCP), rules.DestinationPort(rules.TCP, 80))
				s.apply(t, dialect, rules.Plan{V4: b.Ruleset(rules.IPv4)})
				var got [2]string
				err := s.sendAnd(port80, func(int) error { // nothing waits on the way through lo
					got = [2]string{accepted(t, app), accepted(t, proxy)}
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
				if want := [2]string{tt.app, tt.proxy}; got != want {
					t.Errorf("app and proxy get %q, want %q", got, want)
				}
			})
		}
	}
}

func (s sandbox) apply(t testing.TB, dialect Dialect, plan rules.Plan) {
	t.Helper()
	if _, err := New(dialect).Apply(t.Context(), s.ns, plan); err != nil {
		t.Fatal(err)
	}
}

// A reset of the kernel's own has no owner: "not of user 0" is true of it, and "of user 0" is not, whatever else
// the rule asks for and wherever it stands.
func TestPacketsWithoutOwner(t *testing.T) {
	uid := func(id uint32, not bool) rules.Match { return rules.NotIf(not, rules.OwnerUID(id)) }
	gid := func(id uint32, not bool) rules.Match { return rules.NotIf(not, rules.OwnerGID(id)) }
	tcp := rules.Protocol(rules.TCP)
	for _, dialect := range []Dialect{IPTables, Native} {
		cases := map[string]struct {
			match         []rules.Match
			opened, reset bool // whether the rule matches the packet of root that opens the connection, and the reset
		}{
			"anybody":                 {[]rules.Match{tcp}, true, true},
			"user":                    {[]rules.Match{uid(0, false)}, true, false},
			"other user":              {[]rules.Match{uid(1, false)}, false, false},
			"not user":                {[]rules.Match{uid(0, true)}, false, true},
			"not other user":          {[]rules.Match{uid(1, true)}, true, true},
			"not group":               {[]rules.Match{gid(0, true)}, false, true},
			"not groups":              {[]rules.Match{gid(1, true), gid(2, true)}, true, true},
			"not groups, one of ours": {[]rules.Match{gid(1, true), gid(0, true)}, false, true},
			"neither":                 {[]rules.Match{tcp, uid(0, true), gid(1, true)}, false, true},
			"neither other":           {[]rules.Match{uid(1, true), gid(1, true)}, true, true},
			"user but not group":      {[]rules.Match{uid(0, false), gid(1, true)}, true, false},
			"elsewhere":               {[]rules.Match{rules.OutInterface("eth0"), uid(1, true)}, false, false},
		}
		for _, name := range sample.Of(t, 4, slices.Sorted(maps.Keys(cases))) {
			tt := cases[name]
			for _, last := range []bool{true, false} { // whether other rules follow
				t.Run(fmt.Sprint(dialect, " ", name, " ", last), func(t *testing.T) {
					s := newSandbox(t)
					s.own(t, client, server)
					s.RunInput(t, watch, "nft", "-f", "-")
					var b rules.Builder
					b.Append("mangle", "OUTPUT", "", rules.Jump("OWN"))
					b.Append("mangle", "OUTPUT", "", rules.SetMark(2), rules.PacketMark(1)) // comes back from there
					b.Append("mangle", "OWN", "", rules.SetMark(1), tt.match...)
					if !last {
						b.Append("mangle", "OWN", "", rules.Return, tcp)
					}
					s.apply(t, dialect, rules.Plan{V4: b.Ruleset(rules.IPv4)})
					s.shoot(t, port80)
					mark := map[bool]string{true: "0x00000002", false: "0x00000000"}
					got := elementsOf(s.Run(t, "nft", "list", "table", "inet", "watch"))
					for _, want := range []string{"tcp . " + server + " . 80 . " + mark[tt.opened], "tcp . " + client + " . " + mark[tt.reset]} {
						if !strings.Contains(got, want) || strings.Count(got, "tcp . ") != 3 {
							t.Errorf("want %s, seen\n%s", want, got)
						}
					}
				})
			}
		}
	}
}

// newUserSandbox is a namespace that belongs to a user namespace of its own, whose user 0 is the 10000 of this one.
func newUserSandbox(t testing.TB) (s sandbox, pid int) {
	t.Helper()
	nstest.Require(t, "nft", "bash", "unshare")
	// As runtimes do, the network after the users: what the kernel makes in /proc for it is theirs only then.
	cmd := exec.Command("unshare", "--net", "sh", "-c", "echo; exec cat") // until its input ends
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 10000, Size: 50000}}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER, Credential: &syscall.Credential{}, UidMappings: ids, GidMappings: ids,
		GidMappingsEnableSetgroups: true}
	input, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	output, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = input.Close()
		_ = cmd.Wait()
	})
	if _, err := output.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	s.Namespace = &nstest.Namespace{Path: fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid)}
	s.Run(t, "ip", "link", "set", "lo", "up")
	if s.ns, err = netns.Open(s.Path, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.ns.Close)
	return s, cmd.Process.Pid
}

// A pod with its own user namespace gets the native table, whose numbers are those that the pod gives its users;
// iptables' owner match is refused there.
func TestNativeInAUserNamespace(t *testing.T) {
	s, pid := newUserSandbox(t)
	if !s.ns.OwnUsers() {
		t.Fatal("the namespace belongs to the host's users")
	}
	s.own(t, client, server)
	s.RunInput(t, watch, "nft", "-f", "-")
	var b rules.Builder
	tcp := rules.Protocol(rules.TCP)
	b.Append("nat", "OUTPUT", "", rules.Return, tcp, rules.OwnerUID(1337))
	b.Append("nat", "OUTPUT", "", rules.Return, tcp, rules.OwnerGID(1337))
	b.Append("nat", "OUTPUT", "", rules.Redirect{Port: 7}, tcp, rules.Not(rules.OwnerUID(5)))
	plan := rules.Plan{V4: b.Ruleset(rules.IPv4)}
	if _, err := New(IPTables).Apply(t.Context(), s.ns, plan); !errors.Is(err, unix.EINVAL) {
		t.Errorf("iptables' owner match: got %v, want it refused", err)
	}
	s.native(t, plan)
	s.holds(t, plan)
	for i, ids := range [][2]string{{"1337", "0"}, {"0", "1337"}, {"1000", "1000"}, {"5", "5"}} {
		connect := fmt.Sprintf("exec 3<>/dev/tcp/%s/%d", server, 80+i) // nobody listens
		cmd := exec.Command("nsenter", "--user", "--net", "--target", fmt.Sprint(pid), "--setuid", ids[0], "--setgid", ids[1], "bash", "-c", connect)
		if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "refused") {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	var ports []string
	for line := range strings.Lines(elementsOf(s.Run(t, "nft", "list", "table", "inet", "watch"))) {
		if words := strings.Fields(line); len(words) == 9 && words[0] == "tcp" {
			ports = append(ports, words[4])
		}
	}
	slices.Sort(ports)
	if want := []string{"7", "80", "81", "83"}; !slices.Equal(ports, want) {
		t.Errorf("connections go to ports %v, want %v", ports, want)
	}
}
