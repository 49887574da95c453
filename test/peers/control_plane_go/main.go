// The real go-control-plane server against our client: starts the server in each mode, starts the client given as first
// argument on it, tells it over its stdin what to watch, and prints TAP.
package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tls "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	clusters "github.com/envoyproxy/go-control-plane/envoy/service/cluster/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	endpoints "github.com/envoyproxy/go-control-plane/envoy/service/endpoint/v3"
	listeners "github.com/envoyproxy/go-control-plane/envoy/service/listener/v3"
	routes "github.com/envoyproxy/go-control-plane/envoy/service/route/v3"
	secrets "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
)

const (
	node = "watcher"
	wait = 20 * time.Second
)

var points, failed int

func check(what string, ok bool, detail any) {
	points++
	if ok {
		fmt.Printf("ok %d - %s\n", points, what)
		return
	}
	failed++
	fmt.Printf("not ok %d - %s\n# got %v\n", points, what, detail)
}

func must(err error) {
	if err != nil {
		fmt.Printf("Bail out! %v\n", err)
		os.Exit(1)
	}
}

// What clients said that refuses.
type heard struct {
	mu     sync.Mutex
	nacks  []string
	nodes  map[string]bool
	agents map[string]bool
}

func (h *heard) note(n *core.Node, nack string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if n != nil {
		h.nodes[n.Id] = true
		h.agents[n.UserAgentName] = true
	}
	if nack != "" {
		h.nacks = append(h.nacks, nack)
	}
}

func (h *heard) nack() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.nacks) == 0 {
		return ""
	}
	return h.nacks[len(h.nacks)-1]
}

func (h *heard) callbacks() server.CallbackFuncs {
	return server.CallbackFuncs{
		StreamRequestFunc: func(_ int64, r *discovery.DiscoveryRequest) error {
			h.note(r.Node, r.GetErrorDetail().GetMessage())
			return nil
		},
		StreamDeltaRequestFunc: func(_ int64, r *discovery.DeltaDiscoveryRequest) error {
			h.note(r.Node, r.GetErrorDetail().GetMessage())
			return nil
		},
	}
}

type control struct {
	cache  cache.SnapshotCache
	srv    server.Server
	grpc   *grpc.Server
	addr   string
	heard  heard
	cancel context.CancelFunc
}

func (c *control) listen() {
	l, err := net.Listen("tcp", c.addr)
	must(err)
	c.addr = l.Addr().String()
	c.grpc = grpc.NewServer()
	discovery.RegisterAggregatedDiscoveryServiceServer(c.grpc, c.srv)
	clusters.RegisterClusterDiscoveryServiceServer(c.grpc, c.srv)
	endpoints.RegisterEndpointDiscoveryServiceServer(c.grpc, c.srv)
	listeners.RegisterListenerDiscoveryServiceServer(c.grpc, c.srv)
	routes.RegisterRouteDiscoveryServiceServer(c.grpc, c.srv)
	secrets.RegisterSecretDiscoveryServiceServer(c.grpc, c.srv)
	go c.grpc.Serve(l)
}

func start(ads bool) *control {
	c := &control{addr: "127.0.0.1:0", heard: heard{nodes: map[string]bool{}, agents: map[string]bool{}}}
	ctx, cancel := context.WithCancel(context.Background())
	c.cancel = cancel
	c.cache = cache.NewSnapshotCache(ads, cache.IDHash{}, nil)
	c.srv = server.NewServer(ctx, c.cache, c.heard.callbacks())
	c.listen()
	return c
}

func (c *control) stop() { c.grpc.Stop(); c.cancel() }

// n clusters by EDS, their endpoints with priority, a listener, a route of n virtual hosts, a secret.
func (c *control) publish(version string, n int, weight uint32, names ...string) {
	var cs, es, vs []types.Resource
	for i := 0; i < n; i++ {
		names = append(names, fmt.Sprintf("c%d", i))
	}
	rc := &route.RouteConfiguration{Name: "r"}
	for _, name := range names {
		cs = append(cs, &cluster.Cluster{Name: name,
			ClusterDiscoveryType: &cluster.Cluster_Type{Type: cluster.Cluster_EDS},
			EdsClusterConfig: &cluster.Cluster_EdsClusterConfig{EdsConfig: &core.ConfigSource{
				ConfigSourceSpecifier: &core.ConfigSource_Ads{Ads: &core.AggregatedConfigSource{}}}}})
		es = append(es, &endpoint.ClusterLoadAssignment{ClusterName: name,
			Endpoints: []*endpoint.LocalityLbEndpoints{{Priority: 0, LbEndpoints: []*endpoint.LbEndpoint{{
				HostIdentifier: &endpoint.LbEndpoint_Endpoint{Endpoint: &endpoint.Endpoint{Address: &core.Address{
					Address: &core.Address_SocketAddress{SocketAddress: &core.SocketAddress{Address: "10.0.0.1",
						PortSpecifier: &core.SocketAddress_PortValue{PortValue: 8000 + weight}}}}}}}}}}})
		rc.VirtualHosts = append(rc.VirtualHosts, &route.VirtualHost{Name: name, Domains: []string{name}})
	}
	vs = append(vs, rc)
	s, err := cache.NewSnapshot(version, map[resource.Type][]types.Resource{
		resource.ClusterType:  cs,
		resource.EndpointType: es,
		resource.RouteType:    vs,
		resource.ListenerType: {&listener.Listener{Name: "l"}},
		resource.SecretType: {&tls.Secret{Name: "s", Type: &tls.Secret_GenericSecret{GenericSecret: &tls.GenericSecret{
			Secret: &core.DataSource{Specifier: &core.DataSource_InlineString{InlineString: "x"}}}}}},
	})
	must(err)
	must(c.cache.SetSnapshot(context.Background(), node, s))
}

type client struct {
	in    io.WriteCloser
	cmd   *exec.Cmd
	lines chan string
	seen  []string
}

func watch(program, addr, mode string) *client {
	c := &client{cmd: exec.Command(program, addr, mode), lines: make(chan string, 200000)}
	c.cmd.Stderr = os.Stderr
	in, err := c.cmd.StdinPipe()
	must(err)
	out, err := c.cmd.StdoutPipe()
	must(err)
	must(c.cmd.Start())
	c.in = in
	go func() {
		s := bufio.NewScanner(out)
		for s.Scan() {
			c.lines <- s.Text()
		}
		close(c.lines)
	}()
	return c
}

func (c *client) tell(s string) { _, err := io.WriteString(c.in, s+"\n"); must(err) }

// until reads to a line that begins so; false when none comes.
func (c *client) until(begin string) (string, bool) {
	c.seen = nil
	t := time.After(wait)
	for {
		select {
		case l, ok := <-c.lines:
			if !ok {
				return "the client ended", false
			}
			c.seen = append(c.seen, l)
			if strings.HasPrefix(l, begin) {
				return l, true
			}
		case <-t:
			return "nothing in time; " + strings.Join(c.seen[max(0, len(c.seen)-20):], " / "), false
		}
	}
}

func (c *client) expect(what, begin string) string {
	l, ok := c.until(begin)
	check(what, ok, l)
	return l
}

func (c *client) count(begin string) (n int) {
	for _, l := range c.seen {
		if strings.HasPrefix(l, begin) {
			n++
		}
	}
	return
}

func (c *client) end() {
	c.in.Close()
	check("the client leaves in order", c.cmd.Wait() == nil, c.cmd.ProcessState)
}

func scenario(program, mode string) {
	s := start(strings.HasPrefix(mode, "ads"))
	defer s.stop()
	say := func(t string) string { return mode + ": " + t }
	s.publish("v1", 3, 1, "bad")
	c := watch(program, s.addr, mode)
	c.expect(say("starts"), "ready")
	c.tell("follow")
	c.tell("watch cluster")
	c.tell("watch listener")
	c.tell("watch route r")
	c.tell("watch tls_secret s")
	got := map[string]bool{}
	for _, want := range []string{"complete cluster *", "complete endpoint c0", "complete endpoint c2",
		"complete endpoint bad", "complete listener *", "complete route r", "complete tls_secret s"} {
		got[want] = false
	}
	deadline := time.After(wait)
	for missing := len(got); missing > 0; {
		select {
		case l := <-c.lines:
			if done, ok := got[l]; ok && !done {
				got[l] = true
				missing--
			}
		case <-deadline:
			missing = 0
		}
	}
	all := true
	for _, v := range got {
		all = all && v
	}
	check(say("clusters, endpoints, a listener, routes and a secret"), all, got)
	s.heard.mu.Lock()
	check(say("the node is told"), s.heard.nodes[node] && s.heard.agents["weft"], s.heard.nodes)
	s.heard.mu.Unlock()

	s.publish("v2", 3, 2, "bad")
	c.expect(say("a changed endpoint comes"), "up endpoint c1")
	check(say("clusters that did not change do not"), c.count("up cluster") == 0, c.seen)
	s.publish("v3", 4, 2, "bad")
	c.expect(say("a new cluster comes"), "up cluster c3")
	c.expect(say("and its endpoints"), "complete endpoint c3")
	s.publish("v4", 2, 2, "bad")
	l := c.expect(say("a removed cluster goes"), "gone cluster c")
	check(say("... and only those that were removed"), l == "gone cluster c2" || l == "gone cluster c3", l)

	c.tell("refuse bad")
	c.tell("count")
	c.until("counted")
	s.publish("v5", 2, 3, "bad")
	c.expect(say("a resource is refused"), "refused endpoint bad")
	for i := 0; i < 200 && s.heard.nack() == ""; i++ {
		time.Sleep(10 * time.Millisecond)
	}
	check(say("the server has the reason"), strings.Contains(s.heard.nack(), "bad: must not be"), s.heard.nack())
	c.tell("stat endpoint bad")
	c.expect(say("... and it is counted"), "stat attempt=")
	// state of the world: the server sends what was refused again and again
	var attempt, success, failure, rejected int
	l = c.seen[len(c.seen)-1]
	fmt.Sscanf(l, "stat attempt=%d success=%d failure=%d rejected=%d", &attempt, &success, &failure, &rejected)
	check(say("... without a storm"), rejected >= 1 && rejected < 10, l)
	c.tell("accept")
	c.tell("count") // so that accept was read
	c.until("counted")
	s.publish("v6", 2, 4, "bad")
	c.expect(say("mended, it is taken"), "up endpoint bad")

	s.grpc.Stop()
	c.expect(say("the loss is noticed"), "lost")
	s.publish("v7", 3, 4, "bad")
	s.listen()
	c.expect(say("back again: what is new comes"), "up cluster c2")
	c.tell("stat cluster")
	l = c.expect(say("... with its counters"), "stat attempt=")
	check(say("... connected"), strings.Contains(l, "connected=1"), l)
	c.end()
}

func many(program, mode string, n int) {
	s := start(true)
	defer s.stop()
	s.publish("v1", n, 1)
	c := watch(program, s.addr, mode)
	c.until("ready")
	began := time.Now()
	c.tell("quiet\nfollow\nwatch cluster\nwatch route r")
	last := ""
	ok := false
	for !ok && time.Since(began) < wait {
		c.tell("count")
		c.until("counted")
		ok = c.count(fmt.Sprintf("count endpoint up=%d", n)) == 1 && c.count("count route up=1") == 1
		last = strings.Join(c.seen, " / ")
		time.Sleep(5 * time.Millisecond)
	}
	check(fmt.Sprintf("%s: %d clusters, their endpoints and routes", mode, n), ok, last)
	fmt.Printf("# %s\n", last)
	s.publish("v2", n, 1, "one-more")
	ok = false
	for began = time.Now(); !ok && time.Since(began) < wait; time.Sleep(5 * time.Millisecond) {
		c.tell("count")
		c.until("counted")
		ok = c.count(fmt.Sprintf("count endpoint up=%d", n+1)) == 1
		last = strings.Join(c.seen, " / ")
	}
	check(fmt.Sprintf("%s: one more of them", mode), ok && strings.Contains(last, fmt.Sprintf("count cluster up=%d", n+1)), last)
	c.end()
}

func main() {
	for _, mode := range []string{"ads-sotw", "ads-delta", "sotw", "delta"} {
		scenario(os.Args[1], mode)
	}
	for _, mode := range []string{"ads-sotw", "ads-delta"} {
		many(os.Args[1], mode, 10000)
	}
	fmt.Printf("1..%d\n", points)
	if failed > 0 {
		os.Exit(1)
	}
}
