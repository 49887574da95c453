// An authorization service on grpc-go: answers what the header x-authz of the request asks for, a word or a CheckResponse in JSON, and prints
// what it was told.
// authz_go: listens on a free port of loopback and prints it; one JSON line for each Check.
package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	rpc "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

type server struct {
	authv3.UnimplementedAuthorizationServer
	mu sync.Mutex
}

func option(k, v string, action corev3.HeaderValueOption_HeaderAppendAction) *corev3.HeaderValueOption {
	return &corev3.HeaderValueOption{Header: &corev3.HeaderValue{Key: k, Value: v}, AppendAction: action}
}

func old(k, v string, app bool) *corev3.HeaderValueOption {
	return &corev3.HeaderValueOption{Header: &corev3.HeaderValue{Key: k, Value: v}, Append: wrapperspb.Bool(app)}
}

func (s *server) Check(ctx context.Context, r *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	line, _ := protojson.Marshal(r)
	s.mu.Lock()
	fmt.Println(strings.ReplaceAll(string(line), "\n", " "))
	s.mu.Unlock()
	h := r.GetAttributes().GetRequest().GetHttp().GetHeaders()
	if h == nil {
		h = map[string]string{}
	}
	for _, v := range r.GetAttributes().GetRequest().GetHttp().GetHeaderMap().GetHeaders() {
		h[v.GetKey()] = string(v.GetRawValue())
	}
	if strings.HasPrefix(h["x-authz"], "{") {
		answer := &authv3.CheckResponse{}
		if err := protojson.Unmarshal([]byte(h["x-authz"]), answer); err != nil {
			return nil, status.Error(codes.InvalidArgument, err.Error())
		}
		return answer, nil
	}
	ok := &rpc.Status{Code: int32(codes.OK)}
	no := &rpc.Status{Code: int32(codes.PermissionDenied)}
	meta, _ := structpb.NewStruct(map[string]any{"who": "tester", "n": 7})
	switch h["x-authz"] {
	case "ok":
		return &authv3.CheckResponse{Status: ok}, nil
	case "change":
		return &authv3.CheckResponse{Status: ok, DynamicMetadata: meta, HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{
			Headers: []*corev3.HeaderValueOption{
				option("x-default", "d", corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD),
				option("x-set", "new", corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD),
				option("x-absent", "a", corev3.HeaderValueOption_ADD_IF_ABSENT),
				option("x-there", "never", corev3.HeaderValueOption_ADD_IF_ABSENT),
				option("x-exists", "over", corev3.HeaderValueOption_OVERWRITE_IF_EXISTS),
				option("x-not-there", "never", corev3.HeaderValueOption_OVERWRITE_IF_EXISTS),
				old("x-append", "b", true), old("x-append-none", "b", true), old("x-old-set", "s", false)},
			HeadersToRemove: []string{"x-gone", ":path", "host"},
			ResponseHeadersToAdd: []*corev3.HeaderValueOption{
				option("x-resp", "r", corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD),
				option("x-up1", "add", corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD),
				option("x-up2", "absent", corev3.HeaderValueOption_ADD_IF_ABSENT), option("x-r2", "absent", corev3.HeaderValueOption_ADD_IF_ABSENT),
				option("x-up3", "exists", corev3.HeaderValueOption_OVERWRITE_IF_EXISTS), option("x-r3", "exists", corev3.HeaderValueOption_OVERWRITE_IF_EXISTS),
				option("x-up4", "set", corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD),
				old("x-up5", "b", true), old("x-r5", "b", true), old("x-up6", "b", false)},
			QueryParametersToSet:    []*corev3.QueryParameter{{Key: "a", Value: "1"}},
			QueryParametersToRemove: []string{"gone"}}}}, nil
	case "denied":
		return &authv3.CheckResponse{Status: no, HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{
			Status: &typev3.HttpStatus{Code: typev3.StatusCode_PaymentRequired}, Body: "pay first",
			Headers: []*corev3.HeaderValueOption{option("x-why", "money", corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD)}}}}, nil
	case "bare":
		return &authv3.CheckResponse{Status: no}, nil
	case "broken":
		return nil, status.Error(codes.Internal, "broken")
	case "slow":
		time.Sleep(2 * time.Second)
		return &authv3.CheckResponse{Status: ok}, nil
	}
	return &authv3.CheckResponse{Status: no}, nil
}

func main() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(l.Addr().(*net.TCPAddr).Port)
	s := grpc.NewServer()
	authv3.RegisterAuthorizationServer(s, &server{})
	if err := s.Serve(l); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
