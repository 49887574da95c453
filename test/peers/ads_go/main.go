// A grpc-go and go-control-plane client of our ADS server. Starts the server given as first argument, tells it over its
// stdin what to publish, and prints TAP.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sort"
	"strings"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	status "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	grpcstatus "google.golang.org/grpc/status"
)

const (
	address       = "type.googleapis.com/istio.workload.Address"
	authorization = "type.googleapis.com/istio.security.Authorization"
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

type stream struct {
	s    discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesClient
	last *discovery.DeltaDiscoveryResponse
}

func open(ctx context.Context, c *grpc.ClientConn) *stream {
	s, err := discovery.NewAggregatedDiscoveryServiceClient(c).DeltaAggregatedResources(ctx)
	must(err)
	return &stream{s: s}
}

func (s *stream) send(r *discovery.DeltaDiscoveryRequest) { must(s.s.Send(r)) }

func (s *stream) recv() *discovery.DeltaDiscoveryResponse {
	r, err := s.s.Recv()
	must(err)
	s.last = r
	return r
}

func (s *stream) answer(why string) {
	r := &discovery.DeltaDiscoveryRequest{TypeUrl: s.last.TypeUrl, ResponseNonce: s.last.Nonce}
	if why != "" {
		r.ErrorDetail = &status.Status{Message: why}
	}
	s.send(r)
}

func names(r *discovery.DeltaDiscoveryResponse) string {
	var v []string
	for _, x := range r.Resources {
		v = append(v, x.Name)
	}
	sort.Strings(v)
	return strings.Join(v, ",") + "-" + strings.Join(r.RemovedResources, ",")
}

func versions(r *discovery.DeltaDiscoveryResponse, into map[string]string) {
	for _, x := range r.Resources {
		into[x.Name] = x.Version
	}
}

// all reads until the state is complete, acking each response.
func (s *stream) all(into map[string]string) (responses int) {
	for {
		r := s.recv()
		versions(r, into)
		responses++
		s.answer("")
		if !strings.HasSuffix(r.SystemVersionInfo, "+") {
			return
		}
	}
}

func main() {
	socket := os.Args[2]
	server := exec.Command(os.Args[1], socket)
	server.Stderr = os.Stderr
	in, err := server.StdinPipe()
	must(err)
	out, err := server.StdoutPipe()
	must(err)
	must(server.Start())
	line := func() string {
		var b [1]byte
		var s []byte
		for {
			if _, err := out.Read(b[:]); err != nil || b[0] == '\n' {
				return string(s)
			}
			s = append(s, b[0])
		}
	}
	tell := func(s string) { _, err := io.WriteString(in, s+"\n"); must(err) }
	if l := line(); l != "ready" {
		must(fmt.Errorf("server said %q", l))
	}
	tell("put ns/a a")
	tell("put ns/b b")
	tell("sync")
	line()

	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(200<<20)))
	must(err)
	node := &core.Node{Id: "go~client"}
	held := map[string]string{}

	s := open(ctx, conn)
	s.send(&discovery.DeltaDiscoveryRequest{Node: node, TypeUrl: address})
	r := s.recv()
	versions(r, held)
	check("wildcard gives both resources", names(r) == "ns/a,ns/b-", names(r))
	check("resources carry the type", r.Resources[0].Resource.TypeUrl == address, r.Resources[0])
	s.answer("")
	s.send(&discovery.DeltaDiscoveryRequest{TypeUrl: authorization})
	r = s.recv()
	check("an empty type is answered", r.TypeUrl == authorization && names(r) == "-", r)
	s.answer("")

	tell("put ns/a a2")
	r = s.recv()
	check("a change sends what changed", names(r) == "ns/a-" && r.Resources[0].Version != held["ns/a"], r)
	versions(r, held)
	s.answer("ns/a: not to my taste")
	check("the server is told why", line() == "nack go~client address ns/a: not to my taste", "")
	tell("del ns/b")
	r = s.recv()
	check("a removal is told", names(r) == "-ns/b", names(r))
	s.answer("")
	must(s.s.CloseSend())
	_, err = s.s.Recv()
	check("the server ends with OK", err == io.EOF, err)

	tell("put ns/c c")
	tell("sync")
	line()
	s = open(ctx, conn)
	s.send(&discovery.DeltaDiscoveryRequest{Node: node, TypeUrl: address, InitialResourceVersions: held})
	r = s.recv()
	check("known versions are not sent again, the rest and removals are", names(r) == "ns/c-ns/b", names(r))
	s.answer("")
	s = open(ctx, conn)
	s.send(&discovery.DeltaDiscoveryRequest{Node: node, TypeUrl: address,
		ResourceNamesSubscribe: []string{"ns/c", "ns/none"}})
	r = s.recv()
	check("by name: found and not found", names(r) == "ns/c-ns/none", names(r))
	s.answer("")

	tell("many 20000 500")
	tell("sync")
	line()
	s = open(ctx, conn)
	s.send(&discovery.DeltaDiscoveryRequest{Node: node, TypeUrl: address})
	held = map[string]string{}
	n := s.all(held)
	check("20,000 resources come in several responses", len(held) == 20002 && n >= 3, fmt.Sprint(len(held), n))

	s = open(ctx, conn)
	s.send(&discovery.DeltaDiscoveryRequest{TypeUrl: address})
	_, err = s.s.Recv()
	check("no node is INVALID_ARGUMENT", grpcstatus.Code(err) == codes.InvalidArgument, err)
	sotw, err := discovery.NewAggregatedDiscoveryServiceClient(conn).StreamAggregatedResources(ctx)
	must(err)
	must(sotw.Send(&discovery.DiscoveryRequest{Node: node, TypeUrl: address}))
	w, err := sotw.Recv()
	must(err)
	var inner discovery.Resource
	check("state of the world: what has no name of its own is wrapped",
		w.Resources[0].UnmarshalTo(&inner) == nil && inner.Name != "" && inner.Resource.TypeUrl == address, w.Resources[0])
	err = conn.Invoke(ctx, "/x.Y/Z", &discovery.DiscoveryRequest{}, &discovery.DiscoveryResponse{})
	check("another method is UNIMPLEMENTED", grpcstatus.Code(err) == codes.Unimplemented, err)

	must(conn.Close())
	must(in.Close())
	check("the server leaves when its input ends", server.Wait() == nil, "")
	fmt.Printf("1..%d\n", points)
	if failed > 0 {
		os.Exit(1)
	}
}
